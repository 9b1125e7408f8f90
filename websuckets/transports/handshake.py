"""The opening handshake of both servers of ``websockets``, which an app may refuse."""

from collections.abc import Sequence
from contextlib import suppress
from inspect import isawaitable
from typing import Any, Final

from websockets.exceptions import ConcurrencyError, ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from websuckets.clock import Clock
from websuckets.entrance import path_of
from websuckets.exc import HandshakeRefused
from websuckets.limits import Limits
from websuckets.socket import Accepted, Door, HttpAnswer
from websuckets.transports.guard import Guard, Patience

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

    # Beside its slots, ``ServerConnection`` has a dictionary of its own. With a few names more it
    # would outgrow what Python shares between the dictionaries of a class: 1.5 KiB for each client.
    __slots__ = ("_address", "accepted", "guard")

    door: Door
    patience: Patience

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.guard: Guard = Guard(self.patience)
        self.accepted: Accepted | None = None
        self._address: tuple[Any] | None = None
        super().__init__(*arguments, **keywords)

    @property
    def remote_address(self) -> Any:
        """The client's, also if it came by a proxy that is trusted, and also when it is gone."""
        if self._address is None:
            return super().remote_address  # type: ignore[misc]  # of ServerConnection
        return self._address[0]

    async def handshake(
        self: Any, process_request: Any = None, process_response: Any = None, *arguments: Any
    ) -> None:
        original: Any = super()

        async def answer_http(_: Any, request: Request) -> Any:
            response = await _result(process_request, self, request)
            if response is None and not _wants_websocket(request):
                return self._response(self.door.answer(path_of(request.path)))
            return response

        async def process(_: Any, request: Request, response: Any) -> Any:
            response = await _result(process_response, self, request, response) or response
            if response.status_code != 101:
                if getattr(request, "method", "GET") == "HEAD":
                    response.body = b""  # its length stays in the headers: RFC 9110, section 9.3.2
                return response
            self._address = (self.door.address_of(self._peer_address(), request.headers),)
            self.accepted = self.door.accept(self)
            refusal = await self.accepted.opening()
            if refusal is None:
                return response
            await self._give_up()  # the client may keep us waiting for the end of its connection
            return self._response(refusal)

        try:
            await original.handshake(answer_http, process, *arguments)
        except BaseException:
            await self._give_up()
            raise
        if self.state is not State.OPEN:
            await self._give_up()

    def _peer_address(self) -> Any:
        try:
            return self.remote_address
        except OSError:  # it is gone already
            return None

    async def discard(self: Any) -> None:
        """Read until the connection is closed, unless somebody else does."""
        with suppress(ConnectionClosed, ConcurrencyError):
            while True:
                with suppress(AssertionError):  # the rest of a message with too many fragments
                    await self.recv()

    async def _give_up(self) -> None:
        accepted, self.accepted = self.accepted, None
        if accepted is not None:
            await accepted.discard()

    async def send(self: Any, *arguments: Any, **keywords: Any) -> None:
        self._check_open()
        await super().send(*arguments, **keywords)  # type: ignore[misc]  # of ServerConnection

    async def ping(self: Any, *arguments: Any) -> Any:
        self._check_open()
        return await super().ping(*arguments)  # type: ignore[misc]  # of ServerConnection

    def _check_open(self: Any) -> None:
        """What would wait for good during the opening handshake, is an error."""
        if self.state is State.CONNECTING:
            raise RuntimeError(NOT_OPEN)

    def _response(self: Any, answer: HandshakeRefused | HttpAnswer) -> Response:
        response: Response = self.respond(answer.status, answer.text)
        for name, value in answer.headers.items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response


async def _result(process: Any, *arguments: Any) -> Any:
    """What the program's own ``process_request`` or ``process_response`` says, if it has one."""
    result = None if process is None else process(*arguments)
    return await result if isawaitable(result) else result


def _wants_websocket(request: Request) -> bool:
    return any("websocket" in value.lower() for value in request.headers.get_all("Upgrade"))


def options_with(
    door: Door,
    limits: Limits,
    clock: Clock,
    mixin: type[Handshake],
    connection_type: type,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The ``options`` for ``serve``, with our limits and connections of our kind."""
    given = options.get("create_connection", connection_type)
    options = dict(options)
    shared = {"door": door, "patience": Patience.of(clock, limits, options)}

    def select_subprotocol(connection: Any, offered: Sequence[str]) -> str | None:
        return door.subprotocol(offered)

    if "subprotocols" not in options:
        options.setdefault("select_subprotocol", select_subprotocol)
    return {
        **options,
        "max_size": limits.max_size,
        "compression": limits.compression,
        "ping_interval": None,  # the guard does that
        "create_connection": type(given.__name__, (mixin, given), shared),
    }


async def serve_connection(connection: Any) -> None:
    """The handler for ``serve``."""
    accepted: Accepted = connection.accepted
    await accepted.serve()
