"""Tests of messages with one key that are handled at the same time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope, provide
from harness import Gate, app_with, errors, talk
from once_commands import Desk
from timeouts import TIMEOUT

from websuckets import (
    ClientError,
    CommandGroup,
    CurrentUser,
    Limits,
    OnCommit,
    Payload,
    Socket,
    User,
)
from websuckets.commands.once import _Turns
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


async def twins(
    client: TestClient, number: int, out: list[Any], desk: Desk, connections: int = 4
) -> None:
    """Send a command with one key so often, by several connections; collect payloads and errors."""

    async def send(connection: TestClient) -> None:
        try:
            out.append((await connection.call("wait", key="twin", timeout=TIMEOUT)).payload)
        except CommandError as error:
            out.append(error.error)

    async with anyio.create_task_group():
        async with anyio.create_task_group() as opened:
            clients: list[TestClient] = []

            async def open_one(*, task_status: Any) -> None:
                async with client.connect() as another:
                    clients.append(another)
                    task_status.started()
                    await done.wait()

            done = anyio.Event()
            for _ in range(connections):
                await opened.start(open_one)
            async with anyio.create_task_group() as sending:
                for n in range(number):
                    sending.start_soon(send, clients[n % connections])
                await desk.gate.reached.wait()
                desk.gate.opened.set()
            done.set()


async def test_twins_take_effect_once_and_get_one_reply() -> None:
    desk = Desk(limits=Limits(concurrency=None))
    out: list[Any] = []
    async with TestClient(desk.app) as client:
        await twins(client, 50, out, desk)
    assert out == [0] * 50
    assert desk.ledger.entries == ["waited"]


@pytest.mark.parametrize("error", [ClientError("refused"), RuntimeError("a fault")])
async def test_of_twins_one_takes_effect_if_the_first_one_fails(error: Exception) -> None:
    desk = Desk(limits=Limits(concurrency=None))
    desk.fails = [error]
    out: list[Any] = []
    async with TestClient(desk.app) as client:
        await twins(client, 20, out, desk)
    failed = "refused" if isinstance(error, ClientError) else "internal error"
    assert sorted(map(str, out)) == ["0"] * 19 + [failed]
    assert desk.ledger.entries == ["waited"]


async def test_a_twin_waits_outside_of_a_scope() -> None:
    """Expect the scope of a message that waits to be closed, with all that its guards opened."""
    group = CommandGroup()
    gate, open_guards, most = Gate(), set[int](), 0

    class Ticket: ...

    class Tickets(Provider):
        @provide(scope=Scope.REQUEST)
        async def ticket(self, user: User) -> AsyncIterator[Ticket]:
            nonlocal most
            number = id(object())
            open_guards.add(number)
            most = max(most, len(open_guards))
            yield Ticket()
            open_guards.discard(number)

    @group.command("log in")
    async def log_in(socket: Socket, user: User) -> str:
        user.id, user.token = "ann", "a token"
        return user.token

    @group.command("slow", protected=Ticket, once=True)
    async def slow(socket: Socket) -> str:
        await gate()
        return "done"

    app = app_with(group, providers=[Tickets()], limits=Limits(concurrency=None))
    async with TestClient(app) as client:
        client.token = (await client.call("log in")).payload
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                assert (await client.call("slow", key="k", timeout=TIMEOUT)).payload == "done"

            for _ in range(10):
                tasks.start_soon(call)
            await gate.reached.wait()
            while len(open_guards) > 1:
                await anyio.sleep(0.001)
            gate.opened.set()
    assert not open_guards


async def test_a_twin_waits_no_longer_than_its_own_time_allows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an error that says when to send the command again, and the first run to go on."""
    group = CommandGroup()
    gate = Gate()

    @group.command("slow", once=True, timeout=0.4)
    async def slow(socket: Socket) -> str:
        gate.reached.set()
        with anyio.CancelScope(shield=True):
            await gate.opened.wait()
        return "done"

    async with TestClient(app_with(group)) as client, client.connect() as other:
        async with anyio.create_task_group() as tasks:

            async def first() -> None:
                assert (await client.call("slow", key="k")).payload == "done"

            tasks.start_soon(first)
            await gate.reached.wait()
            with pytest.raises(CommandError, match="in progress") as caught:
                await other.call("slow", key="k")
            assert caught.value.details == {"retry_after": 1.0}
            gate.opened.set()
        assert (await other.call("slow", key="other")).payload == "done"
    assert not errors(caplog)


async def test_a_twin_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    """Expect the client of a waiting message to leave, and the messages behind it to go on."""
    desk = Desk()
    async with TestClient(desk.app) as client:
        async with anyio.create_task_group() as tasks:
            out: list[Any] = []

            async def call(connection: TestClient) -> None:
                out.append((await connection.call("wait", key="k")).payload)

            async with client.connect() as leaving, client.connect() as staying:
                tasks.start_soon(call, client)
                await desk.gate.reached.wait()
                await leaving.send("wait", key="k")
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(call, staying)
                await anyio.wait_all_tasks_blocked()
                await leaving.abort()
                desk.gate.opened.set()
                while len(out) < 2:
                    await anyio.sleep(0.001)
    assert out == [0, 0]
    assert desk.ledger.entries == ["waited"]


async def test_turns_keep_nothing_when_all_have_ended() -> None:
    """Expect no lock to be left, also of those who were cancelled while they waited."""
    turns = _Turns()
    name = ("owner", "key")
    assert turns.begin(name)
    assert not turns.begin(name)
    async with anyio.create_task_group() as tasks:

        async def wait_and_end() -> None:
            await turns.wait(name)
            turns.end(name)

        scopes = [anyio.CancelScope() for _ in range(3)]

        async def wait_and_be_cancelled(scope: anyio.CancelScope) -> None:
            with scope:
                await turns.wait(name)
                turns.end(name)

        tasks.start_soon(wait_and_end)
        for scope in scopes:
            tasks.start_soon(wait_and_be_cancelled, scope)
        await anyio.wait_all_tasks_blocked()
        turns.end(name)
        for scope in scopes:
            scope.cancel()
    assert not turns._locks
    await turns.wait(name)  # nobody has it
    turns.end(name)
    assert not turns._locks


async def test_a_turn_that_comes_with_the_cancellation_of_who_waits_is_passed_on() -> None:
    turns = _Turns()
    name = ("owner", "key")
    turns.begin(name)
    async with anyio.create_task_group() as tasks:
        with_turn = anyio.CancelScope()

        async def wait() -> None:
            with with_turn:
                await turns.wait(name)
                turns.end(name)

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        with_turn.cancel()
        turns.end(name)
    assert turns.begin(name)


@pytest.mark.on_asyncio
async def test_a_message_that_waited_and_is_cancelled_at_its_end_ends_its_turn_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect no error but that of the first run, and the next message with the key to go on."""
    group = CommandGroup()
    gate, runs, waits = Gate(), [], anyio.Event()
    wait = _Turns.wait

    async def wait_and_say(turns: _Turns, name: tuple[str, str]) -> None:
        waits.set()
        await wait(turns, name)

    monkeypatch.setattr(_Turns, "wait", wait_and_say)

    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep(0)

    @group.command("run", once=True)
    async def run(socket: Socket, on_commit: OnCommit) -> str:
        runs.append(socket)
        if len(runs) == 1:
            await gate()
            raise ClientError("refused")
        on_commit(cancel)
        return "done"

    async with talk(app_with(group)) as client, client.another() as other:
        await client.send("run", key="canary", id=1)
        await gate.reached.wait()
        await other.send("run", key="canary", id=2)
        await waits.wait()
        gate.opened.set()
        assert (await client.receive())["error"] == "refused"
        await other.closed()
        assert (await client.call("run", key="canary"))["payload"] == "done"
    assert "KeyError" not in caplog.text
    assert "canary" not in caplog.text


async def test_a_message_whose_user_changed_while_it_waited_has_the_turn_of_the_new_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Expect the turn that it had waited for to go to the next one."""
    group = CommandGroup()
    gate, runs, waits = Gate(), [], anyio.Event()
    wait = _Turns.wait

    async def wait_and_say(turns: _Turns, name: tuple[str, str]) -> None:
        waits.set()
        await wait(turns, name)

    monkeypatch.setattr(_Turns, "wait", wait_and_say)

    class Trusting(Provider):
        @provide(scope=Scope.REQUEST)
        def current_user(self, user: User) -> CurrentUser:
            return CurrentUser(user)

    @group.command("be")
    async def be(socket: Socket, name: Payload[str], user: User) -> None:
        user.id = name

    @group.command("run", protected=True, once=True)
    async def run(socket: Socket, user: CurrentUser) -> str:
        runs.append(user.id)
        if len(runs) == 1:
            await gate()
        return str(user.id)

    app = app_with(group, providers=[Trusting()], limits=Limits(concurrency=None))
    async with TestClient(app) as client, client.connect() as other:
        for one in (client, other):
            await one.call("be", "ann")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, "run", None, None, TIMEOUT)
            await gate.reached.wait()
            gate.opened.set()
        gate.reached, gate.opened = anyio.Event(), anyio.Event()
        runs.clear()

        async def first() -> None:
            assert (await client.call("run", key="k")).payload == "ann"

        async def second() -> None:
            assert (await other.call("run", key="k")).payload == "bob"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await gate.reached.wait()
            tasks.start_soon(second)
            await waits.wait()
            await other.call("be", "bob")
            gate.opened.set()
        assert (await client.call("run", key="k")).payload == "ann"
    assert runs == ["ann", "bob"]
