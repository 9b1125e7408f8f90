"""Real-time applications over WebSocket: commands, typed handlers, dependencies per message."""

from websuckets.app import WebSuckets
from websuckets.commands import CommandGroup
from websuckets.di.plan import Payload
from websuckets.envelope import ClientEvent, Message
from websuckets.limits import Limits
from websuckets.socket import ResponseHeaders, Socket
from websuckets.tasks import AppTasks, ConnectionTasks

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
