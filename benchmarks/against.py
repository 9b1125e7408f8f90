"""Comparison of websuckets in the working tree with websuckets at another revision.

Both are copied to folders of their own, each with the ``benchmarks`` that were written for it, and
run by this interpreter: what else is installed is the same for both.
"""

import io
import math
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.job import Job
from benchmarks.measure import Entry, Results, compare
from benchmarks.subjects import ROOT, SUBJECTS, Options

__all__ = [
    "NEW",
    "OLD",
    "ROUNDS",
    "Interval",
    "NoComparison",
    "Trees",
    "interval_of_median",
    "measure",
    "subjects_of",
    "trees",
]

ROUNDS: Final = 15
"""Least number of rounds."""

OLD: Final = "old"
NEW: Final = "new"

CONFIDENCE: Final = 0.95
FOLDERS: Final = ("benchmarks", "websuckets")


class NoComparison(Exception):
    """A revision that cannot be measured."""


@dataclass(frozen=True)
class Trees:
    """Copies of both versions of the code."""

    old: Path
    new: Path


@dataclass(frozen=True)
class Interval:
    """A median, and the bounds between which it lies with the given ``confidence``."""

    median: float
    low: float
    high: float
    confidence: float
    """Probability that such an interval holds the median: at least 0.95 for six values or more."""


def interval_of_median(values: Sequence[float]) -> Interval:
    """Return the median and its distribution-free interval from order statistics.

    The k-th smallest and the k-th greatest of n independent values enclose their median with the
    probability ``1 - 2 * P(B < k)``, where B is binomial with n and 1/2, whatever the values'
    distribution: H. A. David, H. N. Nagaraja, Order Statistics, 3rd edition (2003), section 7.1.
    k is the greatest with which that is 0.95 at least; of fewer than six values, k is 1.
    """
    ordered, n = sorted(values), len(values)
    outside, k = 2 * 0.5**n, 1
    while (more := outside + 2 * math.comb(n, k) * 0.5**n) <= 1 - CONFIDENCE:
        outside, k = more, k + 1
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Interval(median, ordered[k - 1], ordered[n - k], max(0.0, 1 - outside))


@contextmanager
def trees(revision: str) -> Iterator[Trees]:
    """Copy both versions of the code to a temporary folder, which ends with the context.

    Raises `NoComparison` for what is not a revision with websuckets and its benchmarks.
    """
    with TemporaryDirectory(prefix="against-") as folder:
        both = Trees(Path(folder, OLD), Path(folder, NEW))
        _copy_revision(revision, both.old)
        for name in FOLDERS:
            left_out = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / name, both.new / name, ignore=left_out)
        for root in (both.old, both.new):
            _check_import(root)
        yield both


def _copy_revision(revision: str, folder: Path) -> None:
    archive = subprocess.run(
        ["git", "archive", "--format=tar", "--end-of-options", revision, *FOLDERS],
        cwd=ROOT,
        capture_output=True,
    )
    if archive.returncode != 0:
        raise NoComparison(f"{revision}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def _check_import(root: Path) -> None:
    """Check that a server which is started in the folder imports websuckets from there."""
    program = "import websuckets; print(websuckets.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True
    )
    if found.returncode != 0:
        raise NoComparison(f"websuckets cannot be imported: {found.stderr[-1000:]}")
    if not Path(found.stdout.strip()).resolve().is_relative_to(root.resolve()):
        raise NoComparison(f"websuckets was imported from {found.stdout.strip()}, not {root}")


def subjects_of(job: str) -> list[str]:
    """Return the subjects of a job that are measured unless some are named."""
    others = ["websuckets/trio"] if job == "idle" else []
    return ["websuckets/asyncio", *others]


def measure(
    both: Trees,
    jobs: Sequence[tuple[Job, Sequence[str]]],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Results:
    """Let both versions of each subject do its jobs, with new servers in each round.

    In the results, subjects are called ``old NAME`` and ``new NAME``.
    """
    plan = [(job, _pair(both, name)) for job, names in jobs for name in names]
    return compare(plan, rounds, seconds, progress)


def _pair(both: Trees, name: str) -> list[Entry]:
    subject = SUBJECTS[name]
    return [
        (f"{OLD} {name}", replace(subject, root=both.old), Options()),
        (f"{NEW} {name}", replace(subject, root=both.new), Options()),
    ]
