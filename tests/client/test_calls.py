"""Calls of the client: their types, their errors, their keys, and their end."""

import gc
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import pytest
from client_of import client_at, client_of, until
from harness import Gate, app_with, in_another_loop
from ports import free_port
from pydantic import BaseModel, Field, TypeAdapter
from timeouts import TIMEOUT

from websuckets import ClientError, CommandGroup, Limits, Message, Payload, Socket
from websuckets.client import (
    Client,
    ClientClosed,
    CommandError,
    ConnectionLost,
    QueueFull,
    UnexpectedReply,
)
from websuckets.client.calls import Call

pytestmark = pytest.mark.anyio


class User(BaseModel):
    nickname: str


class NicknameTaken(CommandError):
    @property
    def nickname(self) -> str:
        return str(self.details["nickname"])


group = CommandGroup()


@group.command("user create")
async def create(socket: Socket, user: User) -> User:
    if user.nickname == "ann":
        raise ClientError("nickname taken", {"nickname": "ann"})
    return user


@group.command("echo")
async def echo(socket: Socket, value: Payload[Any]) -> Any:
    return value


async def test_a_reply_has_the_type_that_the_call_asks_for() -> None:
    async with client_of(group) as client:
        user = await client.call("user create", User(nickname="bob"), result=User)
        assert user == User(nickname="bob")
        assert await client.call("echo", [1, "2"], result=list[int]) == [1, 2]
        assert await client.call("echo", 5, result=TypeAdapter(int | None)) == 5
        assert await client.call("echo", {"a": [None]}) == {"a": [None]}


async def test_a_client_without_a_heartbeat_sends_nothing_by_itself() -> None:
    async with client_of(group, heartbeat=None) as client:
        assert await client.call("echo", 1) == 1


async def test_a_reply_of_another_type_is_told_without_its_values() -> None:
    async with client_of(group) as client:
        with pytest.raises(UnexpectedReply) as caught:
            await client.call("echo", {"nickname": ["secret"]}, result=User)
    assert caught.value.event == "echo"
    assert caught.value.problems[0]["loc"] == ["nickname"]
    assert "nickname" in str(caught.value)
    assert "secret" not in str(caught.value) + repr(caught.value.problems)


async def test_errors_have_the_classes_that_their_names_are_given() -> None:
    async with client_of(group, errors={"nickname taken": NicknameTaken}) as client:
        with pytest.raises(NicknameTaken) as caught:
            await client.call("user create", {"nickname": "ann"})
        assert caught.value.nickname == "ann"
        with pytest.raises(CommandError) as other:
            await client.call("user delete")
        assert type(other.value) is CommandError
        assert (other.value.error, other.value.details) == ("unknown command", None)


async def test_a_payload_that_has_no_json_form_is_an_error_of_the_caller() -> None:
    async with client_of(group) as client:
        with pytest.raises(Exception, match="Unable to serialize"):
            await client.call("echo", object())
        assert await client.call("echo", 1) == 1


async def test_a_payload_is_the_same_one_whenever_it_is_sent() -> None:
    """A command that is sent again with its key may not have another payload."""
    port = free_port()
    payload, replies = [1], list[Any]()

    async with client_at(f"ws://127.0.0.1:{port}") as client:

        async def call() -> None:
            replies.append(await client.call("echo", payload))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await until(lambda: client.state == "waiting")
            payload.append(2)
            async with app_with(group).serve("127.0.0.1", port):
                await until(lambda: bool(replies))
    assert replies == [[1]]


async def test_several_calls_wait_at_once(gate: Gate) -> None:
    slow = CommandGroup()

    @slow.command("slow")
    async def slowly(socket: Socket, number: Payload[int]) -> int:
        await gate()
        return number

    app = app_with(slow, group, limits=Limits(concurrency=10))
    async with app.serve("127.0.0.1", 0) as server, client_at(server.urls[0]) as client:
        found: list[int] = []

        async def call(number: int) -> None:
            found.append(await client.call("slow", number))

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(call, number)
            await gate.reached.wait()
            assert await client.call("echo", "meanwhile") == "meanwhile"
            gate.opened.set()
    assert sorted(found) == [0, 1, 2, 3, 4]


async def test_the_reply_to_a_call_that_was_cancelled_is_ignored(gate: Gate) -> None:
    slow = CommandGroup()

    @slow.command("slow")
    async def slowly(socket: Socket) -> str:
        await gate()
        return "late"

    async with client_of(slow) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, "slow")
            await gate.reached.wait()
            tasks.cancel_scope.cancel()
        gate.opened.set()
        assert await client.call("slow") == "late"


async def test_a_call_that_was_cancelled_in_the_queue_is_not_sent() -> None:
    seen: list[int] = []
    noting = CommandGroup()

    @noting.command("note")
    async def note(socket: Socket, number: Payload[int]) -> None:
        seen.append(number)

    blocked = anyio.Event()

    async def authenticate(client: Client) -> None:
        await blocked.wait()

    async with client_of(noting, authenticate=authenticate) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, "note", 1)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        blocked.set()
        await client.call("note", 2)
    assert seen == [2]


async def test_a_key_is_made_at_random_or_given() -> None:
    keys: list[str | None] = []
    noting = CommandGroup()

    @noting.command("note", once=True)
    async def note(socket: Socket, message: Message) -> None:
        keys.append(message.key)

    async with client_of(noting) as client:
        await client.call("note", once=True)
        await client.call("note", once=True)
        await client.call("note", key="given", once=True)
        await client.call("note")
    assert keys[2:] == ["given", None]
    assert len(set(keys[:2])) == 2
    assert all(key is not None and len(key) == 32 for key in keys[:2])  # 128 bits


async def test_a_command_with_a_key_that_is_in_progress_is_sent_again() -> None:
    tries: list[str | None] = []
    busy = CommandGroup()

    @busy.command("busy")
    async def busily(socket: Socket, message: Message) -> int:
        tries.append(message.key)
        if len(tries) < 3:
            raise ClientError("in progress", {"retry_after": 0.001})
        return len(tries)

    async with client_of(busy) as client:
        assert await client.call("busy", key="k") == 3
        assert tries == ["k"] * 3
        tries.clear()
        with pytest.raises(CommandError, match="in progress"):
            await client.call("busy")


async def test_a_call_of_a_stream_returns_its_last_reply_and_may_be_cancelled() -> None:
    started, ended = anyio.Event(), anyio.Event()
    streams = CommandGroup()

    @streams.command("numbers")
    async def numbers(socket: Socket, for_ever: Payload[bool]) -> AsyncIterator[int]:
        try:
            yield 1
            if for_ever:
                started.set()
                await anyio.sleep_forever()
        finally:
            if for_ever:
                ended.set()

    async with client_of(streams) as client:
        assert await client.call("numbers", False) is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, "numbers", True)
            await started.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(TIMEOUT):
            await ended.wait()


async def test_a_type_that_cannot_be_hashed_is_a_type() -> None:
    async with client_of(group) as client:
        hint: Any = Annotated[int, Field(ge=1), {"unhashable": True}]
        assert await client.call("echo", 5, result=hint) == 5
        with pytest.raises(UnexpectedReply):
            await client.call("echo", 0, result=hint)


def test_a_command_that_nobody_awaits_any_more_is_not_sent_again() -> None:
    call = Call(1, "busy", None, key="k")
    assert call.can_be_sent_again() and call.lose(ConnectionLost(1006))
    call.cancel()
    assert not call.can_be_sent_again() and not call.lose(ConnectionLost(1006))


async def test_a_message_that_is_too_big_is_not_sent_again() -> None:
    app = app_with(group, limits=Limits(max_size=1000))
    async with app.serve("127.0.0.1", 0) as server, client_at(server.urls[0]) as client:
        with pytest.raises(ConnectionLost) as caught:
            await client.call("echo", "x" * 2000, key="k")
        assert caught.value.code == 1009
        assert await client.call("echo", "small") == "small"


async def test_closing_fails_all_that_waits(gate: Gate) -> None:
    slow = CommandGroup()

    @slow.command("slow")
    async def slowly(socket: Socket) -> None:
        await gate()

    async with client_of(slow) as client:
        failures: list[Exception] = []

        async def call(**options: Any) -> None:
            with pytest.raises(ClientClosed) as caught:
                await client.call("slow", **options)
            failures.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(lambda: call(once=True))
            await gate.reached.wait()
            await client.close()
        assert [failure.code for failure in failures] == [1000, 1000]
        assert client.state == "closed"
        with pytest.raises(ClientClosed):
            client.stream("slow")
        with pytest.raises(ClientClosed):
            async with client.subscribe("slow"):
                pass
        await client.close()
        gate.opened.set()


async def test_leaving_by_an_error_raises_that_error_alone() -> None:
    with pytest.raises(ZeroDivisionError):
        async with client_of(group) as client:
            await client.call("echo", 1)
            raise ZeroDivisionError


async def test_a_client_is_entered_once_and_before_its_use() -> None:
    client = client_at("ws://127.0.0.1:1")
    await client.close()
    with pytest.raises(RuntimeError, match="not entered yet"):
        await client.call("echo")
    async with client:
        with pytest.raises(RuntimeError, match="entered once"):
            await client.__aenter__()


async def test_a_client_refuses_another_event_loop() -> None:
    async with client_of(group) as client:
        with pytest.raises(RuntimeError, match="another event loop"):
            await in_another_loop(client.call, "echo", 1)


async def test_a_full_queue_says_how_many_wait() -> None:
    async with client_at("ws://127.0.0.1:1", queue=0) as client:
        with pytest.raises(QueueFull, match="0 commands wait already"):
            await client.call("echo")


@pytest.mark.parametrize("url", ["http://example.org", "ws://", "example.org", "ws://[/"])
def test_a_url_that_is_not_one_of_a_websocket_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="begins with ws://"):
        Client(url)


@pytest.mark.parametrize("options", [{"queue": -1}, {"buffer": 0}, {"heartbeat": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Client: 0 <= queue"):
        Client("ws://example.org", **options)


async def test_options_that_websockets_refuses_close_the_client() -> None:
    async with client_at("ws://127.0.0.1:1", compression="zip") as client:
        with pytest.raises(ClientClosed) as caught:
            await client.call("echo")
        assert isinstance(caught.value.__cause__, ValueError)


async def test_secrets_are_neither_in_logs_nor_in_texts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = app_with(group)
    async with app.serve("127.0.0.1", 0) as server:
        url = server.urls[0].replace("ws://", "ws://ann:SECRET@") + "/?token=SECRET"
        client = client_at(url, token="SECRET", headers={"Authorization": "SECRET"})
        async with client:
            await client.call("echo", "SECRET", key="SECRET")
            with pytest.raises(CommandError):
                await client.call("SECRETLY", "SECRET", key="SECRET")
        assert "SECRET" not in repr(client) + repr(client._running.settings)
    texts = [record.getMessage() for record in caplog.records if "websuckets" in record.name]
    assert "SECRET" not in "\n".join(texts).replace("SECRETLY", "")


async def test_nothing_of_a_client_is_left_when_it_is_closed() -> None:
    async with client_of(group) as client:
        await client.call("echo", 1)
        running = client._running
    with anyio.fail_after(TIMEOUT):
        await running.has_ended.wait()
    assert running._session is None
    gc.collect()  # a socket that is left would be an error of this test
    await until(lambda: client.state == "closed")
