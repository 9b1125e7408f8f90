"""Cost of each guarantee of websuckets: the same command with one of them switched off.

Access to `Session` and the shielded close of scopes cannot be switched off by users of the
framework, so they are not measured here.
"""

from typing import Final

from benchmarks.job import Job
from benchmarks.measure import Entry
from benchmarks.subjects import SUBJECTS, Options
from benchmarks.subjects.websuckets import ALL_LIMITS, WITHOUT

__all__ = ["EVERYTHING", "plan"]

OURS: Final = "websuckets/asyncio"
EVERYTHING: Final = "with everything"


def plan() -> list[tuple[Job, list[Entry]]]:
    subject = SUBJECTS[OURS]
    entries = [(EVERYTHING, subject, Options())]
    entries += [
        (f"without {name}", subject, Options(without=name)) for name in (*WITHOUT, ALL_LIMITS)
    ]
    return [(Job("guarantees"), entries)]
