"""Opening handshake of a connection, whose handler serves the connection or is discarded."""

from types import TracebackType
from typing import Self

from websuckets.exc import HandshakeRefused
from websuckets.protocol.transport import Acceptor, ConnectionHandler, TransportConnection

__all__ = ["Opening"]


class Opening:
    """An opening handshake, entered as a context while a transport answers it.

    All transports drive a `ConnectionHandler` like this; nothing else calls `opening` and
    `not_opened`:

        async with Opening(acceptor) as opening:
            refusal = await opening.ask(connection)
            ...  # the transport sends its answer, the app's or one of its own
            if refusal is None:
                handler = opening.opened()
        await handler.serve()

    The handler is discarded, and finalises its objects, as soon as the connection cannot be
    opened any more: when the app refuses, before the answer is sent, as the client may delay the
    rest; and when the context is left without a call of `opened`, whatever the reason.
    """

    __slots__ = ("_acceptor", "_handler")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._handler: ConnectionHandler | None = None

    async def ask(self, connection: TransportConnection) -> HandshakeRefused | None:
        """Return the answer with which the app refuses the connection; ``None`` to open it."""
        self._handler = self._acceptor.accept(connection)
        refusal = await self._handler.opening()
        if refusal is not None:
            await self._discard()
        return refusal

    def opened(self) -> ConnectionHandler:
        """Return the handler, which is the caller's to run: the handshake has been answered."""
        handler, self._handler = self._handler, None
        assert handler is not None
        return handler

    async def _discard(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            await handler.not_opened()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._discard()
