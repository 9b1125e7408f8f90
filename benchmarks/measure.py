"""Rounds: every subject does every job once a round, so that what disturbs one disturbs all."""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.dialects import DIALECTS
from benchmarks.job import Job
from benchmarks.load import Load, Sample, Unexpected
from benchmarks.servers import running
from benchmarks.subjects import Options, Subject

__all__ = ["Figures", "Results", "Spread", "compare", "measure"]


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


def measure(
    subject: Subject,
    job: Job,
    seconds: float,
    warm_up: float,
    options: Options | None = None,
) -> Figures:
    """Start the subject, let it do the job, and end it. Raises `Unexpected` for wrong answers."""
    with (
        running(subject, options) as server,
        Load(server.port, DIALECTS[subject.dialect], job) as load,
    ):
        return Figures.of(load.run(warm_up, seconds, server.cpu))


def compare(
    plan: Iterable[tuple[Job, Sequence[tuple[str, Subject, Options]]]],
    rounds: int,
    seconds: float,
    warm_up: float,
    progress: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Results:
    """Measure as planned: which subjects do a job, how they are called, and with what options."""
    results = Results()
    plan = list(plan)
    for number in range(rounds):
        figures: dict[tuple[str, str], Figures] = {}
        results.rounds.append(figures)
        for job, entries in plan:
            # Not always in the same order: a neighbour is not always the same.
            turn = number % len(entries)
            for name, subject, options in [*entries[turn:], *entries[:turn]]:
                try:
                    found = measure(subject, job, seconds, warm_up, options)
                except (Unexpected, RuntimeError, OSError) as error:
                    notes = "\n".join(getattr(error, "__notes__", ()))
                    results.failures[job.name, name] = f"{error}\n{notes}"
                    progress(f"round {number + 1}: {job.name}: {name} failed: {error}\n{notes}")
                    continue
                figures[job.name, name] = found
                progress(f"round {number + 1}: {job.name}: {name}: {found.cpu_us:.1f} us")
    return results
