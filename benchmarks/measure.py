"""Rounds: every subject does every job, in turns, so that what disturbs one disturbs all."""

import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from benchmarks.dialects import DIALECTS
from benchmarks.job import Job
from benchmarks.load import Load, Sample, Unexpected
from benchmarks.servers import running
from benchmarks.subjects import Options, Subject

__all__ = ["Bench", "Clients", "Entry", "Figures", "Results", "Spread", "compare"]

TURN: Final = 0.2
"""Seconds for which a subject works until it is the turn of the next one."""

Entry = tuple[str, Subject, Options]
"""A subject, how it is called in the results, and what it is asked for."""


@dataclass(frozen=True)
class Figures:
    """What one subject needed for one job in one round; times in microseconds."""

    cpu_us: float
    """The server's processor time for a message."""
    per_second: float
    p50_us: float
    p99_us: float
    p999_us: float

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
    """All rounds, by the names of job and subject; what failed has no figures in that round."""

    rounds: list[dict[tuple[str, str], Figures]] = field(default_factory=list)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def spread(self, job: str, subject: str, figure: str) -> Spread | None:
        found = [getattr(r[job, subject], figure) for r in self.rounds if (job, subject) in r]
        return Spread.of(found) if found else None

    def ratio(
        self, one: tuple[str, str], other: tuple[str, str], figure: str = "cpu_us"
    ) -> Spread | None:
        """Of two figures of the same round, for each (job, subject)."""
        found = [
            getattr(r[one], figure) / getattr(r[other], figure)
            for r in self.rounds
            if one in r and other in r
        ]
        return Spread.of(found) if found else None


class Clients(Protocol):
    """Who gives a running subject something to do, as `Load` does."""

    def run(self, warm_up: float, seconds: float, cpu: Callable[[], float]) -> Sample: ...


class Bench:
    """A running subject and its clients; the subject is right if the bench can be entered."""

    def __init__(self, subject: Subject, job: Job, options: Options | None = None) -> None:
        self._stack = ExitStack()
        self._subject = subject
        self._job = job
        self._options = options
        self._samples: list[Sample] = []

    def __enter__(self) -> "Bench":
        with self._stack:
            self._clients, self._cpu = self._start(self._stack)
            self._stack = self._stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> tuple[Clients, Callable[[], float]]:
        """All clients, and what tells how many seconds the subject has computed."""
        server = stack.enter_context(running(self._subject, self._options))
        load = Load(server.port, DIALECTS[self._subject.dialect], self._job)
        return stack.enter_context(load), server.cpu

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def turn(self, warm_up: float, seconds: float) -> None:
        """Work for a while. Raises `Unexpected` for wrong answers."""
        self._samples.append(self._clients.run(warm_up, seconds, self._cpu))

    def figures(self) -> Figures:
        """Of all turns; the first is for warming up and does not count."""
        return Figures.of(Sample.joined(self._samples[1:]))


def compare(
    plan: Iterable[tuple[Job, Sequence[Entry]]],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    bench: type[Bench] = Bench,
) -> Results:
    """Measure as planned: which subjects do a job, how they are called, and with what options."""
    results = Results()
    plan = list(plan)
    for number in range(1, rounds + 1):
        figures: dict[tuple[str, str], Figures] = {}
        results.rounds.append(figures)
        for job, entries in plan:
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
    """The figures of all entries, and why those that have none failed.

    All servers are there from the start and work in turns, a short one each: a machine that is
    slow for a while is slow for all of them. Those that wait, have nothing to do.
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


@contextmanager
def _noting(failed: dict[str, str], name: str) -> Iterator[None]:
    """One subject that fails does not end the others."""
    try:
        yield
    except (Unexpected, RuntimeError, OSError) as error:
        failed[name] = "\n".join([repr(error), *getattr(error, "__notes__", ())])
