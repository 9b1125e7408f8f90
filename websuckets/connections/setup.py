"""Set-up of connections: all that the connections of a running app have in common."""

from dataclasses import dataclass
from typing import Protocol

from websockets.http11 import Request

from websuckets.commands.dispatcher import Dispatcher
from websuckets.commands.hooks import Hooks
from websuckets.commands.injected_function import InjectedFunction
from websuckets.connections.admission import Admission
from websuckets.limits import Limits
from websuckets.protocol.transport import HttpResponse
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.request_scope import RequestScopes
from websuckets.runtime.scopes import OpenScope
from websuckets.runtime.tasks import Background
from websuckets.session import Session

__all__ = ["HttpPages", "Setup"]


class HttpPages(Protocol):
    """Pages that a running app serves to requests that are not opening handshakes."""

    def covers(self, path: str) -> bool:
        """Tell whether there is a page at this path."""
        ...

    async def answer(self, path: str, request: Request, setup: "Setup") -> HttpResponse:
        """Return the answer to a request for a page that `covers` knows."""
        ...


@dataclass(frozen=True, slots=True)
class Setup:
    """Objects and settings that the connections of a running app share."""

    scope: OpenScope
    """The APP scope."""
    connection_types: tuple[type, ...]
    dispatcher: Dispatcher
    has_streams: bool
    hooks: Hooks
    identification: InjectedFunction | None
    """Function that verifies the user of a handshake, before any hook runs."""
    admission: Admission
    session: Session
    limits: Limits
    clock: Clock
    time_to_verify: Timeout
    request_scopes: RequestScopes
    background: Background
    pages: HttpPages | None = None

    @property
    def some_run_beside(self) -> bool:
        """True if a connection may handle several messages at once."""
        return self.has_streams or self.limits.concurrency != 1
