"""Client of a websuckets server, which connects again, sends again, and catches up."""

from websuckets.client.authentication import Credentials
from websuckets.client.client import Client
from websuckets.client.errors import (
    ClientClosed,
    CommandError,
    ConnectionLost,
    EventsMissed,
    QueueFull,
    SlowReader,
    UnexpectedReply,
    UserChanged,
)
from websuckets.client.frames import ReceivedEvent
from websuckets.client.reconnecting import CLOSE_CODES, Backoff, Retry
from websuckets.client.streams import Stream
from websuckets.client.subscriptions import Subscription

__all__ = [
    "CLOSE_CODES",
    "Backoff",
    "Client",
    "ClientClosed",
    "CommandError",
    "ConnectionLost",
    "Credentials",
    "EventsMissed",
    "QueueFull",
    "ReceivedEvent",
    "Retry",
    "SlowReader",
    "Stream",
    "Subscription",
    "UnexpectedReply",
    "UserChanged",
]
