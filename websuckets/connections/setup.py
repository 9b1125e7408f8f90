"""Set-up of connections: all that the connections of a running app have in common."""

from dataclasses import dataclass

from websuckets.commands.dispatcher import Dispatcher
from websuckets.commands.hooks import Hooks
from websuckets.commands.injected_function import InjectedFunction
from websuckets.connections.admission import Admission
from websuckets.limits import Limits
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.request_scope import RequestScopes
from websuckets.runtime.scopes import OpenScope
from websuckets.runtime.tasks import Background
from websuckets.session import Session

__all__ = ["Setup"]


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

    @property
    def some_run_beside(self) -> bool:
        """True if a connection may handle several messages at once."""
        return self.has_streams or self.limits.concurrency != 1
