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
    """A claim that one (job, subject) costs at most ``bound`` times as much as another."""

    what: str
    one: tuple[str, str]
    other: tuple[str, str]
    bound: float | None = None


def _claim(
    what: str, one: str, other: str, bound: float | None = None, job: str = "protected"
) -> Claim:
    return Claim(what, (job, one), (job, other), bound)


CLAIMS: Final = (
    _claim("protected, against websockets by hand", "websuckets/asyncio", BY_HAND, 1.35),
    _claim("protected, against dishka by hand", "websuckets/asyncio", "dishka/asyncio", 1.0),
    _claim("plain, against websockets by hand", "websuckets/asyncio", BY_HAND, 1.0, "plain"),
    Claim(
        "plain, against the protected one by hand",
        ("plain", "websuckets/asyncio"),
        ("protected", BY_HAND),
    ),
    _claim("on asyncio, against FastAPI", "websuckets/asyncio", "fastapi/sansio", 0.65),
    _claim("on uvloop, against FastAPI", "websuckets/uvloop", "fastapi/uvloop", 0.65),
    _claim("as ASGI, against FastAPI on the same", "websuckets/asgi", "fastapi/sansio"),
    _claim("on uvloop, against websockets by hand", "websuckets/uvloop", "websockets/uvloop"),
)
