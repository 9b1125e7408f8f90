"""Processes that serve one command that takes effect once, and that kill themselves when told to.

Run as a program, this module is a parent that forks a node for each line that it reads: importing
everything for each of some hundred nodes would take minutes. It writes a line for each node: the
URL, once the node listens. A node that has ended is collected before the next is forked.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
from dishka import Provider, Scope
from sqlalchemy import String, create_engine, func, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from websuckets import CommandGroup, Limits, Message, OnCommit, Payload, Socket, WebSuckets
from websuckets.di import provide_context
from websuckets.exc import ClientError
from websuckets.idempotency import IdempotencyStore, StoredReply
from websuckets.middleware import CallNext, Outcome
from websuckets.redis import RedisProvider
from websuckets.redis import idempotency as redis_idempotency
from websuckets.sql import SqlProvider, metadata, sqlite_engine

POINTS: Final = (
    "before the claim",
    "after the claim",
    "in the handler",
    "before the commit",
    "after the commit",
    "before the effects",
    "before the reply",
    "in the middle of the reply",
)
"""Points at which a node kills itself, in their order."""

LEASE: Final = 1.0
"""Seconds of a lease in Redis, shorter than that of the library, as each killed node leaves one."""

HANDLER_TIMEOUT: Final = 8.0
"""Seconds of a command; for one less, a message waits for another one with its key."""

REPLY: Final = "r" * 500
"""Part of the reply, so that it has a middle."""


class Base(DeclarativeBase):
    pass


class Paid(Base):
    __tablename__ = "paid"

    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[str] = mapped_column(String)


def engine_for(url: str) -> AsyncEngine:
    if url.startswith("sqlite"):
        return sqlite_engine(url, pool_size=5, max_overflow=0)
    return create_async_engine(
        url.replace("postgresql://", "postgresql+psycopg://"), pool_size=5, max_overflow=0
    )


def sync_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def create_all(url: str) -> None:
    """Create the tables of the command and those of the library."""
    engine = create_engine(sync_url(url))
    Base.metadata.create_all(engine)
    metadata.create_all(engine)
    engine.dispose()


def effects(url: str) -> dict[str, int]:
    """Return how often each order has been paid."""
    engine = create_engine(sync_url(url))
    with engine.connect() as connection:
        rows = connection.execute(select(Paid.order, func.count()).group_by(Paid.order)).all()
    engine.dispose()
    return {order: count for order, count in rows}


class Switch:
    """The point at which this process kills itself, if any."""

    def __init__(self) -> None:
        self.point: str | None = None

    def reach(self, point: str) -> None:
        if self.point == point:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.point == f"stop {point}":
            self.point = None
            os.kill(os.getpid(), signal.SIGSTOP)


class KillingStore:
    """A store that kills its process before or after what it does."""

    def __init__(self, store: Any, switch: Switch) -> None:
        self._store = store
        self._switch = switch

    async def claim(self, owner: str, key: str, fingerprint: bytes) -> StoredReply | None:
        self._switch.reach("before the claim")
        reply: StoredReply | None = await self._store.claim(owner, key, fingerprint)
        if reply is None:
            self._switch.reach("after the claim")
        return reply

    async def complete(self, reply: StoredReply) -> None:
        await self._store.complete(reply)
        self._switch.reach("before the commit")

    async def settle(self, committed: bool) -> None:
        if committed:
            self._switch.reach("after the commit")
        await self._store.settle(committed)

    def retry_after(self, error: BaseException, attempt: int) -> float | None:
        retry = getattr(self._store, "retry_after", None)
        return None if retry is None else retry(error, attempt)


class Killing(Provider):
    """A provider of the store that kills its process."""

    def __init__(self, switch: Switch) -> None:
        super().__init__(scope=Scope.REQUEST)

        def killing(store: IdempotencyStore) -> IdempotencyStore:
            return KillingStore(store, switch)

        self.decorate(killing)


def cut_replies(switch: Switch) -> None:
    """Let the transports of asyncio write half of a reply, and then kill the process."""
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write = transport.write

    def write_half(self: Any, data: Any) -> None:
        is_reply = REPLY.encode() in bytes(data) and b'"id":1' in bytes(data)  # not for a store
        if switch.point == "in the middle of the reply" and is_reply:
            self._sock.send(bytes(data)[: len(data) // 2])
            switch.reach("in the middle of the reply")
        write(self, data)

    transport.write = write_half


def app_of(options: dict[str, Any]) -> WebSuckets:
    switch = Switch()
    engine = engine_for(options["database"])
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    group = CommandGroup()
    directory = Path(options["directory"])

    @group.command("arm")
    async def arm(socket: Socket, point: Payload[str | None]) -> int:
        switch.point = point
        return os.getpid()

    @group.command("pay", once=True)
    async def pay(
        socket: Socket, order: Payload[str], db: AsyncSession, on_commit: OnCommit
    ) -> dict[str, Any]:
        db.add(Paid(order=order))
        await db.flush()
        switch.reach("in the handler")
        on_commit(switch.reach, "before the effects")
        if order.startswith("refused first"):
            with suppress(FileExistsError):
                (directory / order).touch(exist_ok=False)
                await anyio.sleep(0.05)  # so that twins of all nodes wait
                raise ClientError("refused")
        statement = select(func.count()).where(Paid.order == order)
        return {"times": await db.scalar(statement), "order": order, "rest": REPLY}

    async def before_the_reply(socket: Socket, message: Message, call_next: CallNext) -> Outcome:
        outcome = await call_next()
        if message.event == "pay":
            switch.reach("before the reply")
        return outcome

    cut_replies(switch)
    providers: list[Provider] = [provide_context(sessions.begin, provides=AsyncSession)]
    if options.get("redis"):
        redis_idempotency.LEASE = LEASE  # type: ignore[misc]
        redis_idempotency.RENEWAL = LEASE / 3  # type: ignore[misc]
        providers.append(RedisProvider(options["redis"], once=True, prefix=options["prefix"]))
    else:
        providers.append(SqlProvider(AsyncSession))
    app = WebSuckets(
        providers=[*providers, Killing(switch)],
        middleware=[before_the_reply],
        limits=Limits(concurrency=None, handler_timeout=HANDLER_TIMEOUT),
    )
    app.include_command_group(group)
    return app


async def serve(options: dict[str, Any], url: int, life: int) -> None:
    """Serve until the parent, which alone can write to the pipe ``life``, has ended."""
    asyncio.get_running_loop().add_reader(life, os._exit, 1)
    async with app_of(options).serve("127.0.0.1", 0) as server:
        os.write(url, f"{server.urls[0]}\n".encode())
        os.close(url)
        await asyncio.Event().wait()


def fork_nodes() -> None:
    """Fork a node for each line of JSON on standard input, and write its URL."""
    life, writes_life = os.pipe()
    for line in sys.stdin:
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                os.close(reader)
                os.close(writes_life)
                asyncio.run(serve(json.loads(line), writer, life))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as url:
            print(url.readline().strip(), flush=True)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


class Nodes:
    """The parent process, and the nodes that it has forked, which end with it."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def __enter__(self) -> "Nodes":
        self._parent = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(30)
        self._parent.stdout.close()

    def start(self) -> str:
        """Start a node; return its URL once it listens."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(self._options) + "\n")
        self._parent.stdin.flush()
        url = self._parent.stdout.readline().strip()
        assert url, "the node has not started"
        return url


if __name__ == "__main__":
    fork_nodes()
