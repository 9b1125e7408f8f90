"""The opening handshake of both servers of ``websockets``, which an app may refuse."""

from collections.abc import Callable, Sequence
from inspect import isawaitable
from typing import Any, Final

from websockets.http11 import SERVER, Request, Response
from websockets.protocol import State

from websuckets.connections.admission import join_cookies
from websuckets.exc import HandshakeRefused
from websuckets.limits import Limits
from websuckets.protocol.transport import Acceptor, ConnectionHandler, HttpResponse
from websuckets.runtime.clock import Clock
from websuckets.socket import path_of, sent_headers
from websuckets.transports.watchdog import PeerTimeouts

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

    __slots__ = ()

    _attributes: tuple[str, ...] = (
        *("_address", "_response_headers", "accepted", "has_stopped_receiving"),
    )
    """Names of what an instance has beside the attributes of a ``ServerConnection``."""

    acceptor: Acceptor
    timeouts: PeerTimeouts
    accepted: ConnectionHandler | None
    has_stopped_receiving: bool

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._prepare()
        super().__init__(*arguments, **keywords)

    def _prepare(self: Any) -> None:
        """Set the attributes of a new connection."""
        self.accepted = None
        self.has_stopped_receiving = False
        self._address = None
        self._response_headers = None

    @property
    def remote_address(self: Any) -> Any:
        """The client's, also if it came by a proxy that is trusted, and also when it is gone."""
        if self._address is None:
            return super().remote_address  # type: ignore[misc]  # of ServerConnection
        return self._address[0]

    async def handshake(
        self: Any,
        process_request: Any = None,
        process_response: Any = None,
        server_header: str | None = SERVER,
    ) -> None:
        original: Any = super()

        async def answer_http(_: Any, request: Request) -> Any:
            if self.protocol.close_expected():  # what came behind the request broke the protocol
                raise _CannotAnswer
            join_cookies(request.headers)
            response = await _result(process_request, self, request)
            if response is None and not _wants_websocket(request):
                return self._response(self.acceptor.answer(path_of(request)))
            return response

        async def process(_: Any, request: Request, response: Any) -> Any:
            response = await _result(process_response, self, request, response) or response
            if response.status_code != 101:
                if getattr(request, "method", "GET") == "HEAD":
                    response.body = b""  # its length stays in the headers: RFC 9110, section 9.3.2
                return response
            self._address = (self.acceptor.address_of(self._peer_address(), request.headers),)
            self.accepted = self.acceptor.accept(self)
            refusal = await self.accepted.opening()
            if refusal is None:
                for name, value in sent_headers(self):
                    response.headers[name] = value
                return response
            await (
                self._abort_opening()
            )  # the client may keep us waiting for the end of its connection
            return self._response(refusal)

        try:
            await original.handshake(answer_http, process, server_header)
        except _CannotAnswer:
            await self.abort()
        except BaseException:
            await self._abort_opening()
            raise
        if self.state is not State.OPEN:
            await self._abort_opening()

    def _peer_address(self) -> Any:
        try:
            return self.remote_address
        except OSError:  # it is gone already
            return None

    async def _abort_opening(self: Any) -> None:
        accepted, self.accepted = self.accepted, None
        if accepted is not None:
            await accepted.not_opened()

    async def send(self: Any, message: Any, *, text: bool | None = None) -> None:
        self._check_open()
        await super().send(message, text=text)  # type: ignore[misc]  # of ServerConnection

    async def pong(self: Any, data: str | bytes = b"") -> None:
        self._check_open()
        await super().pong(data)  # type: ignore[misc]  # of ServerConnection

    def _check_open(self: Any) -> None:
        """What would wait for good during the opening handshake, is an error."""
        if self.state is State.CONNECTING:
            raise RuntimeError(NOT_OPEN)

    def _response(self: Any, answer: HandshakeRefused | HttpResponse) -> Response:
        response: Response = self.respond(answer.status, answer.text)
        for name, value in answer.headers.items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response


class _CannotAnswer(BaseException):  # past what ``websockets`` answers with 500
    """A request cannot be answered: ``websockets`` has ended the connection already.

    Clients that pipeline HTTP requests do that. ``websockets`` reads what follows a request as
    frames, and would fail when it answers the request after all.
    """


async def _result(process: Any, *arguments: Any) -> Any:
    """What the program's own ``process_request`` or ``process_response`` says, if it has one."""
    result = None if process is None else process(*arguments)
    return await result if isawaitable(result) else result


def _wants_websocket(request: Request) -> bool:
    return any("websocket" in value.lower() for value in request.headers.get_all("Upgrade"))


def options_with(
    acceptor: Acceptor,
    limits: Limits,
    clock: Clock,
    mixin: type[Handshake],
    connection_type: type,
    options: dict[str, Any],
    **attributes: Any,
) -> dict[str, Any]:
    """Return the ``options`` for ``serve``, with our limits and connections of our kind.

    All connections share ``attributes``.
    """
    given = options.get("create_connection") or connection_type
    options = dict(options)
    shared = {
        "acceptor": acceptor,
        "timeouts": PeerTimeouts.of(clock, limits, options),
        **attributes,
    }

    def select_subprotocol(connection: Any, offered: Sequence[str]) -> str | None:
        return acceptor.subprotocol(offered)

    if "subprotocols" not in options:
        options.setdefault("select_subprotocol", select_subprotocol)
    return {
        **options,
        "max_size": limits.max_size,
        "compression": limits.compression,
        "ping_interval": None,  # the watchdog does that
        "create_connection": _creating(given, mixin, shared),
    }


def _creating(given: Any, mixin: type[Handshake], shared: dict[str, Any]) -> Callable[..., Any]:
    """Return what creates connections of our kind, ``given`` what creates others.

    Of a class it is a class. Whatever else ``given`` is, its connections become ours once it has
    created them.
    """
    if isinstance(given, type):
        # Beside its slots, ``ServerConnection`` has a dictionary of its own. With a few names more
        # it would outgrow what Python shares between the dictionaries of a class: 1.5 KiB for each
        # client.
        return type(given.__name__, (mixin, given), {"__slots__": mixin._attributes, **shared})
    classes: dict[type, type] = {}

    def create(*arguments: Any, **keywords: Any) -> Any:
        connection = given(*arguments, **keywords)
        theirs = type(connection)
        if theirs not in classes:
            classes[theirs] = _class_for_instances_of(theirs, mixin, shared)
        connection.__class__ = classes[theirs]
        connection._prepare()
        return connection

    return create


def _class_for_instances_of(theirs: type, mixin: type, names: dict[str, Any]) -> type:
    """Return a subclass of both that instances of ``theirs`` can be given.

    For that ``theirs`` has to be its first base, but methods are looked for in ``mixin`` first.
    """

    def mro(cls: type) -> list[type]:
        return [cls, *mixin.__mro__[:-1], *theirs.__mro__]

    metaclass: Any = type("MixinFirst", (type(theirs),), {"mro": mro})
    made: type = metaclass(theirs.__name__, (theirs, mixin), {"__slots__": (), **names})
    return made


async def serve_connection(connection: Any) -> None:
    """The handler for ``serve``."""
    accepted: ConnectionHandler = connection.accepted
    await accepted.serve()
