"""Tests of finalisers that take too long, and of timeouts in finalisers."""

import functools
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from failing_commands import Inner, Journalling, cancelled, incident_of
from harness import app_with, dial, talk
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Limits
from websuckets.app import Server
from websuckets.exc import ClientError

pytestmark = pytest.mark.anyio


class Late:
    """A thing that hangs when it is finalised."""


def hanging(scope: Scope) -> Provider:
    async def late() -> AsyncIterator[Late]:
        yield Late()
        await anyio.sleep_forever()

    provider = Provider(scope=scope)
    provider.provide(late)
    return provider


def late_commands() -> CommandGroup:
    group = CommandGroup()

    @group.command("succeed")
    async def succeed(socket: ServerConnection, *, inner: Inner, late: Late) -> str:
        return "a false success"

    @group.command("fail")
    async def fail(socket: ServerConnection, *, inner: Inner, late: Late) -> str:
        raise ClientError("failed")

    @group.command("fine")
    async def fine(socket: ServerConnection) -> str:
        return "fine"

    return group


SOON = Limits(finalize_timeout=0.05, drain_timeout=5)


class Fatal(BaseException): ...


async def test_finalisers_that_take_too_long_turn_success_into_an_error(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an error for a commit that was cancelled; the other finalisers run."""
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    async with talk(app_with(late_commands(), providers=providers, limits=SOON)) as client:
        for number in range(2):
            incident = incident_of(await client.call("succeed", id=number))
            assert incident in caplog.messages[-1]
            assert "TimeoutError: finalisers took more than 0.05 seconds" in caplog.text
            # the next finaliser has to wait, so it is cancelled, too
            assert journal[-1] == f"close inner with {cancelled()}"
            assert (await client.call("fine"))["payload"] == "fine"


async def test_the_handlers_error_wins_over_finalisers_that_take_too_long(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the handler's error at the client; the delay is logged, too."""
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    async with talk(app_with(late_commands(), providers=providers, limits=SOON)) as client:
        assert await client.call("fail") == {"error": "failed", "details": None}
        assert "TimeoutError: finalisers took more than 0.05 seconds" in caplog.text
        assert journal[-1] == "close inner with ClientError"
        assert (await client.call("fine"))["payload"] == "fine"


async def test_a_server_that_stops_sends_what_is_left_to_say(journal: list[str]) -> None:
    """Expect the reply also of a command whose finalisers took too long."""
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    app = app_with(late_commands(), providers=providers, limits=SOON)

    async def talk_to_it(server: Server) -> None:
        async with dial(server) as client:
            await client.send("succeed")
            while "open inner" not in journal:
                await anyio.sleep(0)
            stop.set()
            incident_of(await client.receive())
            assert await client.closed() == (1012, "service restart")

    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with app.serve("127.0.0.1", 0) as server:
            tasks.start_soon(talk_to_it, server)
            await stop.wait()


@pytest.mark.parametrize("scope", [Scope.SESSION, Scope.APP])
async def test_finalisers_of_wider_scopes_are_bounded_too(
    journal: list[str], caplog: pytest.LogCaptureFixture, scope: Scope
) -> None:
    """Expect an error in the log; the other finalisers run."""
    providers = [Journalling(journal), hanging(scope)]
    async with talk(app_with(late_commands(), providers=providers, limits=SOON)) as client:
        assert (await client.call("succeed"))["payload"] == "a false success"
    assert "took more than 0.05 seconds" in caplog.text
    if scope is Scope.SESSION:
        assert journal[-2:] == [f"close session with {cancelled()}", "close app"]
    else:
        assert journal[-2:] == ["close session", f"close app with {cancelled()}"]


async def test_finalisers_may_use_anyio(journal: list[str]) -> None:
    """Expect timeouts, task groups and locks to work before and after their first `await`."""
    group = CommandGroup()

    class Busy: ...

    @group.command("use")
    async def use(socket: ServerConnection, *, busy: Busy) -> str:
        return "used"

    @group.command("fail")
    async def fail(socket: ServerConnection, *, busy: Busy) -> str:
        raise ClientError("failed")

    async def busy() -> AsyncIterator[Busy]:
        async with anyio.create_task_group() as around:
            around.start_soon(anyio.sleep_forever)
            try:
                yield Busy()
            finally:
                with anyio.fail_after(5), anyio.CancelScope(shield=True):
                    async with anyio.Lock(), anyio.create_task_group() as tasks:
                        tasks.start_soon(anyio.sleep, 0)
                    await anyio.to_thread.run_sync(journal.append, "finalised")
                around.cancel_scope.cancel()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(busy)
    async with talk(app_with(group, providers=[provider])) as client:
        for number in range(1, 4):
            assert (await client.call("use"))["payload"] == "used"
            assert (await client.call("fail"))["error"] == "failed"
            assert journal == ["finalised"] * 2 * number


@pytest.mark.parametrize("fails", [False, True])
async def test_a_late_finaliser_that_ends_normally_disturbs_nobody(
    journal: list[str], fails: bool
) -> None:
    """Expect an error if a finaliser ignores its cancellation; waiting commands are answered."""
    group = CommandGroup()
    go_on = threading.Event()

    class Commit: ...

    async def until_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            go_on.set()

    async def commit() -> AsyncIterator[Commit]:
        yield Commit()
        with suppress(BaseException):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_cancelled)
                await anyio.to_thread.run_sync(go_on.wait, TIMEOUT)
        if fails:
            raise RuntimeError("commit canary")
        journal.append("committed")

    @group.command("save")
    async def save(socket: ServerConnection, *, commit: Commit) -> str:
        return "a false success"

    @group.command("wait")
    async def wait(socket: ServerConnection) -> str:
        await anyio.sleep(0)
        return "fine"

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(commit)
    async with talk(app_with(group, providers=[provider], limits=SOON)) as client:
        await client.send("save", id=1)
        for number in range(2, 5):
            await client.send("wait", id=number)
        replies = [await client.receive() for _ in range(4)]
    incident_of(replies[0])
    assert [reply["id"] for reply in replies] == [1, 2, 3, 4]
    assert [reply.get("payload") for reply in replies[1:]] == ["fine"] * 3
    assert journal == ([] if fails else ["committed"])


async def test_a_stopping_server_closes_connections_whose_finalisers_are_late(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the connection's own scope to be closed, whatever the message's finalisers did."""
    limits = Limits(finalize_timeout=0.2, drain_timeout=0.05)
    providers = [Journalling(journal), hanging(Scope.REQUEST)]
    async with talk(app_with(late_commands(), providers=providers, limits=limits)) as client:
        await client.send("succeed")
        while "open inner" not in journal:
            await anyio.sleep(0)
    assert journal[-1] == "close app"
    assert any(line.startswith("close session") for line in journal)
    assert "took more than 0.2 seconds" in caplog.text


async def test_a_late_finaliser_may_end_with_a_base_exception(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect a failure of the finaliser; every other one runs, and the connection goes on."""
    group = late_commands()

    class Stubborn: ...

    async def stubborn(inner: Inner) -> AsyncIterator[Stubborn]:
        yield Stubborn()
        try:
            await anyio.sleep_forever()
        except BaseException:
            raise Fatal from None

    @group.command("use")
    async def use(socket: ServerConnection, *, stubborn: Stubborn) -> None: ...

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(stubborn)
    provider.provide(Late)
    providers = [Journalling(journal), provider]
    async with talk(app_with(group, providers=providers, limits=SOON)) as client:
        incident_of(await client.call("use"))
        assert journal[-1] == "close inner with Fatal"
        assert (await client.call("fine"))["payload"] == "fine"
    assert "Fatal" in caplog.text


async def test_a_timeout_that_a_provider_holds_is_an_error_like_any_other(
    journal: list[str],
) -> None:
    """Expect the timeout to cancel only the handler and finalisers below the provider."""
    group = CommandGroup()

    class Hurried: ...

    class Below: ...

    async def hurried() -> AsyncIterator[Hurried]:
        with anyio.fail_after(0.02):
            yield Hurried()

    async def below(hurried: Hurried) -> AsyncIterator[Below]:
        yield Below()
        await anyio.sleep(0)

    @group.command("too slow")
    async def too_slow(socket: ServerConnection, *, below: Below) -> None:
        await anyio.sleep_forever()

    @group.command("fine")
    async def fine(socket: ServerConnection) -> str:
        return "fine"

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(hurried)
    provider.provide(below)
    async with talk(app_with(group, providers=[provider])) as client:
        for number in range(2):
            incident_of(await client.call("too slow", id=number))
            assert (await client.call("fine"))["payload"] == "fine"


async def test_a_provider_that_yields_again_has_no_more_time_than_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def again() -> AsyncIterator[Late]:
        yield Late()
        try:
            yield Late()
        finally:
            await anyio.sleep_forever()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(again)
    group = CommandGroup()

    @group.command("work")
    async def work(socket: ServerConnection, *, late: Late) -> None: ...

    async with talk(app_with(group, providers=[provider], limits=SOON)) as client:
        incident_of(await client.call("work", id=1))
    assert "TimeoutError: finalisers took more than 0.05 seconds" in caplog.text


class Proxy:
    """An asynchronous generator that is not Python's own, as one that measures calls may be."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await self._generator.__anext__()

    async def asend(self, value: Any) -> Any:
        return await self._generator.asend(value)

    async def athrow(self, error: BaseException) -> Any:
        return await self._generator.athrow(error)

    async def aclose(self) -> None:
        await self._generator.aclose()


@pytest.mark.parametrize("waits", [False, True])
async def test_a_generator_of_another_kind_is_finalised(waits: bool, journal: list[str]) -> None:
    async def measured() -> AsyncIterator[Late]:
        yield Late()
        if waits:
            await anyio.sleep(0)
        journal.append("finalised")

    @functools.wraps(measured)
    def proxy() -> Any:
        return Proxy(measured())

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(proxy)
    group = CommandGroup()

    @group.command("work")
    async def work(socket: ServerConnection, *, late: Late) -> str:
        return "done"

    async with talk(app_with(group, providers=[provider])) as client:
        assert (await client.call("work"))["payload"] == "done"
    assert journal == ["finalised"]
