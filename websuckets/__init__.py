"""Real-time applications over WebSocket: commands, typed handlers, dependencies per message."""

from typing import TYPE_CHECKING

from websuckets.app import WebSuckets
from websuckets.asyncapi.docs import Docs
from websuckets.channels import Channels
from websuckets.commands.groups import CommandGroup
from websuckets.commands.signature import Payload
from websuckets.exc import ClientError
from websuckets.limits import Limits
from websuckets.on_commit import OnCommit
from websuckets.protocol.events import Event
from websuckets.protocol.messages import ClientEvent, Message
from websuckets.runtime.tasks import AppTasks, ConnectionTasks
from websuckets.security import CurrentUser, Token
from websuckets.session import Session, User
from websuckets.socket import ResponseHeaders, Socket

__all__ = [
    "AppTasks",
    "Channels",
    "ClientError",
    "ClientEvent",
    "CommandGroup",
    "ConnectionTasks",
    "CurrentUser",
    "Docs",
    "Event",
    "Limits",
    "Message",
    "OnCommit",
    "Payload",
    "ResponseHeaders",
    "Session",
    "Socket",
    "Token",
    "User",
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
