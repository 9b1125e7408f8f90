"""Tests of commands that take effect once with a store that fails, hangs, or wants a retry."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope, provide
from harness import app_with, errors, talk
from once_commands import Desk
from websockets.exceptions import ConnectionClosed

from websuckets import (
    ClientError,
    CommandGroup,
    CurrentUser,
    Limits,
    OnCommit,
    Session,
    Socket,
    User,
)
from websuckets.idempotency import IdempotencyStore, StoredReply
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Scripted:
    """A store whose methods may fail or hang, and that records what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.hangs: set[str] = set()
        self.reply: StoredReply | None = None
        self.pauses: list[float | None] = []

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.hangs:
            await anyio.sleep_forever()
        if name in self.errors:
            raise self.errors.pop(name)

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        await self._call("claim")
        return self.reply

    async def complete(self, reply: StoredReply) -> None:
        await self._call("complete")

    async def settle(self, committed: bool) -> None:
        await self._call(f"settle {committed}")

    def retry_after(self, error: BaseException, attempt: int) -> float | None:
        self.calls.append(f"retry {attempt}")
        return self.pauses.pop(0) if self.pauses else None


def provider_of(store: object) -> Provider:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(lambda: store, provides=IdempotencyStore)
    return provider


@asynccontextmanager
async def scripted(store: object, **options: Any) -> AsyncIterator[tuple[TestClient, Desk]]:
    desk = Desk(**options)
    with desk.app.override(provider_of(store)):
        async with TestClient(desk.app) as client:
            yield client, desk


async def test_a_store_is_called_in_its_order() -> None:
    store = Scripted()
    async with scripted(store) as (client, desk):
        await client.call("order", {"item": "tea"}, key="k")
        assert store.calls == ["claim", "complete", "settle True"]
        store.calls.clear()
        desk.fails = [ClientError("refused")]
        with pytest.raises(CommandError):
            await client.call("order", {"item": "tea"}, key="k")
        assert store.calls == ["claim", "settle False"]


@pytest.mark.parametrize("step", ["claim", "complete", "settle True"])
async def test_an_error_of_a_store_is_an_error_of_the_command(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident, and no effects; the scope is rolled back but for the last step."""
    store = Scripted()
    store.errors = {step: RuntimeError("a fault of the store")}
    async with scripted(store) as (client, desk):
        with pytest.raises(CommandError, match="internal error") as caught:
            await client.call("order", {"item": "tea"}, key="k")
        assert str(caught.value.details["incident"]) in caplog.text
        assert desk.ledger.entries == (["tea"] if step == "settle True" else [])
        assert (await client.call("order", {"item": "tea"}, key="k")).payload == "1 tea"
    assert len(errors(caplog)) == 1


async def test_a_store_that_cannot_give_its_claim_back_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the client to get the error of the command itself."""
    store = Scripted()
    store.errors = {"settle False": RuntimeError("a fault of the store")}
    async with scripted(store) as (client, desk):
        desk.fails = [ClientError("refused")]
        with pytest.raises(CommandError, match="refused"):
            await client.call("order", {"item": "tea"}, key="k")
    (record,) = errors(caplog)
    assert "idempotency store of 'order'" in record.getMessage()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_store_that_hangs_at_the_end_is_left_in_time(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = Scripted()
    store.hangs = {"settle True", "settle False"}
    async with scripted(store, limits=Limits(finalize_timeout=0.1)) as (client, desk):
        desk.fails = [ClientError("refused")] if fails else []
        with pytest.raises(CommandError, match="refused" if fails else "internal error"):
            await client.call("order", {"item": "tea"}, key="k")
    assert "the idempotency store took more than 0.1 seconds" in str(errors(caplog)[0].exc_info)


async def test_a_store_that_keeps_a_message_waiting_is_left_in_time() -> None:
    """Expect the error ``in progress``, and the claim to be settled all the same."""
    store = Scripted()
    store.hangs = {"claim"}
    async with scripted(store, limits=Limits(handler_timeout=0.4)) as (client, _):
        with pytest.raises(CommandError, match="in progress"):
            await client.call("order", {"item": "tea"}, key="k")
    assert store.calls == ["claim", "settle False"]


async def test_a_command_runs_again_as_its_store_says() -> None:
    """Expect a new scope and new effects for each run, and the error when the store gives up."""
    store = Scripted()
    store.pauses = [0.0, 0.001]
    async with scripted(store) as (client, desk):
        desk.fails = [RuntimeError("1"), RuntimeError("2")]
        assert (await client.call("order", {"item": "tea"}, key="k")).payload == "1 tea"
        assert desk.ledger.opened == 3
        assert desk.ledger.rolled_back == ["tea", "tea"]
        store.pauses = [0.0]
        desk.fails = [RuntimeError("1"), RuntimeError("2")]
        with pytest.raises(CommandError, match="internal error"):
            await client.call("order", {"item": "tea"}, key="k")
    run = ["claim", "settle False"]
    assert store.calls == [
        *run, "retry 1", *run, "retry 2", "claim", "complete", "settle True",
        *run, "retry 1", *run, "retry 2",
    ]  # fmt: skip


async def test_a_command_does_not_run_again_when_its_time_is_over() -> None:
    """Expect all runs to be within one timeout."""
    store = Scripted()
    store.pauses = [0.01] * 10_000
    group = CommandGroup()

    @group.command("fail", once=True, timeout=0.3)
    async def fail(socket: Socket) -> None:
        await anyio.sleep(0.01)
        raise RuntimeError

    app = app_with(group)
    with app.override(provider_of(store)):
        async with TestClient(app) as client:
            # The last run may be cancelled, or fail by itself in the same moment.
            with pytest.raises(CommandError, match=r"timeout|internal error"):
                await client.call("fail", key="k")
            assert len(store.pauses) > 0
            store.calls.clear()
            await anyio.sleep(0.05)
            assert not store.calls


async def test_a_stored_reply_is_sent_though_the_scope_cannot_be_rolled_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the failure in the log: the command has taken effect before."""
    group = CommandGroup()

    class Ticket: ...

    class Tickets(Provider):
        fails = False

        @provide(scope=Scope.REQUEST)
        async def ticket(self) -> AsyncIterator[Ticket]:
            yield Ticket()
            if self.fails:
                raise RuntimeError("cannot roll back")

    @group.command("log in")
    async def log_in(socket: Socket, user: User) -> str:
        user.id, user.token = "ann", "a token"
        return user.token

    @group.command("run", protected=Ticket, once=True)
    async def run(socket: Socket) -> str:
        return "done"

    tickets = Tickets()
    async with TestClient(app_with(group, providers=[tickets])) as client:
        client.token = (await client.call("log in")).payload
        for fails in (False, True):
            tickets.fails = fails
            assert (await client.call("run", key="k")).payload == "done"
    (record,) = errors(caplog)
    assert "finalisers of 'run'" in record.getMessage()


async def test_a_user_of_the_program_has_to_be_a_current_user(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = CommandGroup()

    class Wrong(Provider):
        @provide(scope=Scope.REQUEST)
        def current_user(self, user: User) -> CurrentUser:
            return user  # type: ignore[return-value]

    @group.command("run", protected=True, once=True)
    async def run(socket: Socket) -> str:
        return "done"

    async with TestClient(app_with(group, providers=[Wrong()])) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("run", key="k")
    assert "return CurrentUser(user)" in str(errors(caplog)[0].exc_info)


async def test_a_session_that_is_revoked_while_a_command_waits_is_refused() -> None:
    """Expect no effect for a user whose verification ended before the handler ran."""
    desk = Desk()
    store = Scripted()
    reached, go_on = anyio.Event(), anyio.Event()

    async def claim(owner: str, key: str, fingerprint: bytes) -> None:
        reached.set()
        await go_on.wait()

    store.claim = claim  # type: ignore[assignment]
    revoking = CommandGroup()

    @revoking.command("revoke")
    async def revoke(socket: Socket, session: Session) -> None:
        await session.revoke("ann")

    desk.app.include_command_group(revoking)
    with desk.app.override(provider_of(store)):
        async with TestClient(desk.app) as client, client.connect() as other:
            client.token = (await client.call("log in", "ann")).payload
            async with anyio.create_task_group() as tasks:

                async def pay() -> None:
                    with pytest.raises(ConnectionClosed, match="revoked"):
                        await client.call("pay", key="k")

                tasks.start_soon(pay)
                await reached.wait()
                await other.call("revoke")
                go_on.set()
    assert not desk.ledger.entries


async def test_a_client_that_leaves_does_not_end_its_command() -> None:
    """Expect the effect, and the reply for who sends the command again."""
    desk = Desk()
    async with TestClient(desk.app) as client:
        async with client.connect() as leaving:
            await leaving.send("wait", key="k")
            await desk.gate.reached.wait()
            await leaving.abort()
            desk.gate.opened.set()
        assert (await client.call("wait", key="k")).payload == 0
    assert desk.ledger.entries == ["waited"]


async def test_a_command_that_ends_with_its_client_may_be_sent_again() -> None:
    group = CommandGroup()
    reached, runs = anyio.Event(), []

    @group.command("wait", once=True, cancel_on_disconnect=True)
    async def wait(socket: Socket) -> int:
        runs.append(1)
        if len(runs) == 1:
            reached.set()
            await anyio.sleep_forever()
        return len(runs)

    async with TestClient(app_with(group)) as client:
        async with client.connect() as leaving:
            await leaving.send("wait", key="k")
            await reached.wait()
            await leaving.abort()
        assert (await client.call("wait", key="k")).payload == 2


async def test_keys_and_payloads_do_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    desk = Desk()
    async with TestClient(desk.app) as client:
        desk.fails = [RuntimeError("a fault")]
        for key in ("canary-key", "canary-key", "canary-" * 40):
            try:
                await client.call("order", {"item": "canary-item"}, key=key)
            except CommandError:
                pass
    assert "canary" not in caplog.text


async def test_a_stored_reply_is_not_sent_when_the_user_is_not_verified_any_longer() -> None:
    """Expect the user to log out while the message waits for its store."""
    desk = Desk(limits=Limits(concurrency=None))
    store = Scripted()
    reached, go_on = anyio.Event(), anyio.Event()

    async def claim(owner: str, key: str, fingerprint: bytes) -> StoredReply:
        reached.set()
        await go_on.wait()
        return StoredReply(fingerprint, '{"event":"pay","payload":"a secret"}')

    store.claim = claim  # type: ignore[method-assign]
    leaving = CommandGroup()

    @leaving.command("log out")
    async def log_out(socket: Socket, user: User) -> None:
        user.id = None

    desk.app.include_command_group(leaving)
    with desk.app.override(provider_of(store)):
        async with TestClient(desk.app) as client:
            client.token = (await client.call("log in", "ann")).payload
            async with anyio.create_task_group() as tasks:

                async def pay() -> None:
                    with pytest.raises(CommandError, match="not authorized"):
                        await client.call("pay", key="k")

                tasks.start_soon(pay)
                await reached.wait()
                await client.call("log out")
                go_on.set()


async def test_a_store_has_time_also_where_guards_took_longer_than_a_message_may_wait() -> None:
    group = CommandGroup()

    class Ticket: ...

    class Slow(Provider):
        @provide(scope=Scope.REQUEST)
        async def ticket(self, user: User) -> Ticket:
            await anyio.sleep(1.1)
            return Ticket()

    @group.command("log in")
    async def log_in(socket: Socket, user: User) -> str:
        user.id, user.token = "ann", "a token"
        return user.token

    @group.command("run", protected=Ticket, once=True, timeout=2)
    async def run(socket: Socket) -> str:
        return "done"

    class Waiting(Scripted):
        async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
            await anyio.sleep(0.01)
            return await super().claim(owner, key, fingerprint)

    app = app_with(group, providers=[Slow()])
    with app.override(provider_of(Waiting())):
        async with TestClient(app) as client:
            client.token = (await client.call("log in")).payload
            assert (await client.call("run", key="k")).payload == "done"


async def test_failures_of_finalisers_that_no_client_is_told_of_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect those of each run that is not the last one."""
    store = Scripted()
    store.pauses = [0.0]
    group = CommandGroup()
    runs: list[int] = []

    class Thing: ...

    class Failing(Provider):
        @provide(scope=Scope.REQUEST)
        async def thing(self) -> AsyncIterator[Thing]:
            yield Thing()
            if len(runs) < 2:
                raise RuntimeError("cannot close")

    @group.command("run", once=True)
    async def run(socket: Socket, thing: Thing) -> str:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("a fault")
        return "done"

    app = app_with(group, providers=[Failing()])
    with app.override(provider_of(store)):
        async with TestClient(app) as client:
            assert (await client.call("run", key="k")).payload == "done"
    (record,) = errors(caplog)
    assert "finalisers of 'run'" in record.getMessage()


async def test_the_time_of_a_command_goes_on_while_its_scope_is_closed() -> None:
    """Expect a second run to be cancelled whose time was over when the first one had ended."""
    store = Scripted()
    store.pauses = [0.0] * 1000
    group = CommandGroup()
    runs: list[int] = []

    class Thing: ...

    class Slow(Provider):
        @provide(scope=Scope.REQUEST)
        async def thing(self) -> AsyncIterator[Thing]:
            yield Thing()
            if len(runs) == 1:
                await anyio.sleep(0.5)

    @group.command("run", once=True, timeout=0.3)
    async def run(socket: Socket, thing: Thing) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("a fault")
        await anyio.sleep_forever()

    app = app_with(group, providers=[Slow()])
    with app.override(provider_of(store)):
        async with TestClient(app) as client:
            with pytest.raises(CommandError, match="timeout"):
                await client.call("run", key="k")


async def test_a_store_that_is_cancelled_by_the_program_is_an_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Scripted()

    async def settle(committed: bool) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.sleep(1)
            except anyio.get_cancelled_exc_class() as error:
                caught.append(error)
        raise caught[0]

    caught: list[BaseException] = []
    store.settle = settle  # type: ignore[method-assign]
    async with scripted(store) as (client, _):
        with pytest.raises(CommandError, match="internal error"):
            await client.call("order", {"item": "tea"}, key="k")
    assert len(errors(caplog)) == 1


@pytest.mark.on_asyncio
async def test_effects_are_discarded_when_a_finaliser_is_cancelled() -> None:
    """Expect asyncio's own cancellation, which nothing can keep out, to end the connection."""
    store = Scripted()
    group = CommandGroup()
    effects: list[int] = []

    class Thing: ...

    class Cancelling(Provider):
        @provide(scope=Scope.REQUEST)
        async def thing(self) -> AsyncIterator[Thing]:
            yield Thing()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await anyio.sleep(0)

    @group.command("run", once=True)
    async def run(socket: Socket, thing: Thing, on_commit: OnCommit) -> None:
        on_commit(effects.append, 1)

    app = app_with(group, providers=[Cancelling()])
    with app.override(provider_of(store)):
        async with talk(app) as client:
            await client.send("run", key="k", id=1)
            await client.closed()
    assert not effects
    assert store.calls == ["claim", "complete", "settle False"]


async def test_a_command_whose_commit_failed_runs_again_as_its_store_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the failure of a finaliser to be told to the store, and nothing in the log."""
    store = Scripted()
    store.pauses = [0.0]
    group = CommandGroup()
    runs: list[int] = []

    class Thing: ...

    class Failing(Provider):
        @provide(scope=Scope.REQUEST)
        async def thing(self) -> AsyncIterator[Thing]:
            yield Thing()
            if len(runs) == 1:
                raise RuntimeError("cannot commit")

    @group.command("run", once=True, timeout=None)
    async def run(socket: Socket, thing: Thing) -> int:
        runs.append(1)
        return len(runs)

    app = app_with(group, providers=[Failing()])
    with app.override(provider_of(store)):
        async with TestClient(app) as client:
            assert (await client.call("run", key="k")).payload == 2
    assert not errors(caplog)
