"""Channels: what it costs to publish to many, and how long it takes from one node to another."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import ClassVar, Final

from benchmarks.audience import Audience
from benchmarks.dialects import DIALECTS
from benchmarks.job import Job
from benchmarks.measure import Bench, Clients, Entry, Results, compare
from benchmarks.redis_server import find_redis, running_redis
from benchmarks.servers import most_files, running
from benchmarks.subjects import SUBJECTS, Options

__all__ = [
    "BETWEEN_NODES",
    "FAN_OUT",
    "NODES",
    "SUBSCRIBERS",
    "FanOutBench",
    "NodesBench",
    "between_nodes",
    "fan_out",
    "fan_out_name",
    "possible",
]

FAN_OUT: Final = ("websockets/asyncio", "websuckets/asyncio", "socketio/sansio")
"""Who publishes to many."""
BETWEEN_NODES: Final = {"websuckets/asyncio": "coredis", "socketio/sansio": "redis"}
"""Who can be several nodes, and with which package they come to Redis."""

SUBSCRIBERS: Final = (1_000, 5_000)
NODES: Final = "between-nodes"
"""The name of the job of two nodes."""
ON_THE_OTHER_NODE: Final = 10
"""Subscribers there."""


class FanOutBench(Bench):
    """A running subject with a publisher and many subscribers."""

    nodes: ClassVar = 1
    messages: ClassVar = 4
    """How many one command publishes."""

    def _start(self, stack: ExitStack) -> tuple[Clients, Callable[[], float]]:
        servers = [
            stack.enter_context(running(self._subject, self._options)) for _ in range(self.nodes)
        ]
        audience = Audience(
            DIALECTS[self._subject.dialect],
            servers[0].port,
            servers[-1].port,
            self._job.connections,
            self.messages,
        )
        return stack.enter_context(audience), lambda: sum(server.cpu() for server in servers)


class NodesBench(FanOutBench):
    """Two nodes of a subject: the publisher is on one, subscribers are on the other."""

    nodes = 2
    messages = 1


def possible(subscribers: Sequence[int], subjects: int) -> list[int]:
    """So many subscribers of each subject as this process may have files open."""
    most = most_files()
    return [number for number in subscribers if number * subjects + 200 < most]


def fan_out(
    subjects: Sequence[str],
    subscribers: Sequence[int],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Results:
    """One process publishes to so many subscribers; the job is `fan_out_name` of the number."""
    entries: list[Entry] = [(name, SUBJECTS[name], Options()) for name in subjects]
    plan = [(Job(fan_out_name(number), connections=number), entries) for number in subscribers]
    return compare(plan, rounds, seconds, progress, FanOutBench)


def fan_out_name(subscribers: int) -> str:
    return f"fan-out-{subscribers}"


def between_nodes(
    subjects: Sequence[str], rounds: int, seconds: float, progress: Callable[[str], None]
) -> Results | None:
    """One message at a time, over a Redis that all subjects share; ``None`` where there is none."""
    program = find_redis()
    names = [name for name in subjects if find_spec(BETWEEN_NODES[name]) is not None]
    if program is None or not names:
        return None
    with running_redis(program) as url:
        entries: list[Entry] = [(name, SUBJECTS[name], Options(redis=url)) for name in names]
        job = Job(NODES, connections=ON_THE_OTHER_NODE)
        return compare([(job, entries)], rounds, seconds, progress, NodesBench)
