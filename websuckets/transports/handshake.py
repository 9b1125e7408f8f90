"""The opening handshake of both servers of ``websockets``, which an app may refuse."""

from abc import abstractmethod
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableSet,
    Sequence,
)
from inspect import isawaitable
from typing import Any, Final

from pydantic import BaseModel
from websockets.http11 import SERVER, Request, Response
from websockets.protocol import State

from websuckets.connections.admission import join_cookies
from websuckets.limits import Limits
from websuckets.protocol.transport import Acceptor, ConnectionHandler, HttpResponse
from websuckets.runtime.clock import Clock
from websuckets.socket import ResponseHeaders, path_of, sent_headers
from websuckets.transports.checks import not_sendable
from websuckets.transports.common_connection import CommonConnection
from websuckets.transports.opening import Opening
from websuckets.transports.shared_sockets import SharedSockets
from websuckets.transports.watchdog import PeerTimeouts

__all__ = ["NOT_OPEN", "Handshake", "options_with", "serve_connection"]

NOT_OPEN: Final = (
    "the connection is not open before its handshake is answered: send in an on_connect hook; to "
    "refuse the client, raise HandshakeRefused"
)


class Handshake(CommonConnection):
    """A base class that gives a ``ServerConnection`` an opening handshake that an app may refuse.

    The app is asked once ``websockets`` itself finds the handshake acceptable, and the connection
    handler is told if no connection is opened. ``Handshake`` stands before ``ServerConnection``
    among the base classes.
    """

    __slots__ = ()

    _attributes: tuple[str, ...] = ("_address", "_response_headers", "connection_handler")
    """Names of the attributes that this class gives an instance, and each subclass names its own.

    They are slots of the class that `_creating` makes.
    """

    acceptor: Acceptor
    timeouts: PeerTimeouts
    handshakes: MutableSet[Any] | None = None
    """Handshakes under way, where another process may take the place of this one."""
    connection_handler: ConnectionHandler | None
    _address: tuple[Any] | None
    _response_headers: ResponseHeaders | None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._prepare()

    def _prepare(self) -> None:
        """Set the attributes of a new connection, after those of ``websockets``."""
        self.connection_handler = None
        self._address = None
        self._response_headers = None
        if self.handshakes is not None:
            self.handshakes.add(self)

    @property
    def remote_address(self) -> Any:
        """The client's address, also behind a trusted proxy, and also once the client has left."""
        if self._address is None:
            return super().remote_address
        return self._address[0]

    async def handshake(
        self,
        process_request: Any = None,
        process_response: Any = None,
        server_header: str | None = SERVER,
    ) -> None:
        opening = Opening(self.acceptor)

        async def answer_http(_: Any, request: Request) -> Any:
            self._check_can_answer()
            join_cookies(request.headers)
            response = await _result(process_request, self, request)
            if response is None and not _wants_websocket(request):
                return self._response(await self.acceptor.answer(path_of(request), request))
            return response

        async def process(_: Any, request: Request, response: Any) -> Any:
            response = await _result(process_response, self, request, response) or response
            self._check_can_answer()  # the answer may have taken some time
            if response.status_code != 101:
                if getattr(request, "method", "GET") == "HEAD":
                    response.body = b""  # the headers keep the length: RFC 9110, section 9.3.2
                return response
            self._address = (self.acceptor.address_of(self._peer_address(), request.headers),)
            transport: Any = self
            refusal = await opening.ask(transport)
            self._check_can_answer()
            if refusal is not None:
                return self._response(HttpResponse.of(refusal))
            for name, value in sent_headers(self):
                response.headers[name] = value
            return response

        try:
            async with opening:
                try:
                    await super().handshake(answer_http, process, server_header)
                except _CannotAnswer:
                    await self.abort()
                is_open = self.state is State.OPEN
                self.connection_handler = opening.opened() if is_open else None
        finally:
            if self.handshakes is not None:
                self.handshakes.discard(self)

    def _check_can_answer(self) -> None:
        """Raise `_CannotAnswer` if the data after the request broke the protocol."""
        if self.protocol.close_expected():
            raise _CannotAnswer

    def _peer_address(self) -> Any:
        try:
            return self.remote_address
        except OSError:  # the client has left already
            return None

    @abstractmethod
    async def abort(self) -> None:
        """Abort the connection, and wait until the connection is closed."""

    async def send(self, message: Any, *, text: bool | None = None) -> None:
        self._check_open()
        try:
            await super().send(message, text=text)
        except TypeError as error:
            is_object = isinstance(message, Mapping | BaseModel)  # which are iterable, too
            if is_object or not isinstance(message, Iterable | AsyncIterable):
                error.add_note(not_sendable(message))
            raise

    async def pong(self, data: Any = b"") -> None:
        self._check_open()
        await super().pong(data)

    def _check_open(self) -> None:
        """Raise ``RuntimeError`` during the opening handshake, when sending would never end."""
        if self.state is State.CONNECTING:
            raise RuntimeError(NOT_OPEN)

    def _response(self, answer: HttpResponse) -> Response:
        response: Response = self.respond(answer.status, answer.text)
        for name, value in answer.all_headers().items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response


class _CannotAnswer(BaseException):  # as ``websockets`` answers an Exception with 500
    """Error of a request after which ``websockets`` has already ended the connection.

    Clients that pipeline HTTP requests cause this error: ``websockets`` reads the data after a
    request as frames, and would fail if ``websockets`` answered the request after all.
    """


async def _result(process: Any, *arguments: Any) -> Any:
    """Return the result of the program's ``process_request`` or ``process_response``, if any."""
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
    """Return the ``options`` for ``serve``, with our limits and our connection class.

    All connections share ``attributes``. The option ``shared_sockets`` is not among the result.
    """
    given = options.get("create_connection") or connection_type
    options = dict(options)
    sockets: SharedSockets | None = options.pop("shared_sockets", None)
    shared = {
        "handshakes": None if sockets is None else sockets.handshakes,
        "acceptor": acceptor,
        "timeouts": PeerTimeouts.of(clock, limits, options),
        **attributes,
    }

    def select_subprotocol(connection: Any, offered: Sequence[str]) -> str | None:
        return acceptor.subprotocol(offered)

    # With a function to select one, each connection keeps functions of its own: 400 bytes.
    if acceptor.has_subprotocols and "subprotocols" not in options:
        options.setdefault("select_subprotocol", select_subprotocol)
    return {
        **options,
        "max_size": limits.max_size,
        "compression": limits.compression,
        "ping_interval": None,  # the watchdog sends pings
        "create_connection": _creating(given, mixin, shared),
    }


def _creating(given: Any, mixin: type[Handshake], shared: dict[str, Any]) -> Callable[..., Any]:
    """Return a callable that creates connections with the mixin, in place of ``given``.

    For a class, return a subclass. Any other ``given`` is called, and the class of the connection
    that ``given`` returns is then replaced by a subclass.
    """
    if isinstance(given, type):
        # Besides its slots, ``ServerConnection`` has a ``__dict__``. With a few more names, the
        # ``__dict__`` would be too large for the keys that Python shares between the instances of
        # a class, and cost 1.5 KiB for each client.
        slots = [name for cls in mixin.__mro__ for name in cls.__dict__.get("_attributes", ())]
        return type(given.__name__, (mixin, given), {"__slots__": slots, **shared})
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
    """Return a subclass of both classes that can become the class of instances of ``theirs``.

    So ``theirs`` has to be the first base class, while methods of ``mixin`` take precedence.
    """

    def mro(cls: type) -> list[type]:
        return [cls, *mixin.__mro__[:-1], *theirs.__mro__]

    metaclass: Any = type("MixinFirst", (type(theirs),), {"mro": mro})
    made: type = metaclass(theirs.__name__, (theirs, mixin), {"__slots__": (), **names})
    return made


def serve_connection(connection: Any) -> Awaitable[None]:
    """Serve an open connection, as the handler for ``serve``."""
    handler: ConnectionHandler = connection.connection_handler
    return handler.serve()
