"""Real-time applications over WebSocket: commands, typed handlers, dependencies per message."""

from typing import TYPE_CHECKING

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
]

__version__: str
"""Version of the installed package, from its metadata; read when it is first asked for."""

if not TYPE_CHECKING:  # type checkers would take any other name for an attribute, too

    def __getattr__(name: str) -> str:
        """Return ``__version__``, which few programs read, so that no import looks for metadata.

        Raises ``importlib.metadata.PackageNotFoundError`` where the package is not installed.
        """
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        globals()[name] = found = version(__name__)
        return found
