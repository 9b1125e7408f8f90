"""Tests of commands that take effect once, with the store in memory."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import pytest
from failing_commands import Unserialisable
from harness import app_with, dial, errors
from hypothesis import given
from hypothesis import strategies as st
from once_commands import Desk, Entry
from payloads import payloads
from pydantic import PlainSerializer
from serving import Serving

from websuckets import (
    AppTasks,
    Channels,
    ClientError,
    CommandGroup,
    CurrentUser,
    OnCommit,
    Payload,
    Socket,
    Token,
    User,
)
from websuckets.commands.once import _fingerprint
from websuckets.exc import InvalidHandlerSignature
from websuckets.middleware import CallNext, Outcome
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


async def test_a_resend_gets_the_first_reply_with_its_own_id(serving: Serving) -> None:
    """Expect one effect on every transport; the order of the payload's keys does not matter."""
    desk = Desk()
    async with serving(desk.app) as server, dial(server) as client:
        first, again = {"item": "tea", "count": 2}, {"count": 2, "item": "tea"}
        reply = {"event": "order", "payload": "2 tea"}
        assert await client.call("order", key="k", payload=first, id=1) == {**reply, "id": 1}
        async with client.another() as other:
            assert await other.call("order", key="k", payload=again, id="2") == {**reply, "id": "2"}
            assert await other.call("order", key="k", payload=again) == reply
    assert desk.ledger.entries == ["tea"]
    assert desk.ledger.opened == 1  # a resend builds nothing but guards


async def test_without_a_key_a_command_takes_effect_each_time() -> None:
    desk = Desk()
    async with TestClient(desk.app) as client:
        for _ in range(2):
            assert (await client.call("order", {"item": "tea"})).payload == "1 tea"
    assert desk.ledger.entries == ["tea", "tea"]


async def test_a_key_of_another_command_is_ignored() -> None:
    group = CommandGroup()
    runs = []

    @group.command("count")
    async def count(socket: Socket) -> int:
        runs.append(1)
        return len(runs)

    async with TestClient(app_with(group)) as client:
        assert (await client.call("count", key="k")).payload == 1
        assert (await client.call("count", key="k")).payload == 2


@pytest.mark.parametrize("command", ["order", "event"])
async def test_a_key_with_another_payload_or_command_is_refused(command: str) -> None:
    """Expect an error, no effect, and the first reply for the first message still."""
    desk = Desk()
    async with TestClient(desk.app) as client:
        first = await client.call("order", {"item": "tea"}, key="k")
        payload = {"item": "coffee"} if command == "order" else None
        with pytest.raises(CommandError, match="key reused"):
            await client.call(command, payload, key="k")
        again = await client.call("order", {"item": "tea"}, key="k")
        assert again.payload == first.payload
    assert desk.ledger.entries == ["tea"]


async def test_keys_of_two_users_are_two_keys() -> None:
    """Expect one effect for each user; tokens and connections do not matter."""
    desk = Desk()
    async with TestClient(desk.app) as ann, ann.connect() as bob, ann.connect() as again:
        for client, name in ((ann, "ann"), (bob, "bob"), (again, "ann")):
            client.token = (await client.call("log in", name)).payload
        assert (await ann.call("pay", key="k")).payload == "0"
        assert (await bob.call("pay", key="k")).payload == "1"
        assert (await again.call("pay", key="k")).payload == "0"
    assert desk.ledger.entries == ["ann pays", "bob pays"]


async def test_ids_of_users_of_two_types_are_two_owners() -> None:
    group = CommandGroup()
    runs: list[object] = []

    @group.command("be")
    async def be(socket: Socket, id: Payload[int | str], user: User) -> str:
        user.id, user.token = id, Token.generate()
        return user.token

    @group.command("run", protected=True, once=True)
    async def run(socket: Socket, user: CurrentUser) -> int:
        runs.append(user.id)
        return len(runs)

    async with TestClient(app_with(group)) as client:
        for id, count in ((1, 1), ("1", 2), (1, 1)):
            token = (await client.call("be", id)).payload
            assert (await client.call("run", key="k", token=token)).payload == count
    assert runs == [1, "1"]


async def test_who_is_not_authorised_any_more_does_not_get_the_reply() -> None:
    desk = Desk()
    async with TestClient(desk.app) as client:
        token = (await client.call("log in", "ann")).payload
        await client.call("pay", key="k", token=token)
        with pytest.raises(CommandError, match="not authorized"):
            await client.call("pay", key="k", token="another")


async def test_a_command_that_returns_nothing_is_acknowledged_each_time() -> None:
    """Expect no answer to messages without an id, the first or again."""
    desk = Desk()
    async with TestClient(desk.app) as client:
        await client.send("nothing", key="k")
        for _ in range(2):
            reply = await client.call("nothing", key="k")
            assert (reply.event, reply.payload) == ("nothing", None)
        await client.send("nothing", key="k")
        await client.call("order", {"item": "tea"})
        with pytest.raises(TimeoutError):
            await client.receive(timeout=0)
    assert desk.ledger.entries == ["nothing", "tea"]


async def test_an_event_that_was_returned_comes_again() -> None:
    desk = Desk()
    async with TestClient(desk.app) as client:
        first = await client.call("event", key="k")
        again = await client.call("event", key="k")
        assert (first.event, first.payload) == (again.event, again.payload)
        assert (first.event, first.payload) == ("eventful", {"entries": 0})
    assert desk.ledger.entries == ["event"]


async def test_a_result_of_none_is_written_as_the_annotation_says() -> None:
    """Expect the first reply and the kept one to be that of a command without ``once``."""
    group = CommandGroup()

    def write(value: str | None) -> str:
        return value or "nothing"

    @group.command("find", once=True)
    async def find(socket: Socket) -> Annotated[str | None, PlainSerializer(write)]:
        return None

    async with TestClient(app_with(group)) as client:
        for _ in range(2):
            assert (await client.call("find", key="k")).payload == "nothing"


@pytest.mark.parametrize("id", [None, 7, "an id"])
async def test_a_large_reply_comes_again_as_it_was(serving: Serving, id: Any) -> None:
    group = CommandGroup()
    text = "déjà vu " * 7000

    @group.command("large", once=True)
    async def large(socket: Socket) -> str:
        nonlocal text
        text, reply = "changed", text
        return reply

    async with serving(app_with(group)) as server, dial(server) as client:
        first = await client.call("large", key="k", id=id)
        assert await client.call("large", key="k", id=id) == first
    assert len(first["payload"]) == 56_000


@pytest.mark.parametrize(
    "error", [RuntimeError("a fault"), ClientError("refused"), BaseException("its own")]
)
async def test_a_command_that_failed_runs_again(error: BaseException) -> None:
    """Expect what the failed run has written to be rolled back, and its error not to be kept."""
    desk = Desk()
    desk.fails = [error]
    async with TestClient(desk.app) as client:
        with pytest.raises(CommandError):
            await client.call("order", {"item": "tea"}, key="k")
        for _ in range(2):
            assert (await client.call("order", {"item": "tea"}, key="k")).payload == "1 tea"
    assert desk.ledger.rolled_back == ["tea"]
    assert desk.ledger.entries == ["tea"]


async def test_an_invalid_payload_claims_nothing() -> None:
    desk = Desk()
    async with TestClient(desk.app) as client:
        for _ in range(2):
            with pytest.raises(CommandError, match="validation error"):
                await client.call("order", {"item": "tea", "count": 0}, key="k")
        with pytest.raises(CommandError, match="payload required"):
            await client.call("order", key="k")
        assert (await client.call("order", {"item": "tea"}, key="k")).payload == "1 tea"
    assert desk.ledger.entries == ["tea"]


async def test_a_reply_that_cannot_be_encoded_is_rolled_back() -> None:
    group = CommandGroup()

    @group.command("nonsense", once=True)
    async def nonsense(socket: Socket, entry: Entry) -> Any:
        entry.write("nonsense")
        return Unserialisable()

    desk = Desk()
    desk.app.include_command_group(group)
    async with TestClient(desk.app) as client:
        for _ in range(2):
            with pytest.raises(CommandError, match="internal error"):
                await client.call("nonsense", key="k")
    assert desk.ledger.entries == []
    assert desk.ledger.rolled_back == ["nonsense", "nonsense"]


async def test_a_default_stands_for_an_absent_payload() -> None:
    group = CommandGroup()

    @group.command("greet", once=True)
    async def greet(socket: Socket, name: Payload[str] = "world") -> str:
        return f"hello {name}"

    async with TestClient(app_with(group)) as client:
        assert (await client.call("greet", key="k")).payload == "hello world"
        assert (await client.call("greet", "ann", key="l")).payload == "hello ann"


# Handlers


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_handler_cannot_set_the_user_of_its_connection(
    key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident that says so, as a resend would not verify its own connection."""
    group = CommandGroup()

    @group.command("enter", once=True)
    async def enter(socket: Socket, user: User) -> None:
        user.id = "ann"

    async with TestClient(app_with(group)) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("enter", key=key)
    (record,) = errors(caplog)
    assert "'enter' is declared with once=True" in str(record.exc_info)


async def test_a_handler_cannot_subscribe_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    group = CommandGroup()

    @group.command("watch", once=True)
    async def watch(socket: Socket, channels: Channels) -> None:
        await channels.subscribe(socket, "news")

    async with TestClient(app_with(group)) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("watch", key="k")
    assert "subscribe a connection" in str(errors(caplog)[0].exc_info)


async def test_a_task_that_a_handler_started_may_set_a_user_afterwards() -> None:
    group = CommandGroup()
    ended, result = anyio.Event(), []

    @group.command("start", once=True)
    async def start(socket: Socket, user: User, tasks: AppTasks) -> str:
        async def later() -> None:
            await ended.wait()
            user.id = "ann"
            result.append(user.id)

        tasks.start_soon(later)
        return "started"

    async with TestClient(app_with(group)) as client:
        await client.call("start", key="k")
        ended.set()
        while not result:
            await anyio.sleep(0.001)


def test_a_stream_cannot_take_effect_once() -> None:
    group = CommandGroup()
    with pytest.raises(InvalidHandlerSignature, match="once=True: it is a stream"):

        @group.command("items", once=True)
        async def items(socket: Socket) -> AsyncIterator[int]:
            yield 1


async def test_effects_run_once() -> None:
    """Expect none for a run that failed, nor for a resend."""
    group = CommandGroup()
    effects: list[int] = []
    runs: list[int] = []

    @group.command("effect", once=True)
    async def effect(socket: Socket, on_commit: OnCommit) -> int:
        runs.append(1)
        on_commit(effects.append, len(runs))
        if len(runs) == 1:
            raise ClientError("refused")
        return len(runs)

    async with TestClient(app_with(group)) as client:
        with pytest.raises(CommandError, match="refused"):
            await client.call("effect", key="k")
        for _ in range(2):
            assert (await client.call("effect", key="k")).payload == 2
    assert effects == [2]


async def test_middleware_sees_a_resend_as_any_command() -> None:
    desk = Desk(middleware=[])
    seen: list[tuple[str, str | None]] = []

    async def watch(socket: Socket, message: Any, call_next: CallNext) -> Outcome:
        outcome = await call_next()
        seen.append((message.event, outcome.error))
        return outcome

    desk = Desk(middleware=[watch])
    async with TestClient(desk.app) as client:
        for item in ("tea", "tea"):
            await client.call("order", {"item": item}, key="k")
        with pytest.raises(CommandError):
            await client.call("order", {"item": "coffee"}, key="k")
    assert seen == [("order", None), ("order", None), ("order", "key reused")]


async def test_a_listing_says_which_commands_take_effect_once() -> None:
    commands = Desk().app.commands
    assert commands["order"].once
    assert not commands["log in"].once


# Fingerprints


@given(event=st.text(), payload=payloads)
def test_a_fingerprint_is_that_of_the_payload_and_not_of_its_text(event: str, payload: Any) -> None:
    """Expect it to be the same for parsed JSON, and for its text in another form."""
    frame = json.dumps({"payload": payload, "event": event, "token": "t"}, indent=1)
    parsed = None if payload is None else _fingerprint(event, "", payload)
    if payload is not None:
        assert _fingerprint(event, frame, None) == parsed
        assert len(parsed) == 32
        assert parsed != _fingerprint(event, "", [payload])
        assert parsed != _fingerprint(f"{event}.", "", payload)


def test_a_fingerprint_takes_any_number_that_a_payload_may_have() -> None:
    """Expect no error for integers that Python does not turn into text."""
    digits = "9" * 4000
    assert _fingerprint("e", f'{{"payload": {digits}}}', None)
