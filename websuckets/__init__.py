"""Real-time applications over WebSocket: commands, typed handlers, dependencies per message."""

from typing import TYPE_CHECKING, Any

from websuckets.app import WebSuckets
from websuckets.commands.groups import CommandGroup
from websuckets.commands.signature import Payload
from websuckets.limits import Limits
from websuckets.protocol.messages import ClientEvent, Message
from websuckets.runtime.tasks import AppTasks, ConnectionTasks
from websuckets.socket import ResponseHeaders, Socket

__all__ = [
    "AppTasks",
    "ClientEvent",
    "CommandGroup",
    "ConnectionTasks",
    "Limits",
    "Message",
    "Payload",
    "ResponseHeaders",
    "Socket",
    "WebSuckets",
    "__version__",
]

if TYPE_CHECKING:
    __version__: str
    """Version of the installed package."""
else:

    def __getattr__(name: str) -> Any:
        """Return ``__version__``, which is looked up when asked for: that takes milliseconds."""
        if name == "__version__":
            from importlib.metadata import version  # only here, as few programs need it

            return version("websuckets")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
