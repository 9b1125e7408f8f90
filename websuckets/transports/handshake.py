"""The opening handshake of both servers of ``websockets``, which an app may refuse."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import isawaitable
from typing import Any, Final, NoReturn

from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from websuckets.exc import HandshakeRefused
from websuckets.limits import Limits
from websuckets.socket import Accepted, Wire

__all__ = ["NOT_OPEN", "Handshake", "options_with", "serve_connection"]

NOT_OPEN: Final = (
    "the connection is not open before its handshake is answered: send in an on_connect hook; to "
    "refuse the client, raise HandshakeRefused"
)


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
            await self._give_up()  # the client may keep us waiting for the end of its connection
            return self._refuse(refusal)

        try:
            await original.handshake(process_request, process, *arguments)
        except BaseException:
            await self._give_up()
            raise
        if self.state is not State.OPEN:
            await self._give_up()

    async def discard_frames(self: Any) -> None:
        """Read until the connection is closed, unless somebody else does."""
        with suppress(ConnectionClosed, ConcurrencyError):
            while True:
                await self.recv()

    async def _give_up(self) -> None:
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
    raise RuntimeError(NOT_OPEN)


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
