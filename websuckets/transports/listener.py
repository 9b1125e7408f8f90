"""What both servers of ``websockets`` have in common."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, NoReturn, Protocol

from websockets.http11 import Request, Response
from websockets.protocol import State

from websuckets.exc import HandshakeRefused
from websuckets.limits import Limits
from websuckets.socket import Accepted, Wire

__all__ = ["Handshake", "Listener", "Named", "keep_secrets_out_of_logs", "options_with"]


class Handshake:
    """Gives a ``ServerConnection`` the opening handshake that an app may refuse.

    It asks once ``websockets`` itself finds the handshake acceptable, and tells if it does not come
    to a connection. As a base class it stands before ``ServerConnection``.
    """

    accept: Callable[[Wire], Accepted]
    wire: Callable[[], Wire]
    accepted: Accepted | None = None

    async def handshake(
        self: Any, process_request: Any = None, process_response: Any = None, *arguments: Any
    ) -> None:
        original: Any = super()

        async def process(_: Any, request: Request, response: Any) -> Any:
            if process_response is not None:
                theirs = process_response(self, request, response)
                response = (await theirs if isawaitable(theirs) else theirs) or response
            if response.status_code != 101:
                return response
            self.accepted = self.accept(self.wire())
            with self._unsendable():
                refusal = await self.accepted.opening()
            if refusal is None:
                return response
            await self._discard()  # the client may keep us waiting for the end of its connection
            return self._refuse(refusal)

        try:
            await original.handshake(process_request, process, *arguments)
        except BaseException:
            await self._discard()
            raise
        if self.state is not State.OPEN:
            await self._discard()

    async def _discard(self) -> None:
        accepted, self.accepted = self.accepted, None
        if accepted is not None:
            await accepted.discard()

    @contextmanager
    def _unsendable(self) -> Iterator[None]:
        """What would wait for good, because the connection is not open, is an error meanwhile."""
        names = ("send", "ping", "close")
        for name in names:
            setattr(self, name, _refuse_to_send)
        try:
            yield
        finally:
            for name in names:
                delattr(self, name)

    def _refuse(self: Any, refusal: HandshakeRefused) -> Response:
        response: Response = self.respond(refusal.status, refusal.text)
        for name, value in refusal.headers.items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response


async def _refuse_to_send(*arguments: Any, **keywords: Any) -> NoReturn:
    raise RuntimeError(
        "the connection is not open before its handshake is answered: send in an on_connect hook; "
        "to refuse the client, raise HandshakeRefused"
    )


def options_with(
    limits: Limits,
    accept: Callable[[Wire], Accepted],
    mixin: type[Handshake],
    connection_type: type,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The ``options`` for ``serve``, with our limits and connections of our kind."""
    given = options.get("create_connection", connection_type)
    bases = (mixin, given)
    return {
        **options,
        "max_size": limits.max_size,
        "compression": limits.compression,
        "create_connection": type(given.__name__, bases, {"accept": staticmethod(accept)}),
    }


async def serve_connection(connection: Any) -> None:
    """The handler for ``serve``."""
    accepted: Accepted = connection.accepted
    await accepted.serve()


class Named(Protocol):
    """A listening socket, whoever's it is."""

    def getsockname(self) -> Any: ...


class Listener:
    """The listening sockets; it lives as long as they do."""

    def __init__(self, sockets: Sequence[Named], *, secure: bool) -> None:
        self._names = [socket.getsockname() for socket in sockets]
        self._scheme = "wss" if secure else "ws"

    @property
    def port(self) -> int | None:
        """The TCP port; ``None`` on a unix socket."""
        for name in self._names:
            if isinstance(name, tuple):
                return int(name[1])
        return None

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect to, one for each socket; for a unix socket, its path."""
        return tuple(self._url(name) for name in self._names)

    def _url(self, name: Any) -> str:
        if not isinstance(name, tuple):
            return f"unix:{name}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{self._scheme}://{host}:{name[1]}"


def keep_secrets_out_of_logs() -> None:
    """Keep ``websockets`` from logging whole messages and headers, unless it was told to."""
    logger = logging.getLogger("websockets")
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)
