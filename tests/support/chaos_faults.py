"""Faults of the chaos run, and their schedule: a function of the seed and the length alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NODES: Final = ("node 1", "node 2")

LINKS: Final = tuple(
    f"{end} to {node}" for node in NODES for end in ("clients", "redis", "postgresql")
)
"""Links, each of which has a proxy."""

DATABASES: Final = tuple(link for link in LINKS if link.startswith("postgresql"))

TAKEN_FOR_DEAD: Final = tuple(link for link in LINKS if link not in DATABASES)
"""Links whose ends notice by themselves that nobody answers any more.

SQLAlchemy waits for a database that does not answer, whoever cancels it.
"""

KINDS: Final = {
    "kill": ([*NODES, "redis", "postgresql"], (0.1, 3.0), 6),
    "stop": ([*NODES, "redis", "postgresql"], (0.3, 6.0), 5),
    "cut": (LINKS, (0.05, 3.0), 6),
    "delay": (LINKS, (0.5, 6.0), 4),
    "black hole": (LINKS, (0.5, 6.0), 4),
    "silence": (TAKEN_FOR_DEAD, (0.5, 6.0), 3),
    "kill clients": (["clients"], (0.05, 3.0), 3),
}
"""Targets of each kind of fault, seconds that it lasts, and its weight.

A black hole loses all data, and resets the connections concerned when it is over, as a host does
that has forgotten them. Silence is a black hole after which those connections stay silent for good,
as behind a firewall that has forgotten them.
"""

FIRST: Final = 3.0
"""Seconds before the first fault, in which all clients connect."""

BETWEEN: Final = (0.2, 3.0)
"""Seconds between the beginnings of two faults."""


@dataclass(frozen=True)
class Fault:
    """A fault, with its begin and its length in seconds."""

    at: float
    kind: str
    target: str
    seconds: float
    amount: float = 0.0
    """Seconds of a delay; part of the clients that are killed."""

    def __str__(self) -> str:
        text = f"{self.kind} {self.target}" if self.kind != "kill clients" else "kill clients"
        amount = f" ({self.amount:.2f})" if self.amount else ""
        return f"{text}{amount} for {self.seconds:.1f} s"


def schedule(seed: int, seconds: float, *, silent_databases: bool = False) -> Sequence[Fault]:
    """Return the faults of a run, of which no two have one target at the same time.

    With ``silent_databases``, links to PostgreSQL may fall silent for good, too.
    """
    choose = random.Random(seed)
    faults: list[Fault] = []
    free_at: dict[str, float] = {}
    at = FIRST
    while at < seconds:
        (kind,) = choose.choices(list(KINDS), [weight for *_, weight in KINDS.values()])
        targets, lengths, _ = KINDS[kind]
        if kind == "silence" and silent_databases:
            targets = LINKS
        target = choose.choice(targets)
        length = choose.uniform(*lengths)
        amount = {"delay": choose.uniform(0.02, 0.5), "kill clients": choose.uniform(0.05, 0.5)}
        if free_at.get(target, 0.0) <= at:
            faults.append(Fault(at, kind, target, length, amount.get(kind, 0.0)))
            free_at[target] = at + length + 2.0  # a process that was killed starts meanwhile
        at += choose.uniform(*BETWEEN)
    return faults
