"""Rounds: every subject does every job, in turns, so that what disturbs one disturbs all."""

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, Self

from benchmarks.dialects import DIALECTS
from benchmarks.job import Job
from benchmarks.load import Load, Sample, Unexpected
from benchmarks.servers import most_files, running
from benchmarks.subjects import Options, Subject

__all__ = ["Bench", "Clients", "Entry", "Figures", "IdleBench", "Results", "Spread", "compare"]

TURN: Final = 0.2
"""Seconds for which a subject works until it is the turn of the next one."""

IDLE_SECONDS: Final = 6.0
"""Least number of seconds for which idle connections are measured.

It is less than the 20 seconds between two pings: those of 1,000 connections that were opened
together would all fall into it, or none.
"""

IDLE_AT_ONCE: Final = 50
"""Connections that are opened to one server before those to the next."""

IDLE_WARM_UP: Final = 1.0
"""Seconds until a server has finished its work after connections were opened."""

Entry = tuple[str, Subject, Options]
"""A name in the results, the subject that has it, and the options of the subject."""


@dataclass(frozen=True)
class Figures:
    """Cost of one job for one subject in one round; times in microseconds."""

    cpu_us: float
    """The server's processor time for a message, or for an idle connection and a second."""
    per_second: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None

    @classmethod
    def of(cls, sample: Sample) -> "Figures":
        latencies = (sample.latency_us(share) for share in (0.5, 0.99, 0.999))
        return cls(sample.cpu_us, sample.per_second, *latencies)


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the least and the greatest of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """All rounds, by the names of job and subject; a subject that failed has no figures in that
    round."""

    rounds: list[dict[tuple[str, str], Figures]] = field(default_factory=list)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def spread(self, job: str, subject: str, figure: str) -> Spread | None:
        figures = [r[job, subject] for r in self.rounds if (job, subject) in r]
        found = [value for one in figures if (value := getattr(one, figure)) is not None]
        return Spread.of(found) if found else None

    def ratio(
        self, one: tuple[str, str], other: tuple[str, str], figure: str = "cpu_us"
    ) -> Spread | None:
        """Return the ratio of two figures of the same round, each of a (job, subject)."""
        found = self.ratios(one, other, figure)
        return Spread.of(found) if found else None

    def ratios(
        self, one: tuple[str, str], other: tuple[str, str], figure: str = "cpu_us"
    ) -> list[float]:
        """Return the ratio for each round that has both figures."""
        pairs = [
            (getattr(r[one], figure), getattr(r[other], figure))
            for r in self.rounds
            if one in r and other in r
        ]
        return [_quotient(*pair) for pair in pairs]


def _quotient(one: float, other: float) -> float:
    """Return the quotient, as an idle server may have computed nothing at all."""
    if other:
        return one / other
    return math.inf if one else 1.0


class Clients(Protocol):
    """Clients that keep a running subject busy, such as `Load`."""

    def run(self, warm_up: float, seconds: float, cpu: Callable[[], float]) -> Sample: ...


class Bench:
    """A running subject and its clients; it can be entered if the subject answers correctly."""

    def __init__(self, subject: Subject, job: Job, options: Options | None = None) -> None:
        self._stack = ExitStack()
        self._subject = subject
        self._job = job
        self._options = options
        self._samples: list[Sample] = []

    def __enter__(self) -> Self:
        with self._stack:
            self._clients, self._cpu = self._start(self._stack)
            self._stack = self._stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> tuple[Clients, Callable[[], float]]:
        """Return the clients, and a function for the seconds that the subject has computed."""
        server = stack.enter_context(running(self._subject, self._options))
        load = Load(server.port, DIALECTS[self._subject.dialect], self._job)
        return stack.enter_context(load), server.cpu

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def turn(self, warm_up: float, seconds: float) -> None:
        """Keep the subject busy for a while. Raises `Unexpected` for wrong answers."""
        self._samples.append(self._clients.run(warm_up, seconds, self._cpu))

    def figures(self) -> Figures:
        """Return the figures of all turns but the first, which is for warming up."""
        return Figures.of(Sample.joined(self._samples[1:]))


class IdleBench(Bench):
    """A running subject whose clients send nothing after their first message."""

    def _start(self, stack: ExitStack) -> tuple[Clients, Callable[[], float]]:
        server = stack.enter_context(running(self._subject, self._options))
        nobody = replace(self._job, connections=0)
        self._load = Load(server.port, DIALECTS[self._subject.dialect], nobody)
        return stack.enter_context(self._load), server.cpu

    def connect(self, connections: int) -> None:
        """Open this number of connections."""
        self._load.connect(connections)

    def begin(self) -> None:
        """Begin to measure."""
        self._begun = time.perf_counter(), self._cpu()

    def rest(self, seconds: float) -> None:
        """Let so many seconds pass; pings are answered. Raises `Unexpected` for a message."""
        self._load.rest(seconds)

    def figures(self) -> Figures:
        """Return the processor time per connection and second since `begin`, in microseconds."""
        begun, cpu = self._begun
        seconds = time.perf_counter() - begun
        return Figures((self._cpu() - cpu) / seconds / self._job.connections * 1e6)


def compare(
    plan: Iterable[tuple[Job, Sequence[Entry]]],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    bench: type[Bench] = Bench,
) -> Results:
    """Measure as planned: the subjects of each job, their names in the results, and their
    options."""
    results = Results()
    plan = list(plan)
    for number in range(1, rounds + 1):
        figures: dict[tuple[str, str], Figures] = {}
        results.rounds.append(figures)
        for job, entries in plan:
            if job.is_idle:
                found, failed = _idle_round(job, entries, max(seconds, IDLE_SECONDS))
            else:
                found, failed = _round(job, entries, seconds, bench)
            figures |= {(job.name, name): value for name, value in found.items()}
            results.failures |= {(job.name, name): why for name, why in failed.items()}
            for name, why in failed.items():
                progress(f"{job.name}: {name} failed: {why}")
            progress(f"round {number} of {rounds}: {job.name}: {len(found)} subjects")
    return results


def _round(
    job: Job, entries: Sequence[Entry], seconds: float, bench: type[Bench]
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Return the figures of all entries, and the reasons of those that failed.

    All servers run from the start and are measured in short turns: a machine that is slow for a
    while is slow for all of them. Servers that wait have nothing to do.
    """
    benches: dict[str, Bench] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        for name, subject, options in entries:
            with _noting(failed, name):
                benches[name] = stack.enter_context(bench(subject, job, options))
        names = list(benches)
        for turn in range(1 + max(1, round(seconds / TURN))):
            random.shuffle(names)  # so that a neighbour is not always the same
            for name in names:
                if name not in failed:
                    with _noting(failed, name):
                        length = min(TURN, seconds)
                        benches[name].turn(length / 5 if turn else length, length)
        found = {name: benches[name].figures() for name in benches if name not in failed}
    return found, failed


def _idle_round(
    job: Job, entries: Sequence[Entry], seconds: float
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Return what `_round` does, for servers that are all idle at once, for so many seconds."""
    benches: dict[str, IdleBench] = {}
    failed: dict[str, str] = {}
    most_files()
    with ExitStack() as stack:
        for name, subject, options in entries:
            with _noting(failed, name):
                benches[name] = stack.enter_context(IdleBench(subject, job, options))
        for opened in range(0, job.connections, IDLE_AT_ONCE):
            for name in random.sample([*benches], len(benches)):
                if name not in failed:
                    with _noting(failed, name):
                        benches[name].connect(min(IDLE_AT_ONCE, job.connections - opened))
            _rest(benches, failed, 0.001)  # some may have been pinged
        _rest(benches, failed, IDLE_WARM_UP)
        for idle in benches.values():
            idle.begin()
        _rest(benches, failed, seconds)
        found = {name: benches[name].figures() for name in benches if name not in failed}
    return found, failed


def _rest(benches: Mapping[str, IdleBench], failed: dict[str, str], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not failed.keys() >= benches.keys():
        for name, bench in benches.items():
            if name not in failed:
                with _noting(failed, name):
                    bench.rest(TURN / len(benches))


@contextmanager
def _noting(failed: dict[str, str], name: str) -> Iterator[None]:
    """Record the failure of one subject, so that the others go on."""
    try:
        yield
    except (Unexpected, RuntimeError, OSError) as error:
        failed[name] = "\n".join([repr(error), *getattr(error, "__notes__", ())])
