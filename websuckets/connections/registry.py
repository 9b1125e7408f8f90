"""Connections of a running app, and how the app closes them when it stops."""

import logging
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import anyio
from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets.connections.admission import ConnectionCounts
from websuckets.connections.connection import Connection
from websuckets.connections.readiness import Readiness
from websuckets.connections.setup import Setup
from websuckets.exc import HandshakeRefused
from websuckets.limits import limit_text
from websuckets.protocol.transport import HttpResponse, TransportConnection
from websuckets.runtime.jitter import uniform
from websuckets.runtime.stop_times import time_to_abort, time_to_stop
from websuckets.runtime.tasks import wait_through

__all__ = ["Connections"]

logger: logging.Logger = logging.getLogger("websuckets")


AT_ONCE: Final = 100
"""Connections that a stopping server closes at once; more are closed at `CLOSES_PER_SECOND`."""

CLOSES_PER_SECOND: Final = 1000

SHOWN: Final = 100
"""Characters of an origin that one log line shows."""

WHY_REFUSED: Final = {
    HTTPStatus.FORBIDDEN: "the origin is not among WebSuckets(origins=[...])",
    HTTPStatus.NOT_FOUND: "the path is not that of WebSuckets(path=...)",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "its cookies are too long",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many connections are open",
    HTTPStatus.TOO_MANY_REQUESTS: "too many connections of its address are open",
}
"""Reasons for which the app itself refuses an opening handshake, by the HTTP status."""

LIMITS_BY_STATUS: Final = {
    HTTPStatus.SERVICE_UNAVAILABLE: "max_connections",
    HTTPStatus.TOO_MANY_REQUESTS: "max_connections_per_ip",
}
"""Limits past which the app refuses an opening handshake, by the HTTP status."""

COMMANDS_LOGGED: Final = 10
"""Names of commands in one log line."""


class Connections:
    """Connections of a running app, from their opening handshakes on; an `Acceptor`."""

    def __init__(self, setup: Setup, readiness: Readiness) -> None:
        self._setup = setup
        self._readiness = readiness
        self._open: set[Connection] = set()
        self._counts = ConnectionCounts(setup.limits)
        self._closing = False
        self._all_gone = anyio.Event()
        setup.clock.on_jump(self._check)

    def address_of(self, peer: Any, headers: Headers) -> Any:
        return self._setup.admission.address_of(peer, headers)

    @property
    def has_subprotocols(self) -> bool:
        return bool(self._setup.admission.subprotocols)

    def subprotocol(self, offered: Iterable[str]) -> str | None:
        return self._setup.admission.subprotocol(offered)

    async def answer(self, path: str, request: Request) -> HttpResponse:
        admission, pages = self._setup.admission, self._setup.pages
        if pages is not None and pages.covers(path):
            if self._closing:
                return HttpResponse(HTTPStatus.SERVICE_UNAVAILABLE, "stopping\n")
            return await pages.answer(path, request, self._setup)
        asks = path == admission.health and not self._closing
        is_ready = await self._readiness.ask() if asks else True
        return admission.answer(path, closing=self._closing, is_ready=is_ready)

    def accept(self, transport: TransportConnection) -> Connection:
        refusal = self._refusal(transport)
        if refusal is not None:
            self._log(refusal, transport)
        connection = Connection(transport, self._setup, refusal, self)
        self._open.add(connection)
        self._counts.add(connection.address)
        return connection

    def _log(self, refusal: HandshakeRefused, transport: TransportConnection) -> None:
        """Log why a client may not connect; of its headers, only an origin that is refused.

        The log shows the beginning of the origin, with all that is not printable escaped.
        """
        request = transport.socket.request
        assert request is not None  # the opening handshake has come
        why = "the app stops" if self._closing else WHY_REFUSED[refusal.status]
        if refusal.status == HTTPStatus.FORBIDDEN:
            origin = ", ".join(request.headers.get_all("Origin"))
            why += f"; its origin: {ascii(origin[:SHOWN]) if origin else 'none'}"
        limit = None if self._closing else LIMITS_BY_STATUS.get(refusal.status)
        if limit is not None:
            why += f" ({limit_text(limit, getattr(self._setup.limits, limit))})"
        logger.info("refused %s: HTTP %d, %s", transport.socket.id, refusal.status, why)

    def _refusal(self, transport: TransportConnection) -> HandshakeRefused | None:
        """Return the refusal of a client that may not connect; ``None`` for any other."""
        request = transport.socket.request
        assert request is not None  # the opening handshake has come
        if self._closing:
            return HandshakeRefused(HTTPStatus.SERVICE_UNAVAILABLE)
        refusal = self._counts.refusal(transport.socket.remote_address)
        if refusal is not None:
            return refusal
        return self._setup.admission.refusal(transport.request_path, request.headers)

    def gone(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        self._open.discard(connection)
        self._counts.remove(connection.address)
        if not self._open:
            self._all_gone.set()

    def _check(self) -> None:
        """Check whether the time of a connection is over by the wall clock, which was set."""
        for connection in list(self._open):
            connection.check()

    async def drain(self) -> None:
        """Close every connection after its running commands, and wait until all are gone.

        More than `AT_ONCE` are closed spread over time, in random order, because all their clients
        will connect elsewhere.
        """
        self._closing = True
        self._readiness.close()
        spread = len(self._open) / CLOSES_PER_SECOND if len(self._open) > AT_ONCE else 0
        async with anyio.create_task_group() as closing:
            for connection in self._open:
                closing.start_soon(self._drain, connection, uniform(0, spread))
        await self._wait_until_gone()

    async def _drain(self, connection: Connection, delay: float) -> None:
        await anyio.sleep(delay)
        await connection.drain()

    async def abort(self, after: float | None) -> None:
        """Cancel connections that are left, and wait until they have been finalised.

        ``after`` is the number of seconds in which they should have closed, for the log.
        A handler that ignores its cancellation is left behind, and an error is logged.
        """
        if not self._open:
            return
        limit = self._setup.limits.drain_timeout
        why = limit_text("drain_timeout", limit) if after == limit else f"after {after} seconds"
        logger.warning(
            "aborting %d connections that did not close%s (%s)",
            *(len(self._open), self.what_runs(), why),
        )
        for connection in self._open:
            connection.cancel()
        self._all_gone = anyio.Event()
        try:
            timeout = time_to_abort(self._setup.limits, self._setup.hooks.at_the_end)
            await wait_through(self._all_gone, timeout)
        finally:
            self._leave_behind()

    @property
    def time_to_stop(self) -> float:
        """Seconds that stopping the app can take, if nothing ignores its cancellation."""
        return time_to_stop(self._setup.limits, self._setup.hooks.at_the_end)

    def _leave_behind(self) -> None:
        """Log and abort connections that are left; at least their clients learn of the end."""
        if self._open:
            logger.error(
                "%d connections ignore their cancellation%s (%s)",
                len(self._open),
                self.what_runs(),
                limit_text("finalize_timeout", self._setup.limits.finalize_timeout),
            )
        for connection in self._open:
            connection.abort()

    @property
    def are_left(self) -> bool:
        """True if any connection ignored its cancellation."""
        return bool(self._open)

    def what_runs(self) -> str:
        """Return the names of running commands, for the log."""
        commands = Counter(self._setup.request_scopes.running).most_common(COMMANDS_LOGGED)
        return "".join(f", {command!r:.80} ({times})" for command, times in commands)

    async def _wait_until_gone(self) -> None:
        if self._open:
            self._all_gone = anyio.Event()
            await self._all_gone.wait()
