"""Histories of a chaos run: all that clients have seen, and all that was found at the end."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias


class At(NamedTuple):
    """Position in the log of a channel."""

    epoch: str
    offset: int


class Subscribed(NamedTuple):
    """Reply of a command that subscribed; ``since`` is what the command carried."""

    channel: str
    at: At
    recovered: bool | None = None
    since: At | None = None


class Seen(NamedTuple):
    """Event that a client got."""

    channel: str
    offset: int
    effect: int
    command: str


class GapTold(NamedTuple):
    """Event ``channel gap`` that a client got."""

    channel: str


class Left(NamedTuple):
    """End of a connection."""


class Acknowledged(NamedTuple):
    """Reply of a command that changes an item, with its effect."""

    command: str
    effect: int


Record: TypeAlias = Subscribed | Seen | GapTold | Left | Acknowledged

RECORDS: Final[tuple[type[Record], ...]] = (Subscribed, Seen, GapTold, Left, Acknowledged)


def record_of(kind: str, fields: list[Any]) -> Record:
    """Return a record from the name of its class, and its fields as JSON has them."""
    (found,) = (each for each in RECORDS if each.__name__ == kind)
    return found(*(At(*each) if isinstance(each, list) else each for each in fields))


class Effect(NamedTuple):
    """Row of an effect in the database."""

    id: int
    command: str
    board: str
    item: str
    amount: int
    node: str
    """Name of the process that made the effect."""
    at: float
    """Time on the clock of the machine."""


class Value(NamedTuple):
    """State of an item."""

    value: int
    version: int


Items: TypeAlias = dict[str, Value]


class Disturbance(NamedTuple):
    """Time in which a process could not do its work."""

    node: str
    cause: str
    """``"killed"``, ``"stopped"``, ``"no redis"`` or ``"no database"``."""
    begin: float
    end: float


@dataclass
class Log:
    """Log of a channel as it is at the end."""

    epoch: str
    head: int
    events: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Effect and command of each event that is kept, by its offset."""


@dataclass
class Histories:
    """Everything that the oracle judges."""

    log: str = "sql"
    """Kind of the log and of the idempotency store: ``"sql"`` or ``"redis"``."""
    records: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    """Records of each client, in their order."""
    doomed: set[str] = field(default_factory=set)
    """Commands whose transaction is always rolled back."""
    effects: list[Effect] = field(default_factory=list)
    items: dict[str, Items] = field(default_factory=lambda: defaultdict(dict))
    """Items in the database, by their boards."""
    screens: dict[str, dict[str, Items]] = field(default_factory=dict)
    """Items that each client shows at the end, by their boards."""
    logs: dict[str, Log] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    """Events that a channel keeps."""
    recovery: int = 300
    """Events of one channel that a client may have missed and still gets."""
    disturbances: list[Disturbance] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """Sentences about what did not come to its end in time."""
    open_connections: dict[str, int] = field(default_factory=dict)
    """Connections of clients that nodes still had when all clients had left."""
    open_transactions: int = 0
    dead_nodes: list[str] = field(default_factory=list)
    """Nodes that ended by themselves."""
