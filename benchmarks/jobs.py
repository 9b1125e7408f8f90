"""The jobs, the subjects that do more than one, and the claims about their figures."""

from dataclasses import dataclass
from typing import Final

from benchmarks.job import PREVIEW, Job

__all__ = ["BY_HAND", "CLAIMS", "JOBS", "SHORT_LIST", "Claim"]

BY_HAND: Final = "websockets/asyncio"
"""The subject that all others are compared with."""

JOBS: Final = {
    job.name: job
    for job in (
        Job("protected"),
        Job("plain", event=PREVIEW),
        Job("64k", text_size=64 * 1024 - 256),  # the whole frame is to stay below 64 KiB
        Job("depth16", depth=16),
        Job("c1000", connections=1000),
        Job("c1000-depth16", connections=1000, depth=16),
        Job("idle", connections=1000, is_idle=True),
    )
}

SHORT_LIST: Final = (
    BY_HAND,
    "dishka/asyncio",
    "websuckets/asyncio",
    "websuckets/asgi",
    "fastapi/sansio",
    "litestar/sansio",
    "picows/asyncio",
)
"""The subjects that do more than the protected job."""


@dataclass(frozen=True)
class Claim:
    """A claim that a figure of one (job, subject) is at most ``bound`` times that of another."""

    what: str
    one: tuple[str, str]
    other: tuple[str, str]
    bound: float | None = None
    figure: str = "cpu_us"
    """A figure of `benchmarks.measure.Figures`."""


def _claim(
    what: str,
    one: str,
    other: str,
    bound: float | None = None,
    job: str = "protected",
    figure: str = "cpu_us",
) -> Claim:
    return Claim(what, (job, one), (job, other), bound, figure)


OURS: Final = "websuckets/asyncio"
ASGI: Final = "websuckets/asgi", "fastapi/sansio"

CLAIMS: Final = (
    _claim("protected, against websockets by hand", OURS, BY_HAND, 1.05),
    _claim("plain, against websockets by hand", OURS, BY_HAND, 0.78, "plain"),
    _claim("16 at once, against websockets by hand", OURS, BY_HAND, 0.85, "depth16"),
    _claim("p99, against websockets by hand", OURS, BY_HAND, 1.10, figure="p99_us"),
    _claim("64 KiB, against websockets by hand", OURS, BY_HAND, job="64k"),
    _claim("1,000 connections, against websockets by hand", OURS, BY_HAND, job="c1000"),
    _claim("protected, against dishka by hand", OURS, "dishka/asyncio", 1.0),
    Claim("plain, against the protected one by hand", ("plain", OURS), ("protected", BY_HAND)),
    _claim("on uvloop, against by hand on uvloop", "websuckets/uvloop", "websockets/uvloop", 1.10),
    _claim("on trio, against by hand on trio", "websuckets/trio", "websockets/trio", 1.00),
    _claim("as ASGI, against FastAPI on the same", *ASGI, 1.10),
    _claim("as ASGI, 16 at once, against FastAPI", *ASGI, 1.10, "depth16"),
    _claim("on asyncio, against FastAPI", OURS, "fastapi/sansio", 0.65),
    _claim("on uvloop, against FastAPI on uvloop", "websuckets/uvloop", "fastapi/uvloop"),
)
