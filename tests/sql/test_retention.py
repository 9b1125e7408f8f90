"""Retention: expired replies are deleted."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from once_nodes import OnceNode
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from timeouts import TIMEOUT

from websuckets.runtime.tasks import AppTasks
from websuckets.sql import retention
from websuckets.sql.retention import REPLIES, Retention, delete_expired, keep_deleting
from websuckets.sql.store import Settings, SqlIdempotencyStore
from websuckets.sql.tables import replies

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class Sessions:
    """Sessions of a node, each of which is counted."""

    def __init__(self, node: OnceNode, *, commits: bool = True) -> None:
        self._open = node.sessions.begin if commits else node.sessions
        self.opened = 0
        self.errors: list[Exception] = []
        self.was_opened = anyio.Event()

    def __call__(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[AsyncSession]:
        self.opened += 1
        if self.errors:
            raise self.errors.pop()
        async with self._open() as session:
            yield session
        self.was_opened.set()
        self.was_opened = anyio.Event()


async def keep(node: OnceNode, count: int, *, expires: float) -> None:
    rows: list[dict[str, Any]] = [
        {
            "owner": "str:ann",
            "key": f"{expires} {number}",
            "fingerprint": b"1" * 32,
            "frame": "",
            "expires": expires,
        }
        for number in range(count)
    ]
    async with node.engine.begin() as connection:
        await connection.execute(insert(replies), rows)


async def kept(node: OnceNode) -> dict[float, int]:
    """Return the number of replies by the time at which they expire."""
    async with node.engine.connect() as connection:
        counts = select(replies.c.expires, func.count()).group_by(replies.c.expires)
        return {time: count for time, count in await connection.execute(counts)}


async def test_expired_replies_are_deleted_in_batches(node: OnceNode) -> None:
    await keep(node, 25, expires=999.0)
    await keep(node, 1, expires=1000.0)
    await keep(node, 4, expires=1000.5)
    sessions = Sessions(node)
    await delete_expired(REPLIES, sessions, Clock(), batch=10)
    assert await kept(node) == {1000.5: 4}
    assert sessions.opened == 3


async def test_a_deletion_of_full_batches_ends_where_nothing_is_left(node: OnceNode) -> None:
    await keep(node, 20, expires=999.0)
    sessions = Sessions(node)
    await delete_expired(REPLIES, sessions, Clock(), batch=10)
    assert await kept(node) == {}
    assert sessions.opened == 3


async def test_sessions_that_do_not_commit_end_the_deletion_all_the_same(node: OnceNode) -> None:
    await keep(node, 2, expires=999.0)
    sessions = Sessions(node, commits=False)
    await delete_expired(REPLIES, sessions, Clock(), batch=1, batches=7)
    assert await kept(node) == {999.0: 2}
    assert sessions.opened == 7


async def test_nodes_delete_at_the_same_time(node: OnceNode, other_node: OnceNode) -> None:
    await keep(node, 100, expires=999.0)
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for each in (node, other_node, node, other_node):
                tasks.start_soon(
                    lambda each: delete_expired(REPLIES, Sessions(each), Clock(), batch=7), each
                )
    assert await kept(node) == {}


async def test_a_reply_that_is_being_replaced_is_left_alone(
    node: OnceNode, other_node: OnceNode
) -> None:
    """Expect the deletion not to wait for a command that runs."""
    if node.engine.dialect.name == "sqlite":
        pytest.skip("it has one writer at a time")
    await keep(node, 3, expires=999.0)
    async with node.engine.begin() as connection:
        is_one = replies.c.key == "999.0 1"
        await connection.execute(replies.update().where(is_one).values(expires=2000.0))
        with anyio.fail_after(TIMEOUT):
            await delete_expired(REPLIES, Sessions(other_node), Clock(), batch=10)
        assert await kept(other_node) == {999.0: 1}
    assert await kept(node) == {2000.0: 1}


async def test_replies_are_deleted_again_and_again(
    node: OnceNode, caplog: pytest.LogCaptureFixture
) -> None:
    """A deletion that fails is logged without its text, and does not end the task."""
    clock, sessions = Clock(), Sessions(node)
    await keep(node, 5, expires=999.0)
    await keep(node, 5, expires=1999.0)
    sessions.errors.append(RuntimeError("canary"))
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: keep_deleting(REPLIES, sessions, clock, period=0.01))
            while 999.0 in await kept(node):
                await sessions.was_opened.wait()
            assert await kept(node) == {1999.0: 5}
            clock.now = 2000.0
            while await kept(node):
                await sessions.was_opened.wait()
            tasks.cancel_scope.cancel()
    assert "expired replies cannot be deleted for now: RuntimeError" in caplog.text
    assert "canary" not in caplog.text


async def test_nothing_is_deleted_in_the_first_seconds_of_an_app(
    node: OnceNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect an app that a test runs to open no session that the test does not expect."""
    bounds: list[tuple[float, float]] = []
    monkeypatch.setattr(retention, "uniform", lambda *drawn: bounds.append(drawn) or 0)
    sessions = Sessions(node)
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_deleting, REPLIES, sessions, Clock())
            await sessions.was_opened.wait()
            tasks.cancel_scope.cancel()
    assert bounds == [(30, 300)]


async def test_the_first_claim_starts_the_deletion(
    node: OnceNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Any, ...]] = []

    async def deleting(*arguments: Any) -> None:
        started.append(arguments)

    monkeypatch.setattr(retention, "keep_deleting", deleting)
    clock, sessions = Clock(), Sessions(node)
    async with anyio.create_task_group() as tasks:
        begin = Retention(REPLIES, AppTasks(tasks), sessions, clock).begin
        for number in range(2):
            async with node.sessions() as session:
                store = SqlIdempotencyStore(session, Settings(clock, 10.0, 0, begin))
                assert await store.claim("str:ann", str(number), b"1" * 32) is None
                store.leave()
            await store.settle(False)
    assert started == [(REPLIES, sessions, clock)]
