"""Real-time applications over WebSocket: commands, typed handlers, dependencies per message."""

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
