"""Common part of ``ServerConnection`` on asyncio and on trio, for type checkers alone.

Base classes that stand before either ``ServerConnection`` name what they use of it here. At run
time they are plain mixins, as one class cannot have two libraries' classes as its base.
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any
from uuid import UUID

from websockets.http11 import SERVER, Request, Response
from websockets.protocol import State

__all__ = ["CommonConnection"]

if TYPE_CHECKING:

    class CommonConnection:
        """The part of a ``ServerConnection`` that both event loops have in common."""

        id: UUID
        protocol: Any
        request: Request | None
        response: Response | None
        recv_messages: Any
        send_in_progress: Any
        ping: Callable[..., Coroutine[Any, Any, Any]]

        def __init__(self, *arguments: Any, **keywords: Any) -> None: ...
        @property
        def state(self) -> State: ...
        @property
        def remote_address(self) -> Any: ...
        def respond(self, status: Any, text: str) -> Response: ...
        async def handshake(
            self,
            process_request: Any = None,
            process_response: Any = None,
            server_header: str | None = SERVER,
        ) -> None: ...
        async def recv(self, decode: Any = None) -> Any: ...
        async def send(self, message: Any, *, text: bool | None = None) -> None: ...
        async def pong(self, data: Any = b"") -> None: ...
        def process_event(self, event: Any) -> None: ...

else:
    CommonConnection = object
