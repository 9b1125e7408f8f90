"""Growth of the cost: with commands, the depth of the dependency graph, connections and
payloads."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from benchmarks.dialects import DIALECTS
from benchmarks.job import Job
from benchmarks.load import Load
from benchmarks.measure import Entry, Results, compare
from benchmarks.servers import most_files, running
from benchmarks.subjects import SUBJECTS, Options

__all__ = ["Growth", "curves", "memory_per_connection", "start_seconds"]

OURS: Final = "websuckets/asyncio"
BY_HAND: Final = "websockets/asyncio"
WITH_DISHKA: Final = "dishka/asyncio"

COMMANDS: Final = (10, 100, 1_000, 10_000)
DEPTHS: Final = (1, 2, 4, 8, 16, 32)
CONNECTIONS: Final = (10, 100, 1_000, 4_000, 10_000)
SIZES: Final = (32, 1_024, 4_096, 16_384, 60_000)

IDLE: Final = 1_000
SETTLED: Final = 50
"""Connections after which a server has imported and allocated what it needs for itself."""


@dataclass
class Growth:
    """Growth of one figure: for each subject, points (x, y)."""

    name: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def curves(rounds: int, seconds: float, progress: Callable[[str], None]) -> list[Growth]:
    """Measure the processor time per message, in microseconds, against each of the four
    variables."""
    return [
        _by_options("commands", "registered commands", COMMANDS, rounds, seconds, progress),
        _by_options("depth", "depth of the graph", DEPTHS, rounds, seconds, progress),
        _by_job("connections", "connections", _possible(), rounds, seconds, progress),
        _by_job("text_size", "bytes of payload", SIZES, rounds, seconds, progress),
    ]


def _by_options(
    option: str,
    x: str,
    values: Sequence[int],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Growth:
    """Measure with all values in turns, as the values are compared."""
    subjects = (OURS, WITH_DISHKA) if option == "depth" else (OURS, BY_HAND)
    entries: list[Entry] = [
        (f"{name} {value}", SUBJECTS[name], Options.from_json(json.dumps({option: value})))
        for name in subjects
        for value in values
    ]
    results = compare([(Job(option), entries)], rounds, seconds, progress)
    growth = Growth(option, x, CPU)
    for name in subjects:
        named = [(value, option, f"{name} {value}") for value in values]
        growth.lines[name] = _points(results, named)
    return growth


def _by_job(
    field_name: str,
    x: str,
    values: Sequence[int],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Growth:
    subjects = (OURS, BY_HAND)
    entries: list[Entry] = [(name, SUBJECTS[name], Options()) for name in subjects]
    jobs = {value: f"{field_name} {value}" for value in values}
    plan = [(Job(job, **{field_name: value}), entries) for value, job in jobs.items()]  # type: ignore[arg-type]
    results = compare(plan, rounds, seconds, progress)
    growth = Growth(field_name, x, CPU)
    for name in subjects:
        growth.lines[name] = _points(results, [(value, job, name) for value, job in jobs.items()])
    return growth


CPU: Final = "CPU us/message"


def _points(results: Results, named: Sequence[tuple[int, str, str]]) -> list[tuple[float, float]]:
    """Return the medians, for the names of jobs and subjects."""
    found = [(value, results.spread(job, name, "cpu_us")) for value, job, name in named]
    return [(value, spread.median) for value, spread in found if spread is not None]


def _possible() -> list[int]:
    """Return the numbers of connections, no more than this process may open to both subjects."""
    most = (most_files() - 200) // 200 * 100
    return sorted({min(number, most) for number in CONNECTIONS})


def memory_per_connection(subjects: Sequence[str], idle: int = IDLE) -> dict[str, float]:
    """Return the bytes that a connection takes which has sent one protected command.

    websuckets is measured once more, with connections that are subscribed to a channel.
    """
    jobs = [(name, name, Job("idle")) for name in subjects]
    if OURS in subjects:
        subscribed = (f"{OURS}, subscribed", OURS, Job("idle", is_subscribed=True))
        jobs.insert(subjects.index(OURS) + 1, subscribed)
    return {label: _memory(name, job, idle) for label, name, job in jobs}


def _memory(name: str, job: Job, idle: int) -> float:
    subject = SUBJECTS[name]
    dialect = DIALECTS[subject.dialect]
    few, many = replace(job, connections=SETTLED), replace(job, connections=idle)
    # Memory that malloc keeps for later would count as a connection's.
    with running(subject, environment={}) as server, Load(server.port, dialect, few):
        before = server.memory()
        with Load(server.port, dialect, many):
            return (server.memory() - before) / idle


def start_seconds(rounds: int) -> Growth:
    """Measure the seconds from the start of the process until it accepts connections."""
    growth = Growth("start", "registered commands", "seconds until it accepts")
    for name in (OURS, BY_HAND):
        points = growth.lines[name] = []
        for number in COMMANDS:
            taken: list[float] = []
            for _ in range(rounds):
                with running(SUBJECTS[name], Options(commands=number)) as server:
                    taken.append(server.start_seconds)
            points.append((number, statistics.median(taken)))
    return growth
