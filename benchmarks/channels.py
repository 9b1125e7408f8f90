"""Channels: the cost of publishing to many, and the latency between two nodes."""

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
"""Subjects that publish to many."""
BETWEEN_NODES: Final = {"websuckets/asyncio": "coredis", "socketio/sansio": "redis"}
"""Subjects that can be several nodes, and the package by which each connects to Redis."""

SUBSCRIBERS: Final = (1_000, 5_000)
NODES: Final = "between-nodes"
"""Name of the job of two nodes."""
ON_THE_OTHER_NODE: Final = 10
"""Number of subscribers on the second node."""


class FanOutBench(Bench):
    """A running subject with a publisher and many subscribers."""

    nodes: ClassVar = 1
    messages: ClassVar = 4
    """Number of messages that one command publishes."""

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
    """Return the numbers of subscribers for which this process may have enough files open."""
    most = most_files()
    return [number for number in subscribers if number * subjects + 200 < most]


def fan_out(
    subjects: Sequence[str],
    subscribers: Sequence[int],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Results:
    """Let one process publish to each number of subscribers; `fan_out_name` names the job."""
    entries: list[Entry] = [(name, SUBJECTS[name], Options()) for name in subjects]
    plan = [(Job(fan_out_name(number), connections=number), entries) for number in subscribers]
    return compare(plan, rounds, seconds, progress, FanOutBench)


def fan_out_name(subscribers: int) -> str:
    return f"fan-out-{subscribers}"


def between_nodes(
    subjects: Sequence[str], rounds: int, seconds: float, progress: Callable[[str], None]
) -> Results | None:
    """Measure one message at a time, over a Redis that all subjects share.

    Returns ``None`` if redis-server or every client package for Redis is missing.
    """
    program = find_redis()
    names = [name for name in subjects if find_spec(BETWEEN_NODES[name]) is not None]
    if program is None or not names:
        return None
    with running_redis(program) as url:
        entries: list[Entry] = [(name, SUBJECTS[name], Options(redis=url)) for name in names]
        job = Job(NODES, connections=ON_THE_OTHER_NODE)
        return compare([(job, entries)], rounds, seconds, progress, NodesBench)
