"""The subjects. Each module serves the job with one library, perhaps on several event loops.

A module has a function ``serve(port, variant, options)`` that returns when the process is told to
end, and is imported only in the process that serves.
"""

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

__all__ = ["SUBJECTS", "Options", "Subject"]

ROOT: Final = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Options:
    """Options of a server beside the job; a server ignores those that it does not support."""

    commands: int = 0
    """Number of commands beside those of the job."""
    depth: int = 0
    """Number of objects that the protected command's dependency depends on, each on the next
    one."""
    without: str = ""
    """A guarantee of websuckets that is switched off; see `benchmarks.guarantees`."""
    redis: str = ""
    """URL of the Redis that connects several nodes; see `benchmarks.channels`."""

    def to_json(self) -> str:
        """Return the options that are set: servers of another revision may not know the others."""
        asked = {name: value for name, value in asdict(self).items() if value}
        return json.dumps(asked)

    @classmethod
    def from_json(cls, text: str) -> "Options":
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)


@dataclass(frozen=True)
class Subject:
    """A server to measure."""

    name: str
    title: str
    module: str
    variant: str
    needs: tuple[str, ...] = ()
    """Packages that have to be installed for the subject."""
    dialect: str = "events"
    is_ours: bool = False
    root: Path = ROOT
    """The folder with the ``benchmarks`` and the ``websuckets`` that its process imports."""

    @property
    def is_installed(self) -> bool:
        return all(find_spec(name) is not None for name in self.needs)


def _subject(name: str, title: str, needs: str = "", dialect: str = "events") -> Subject:
    """Make a subject from its name, which is ``module/variant``."""
    module, _, variant = name.partition("/")
    found = f"benchmarks.subjects.{module}"
    return Subject(
        name, title, found, variant, tuple(needs.split()), dialect, module == "websuckets"
    )


SUBJECTS: Final = {
    subject.name: subject
    for subject in (
        _subject("websockets/asyncio", "websockets by hand"),
        _subject("websockets/uvloop", "websockets by hand, on uvloop", "uvloop"),
        _subject("websockets/trio", "websockets by hand, on trio", "trio"),
        _subject("dishka/asyncio", "websockets and dishka by hand"),
        _subject("picows/asyncio", "picows by hand", "picows"),
        _subject("picows/uvloop", "picows by hand, on uvloop", "picows uvloop"),
        _subject("websuckets/asyncio", "websuckets"),
        _subject("websuckets/uvloop", "websuckets on uvloop", "uvloop"),
        _subject("websuckets/trio", "websuckets on trio", "trio"),
        _subject("websuckets/asgi", "websuckets on uvicorn", "uvicorn"),
        _subject("websuckets/asgi-uvloop", "websuckets on uvicorn, uvloop", "uvicorn uvloop"),
        _subject("fastapi/sansio", "FastAPI and dishka on uvicorn", "fastapi uvicorn"),
        _subject("fastapi/wsproto", "the same by wsproto", "fastapi uvicorn wsproto"),
        _subject("fastapi/uvloop", "FastAPI on uvicorn, uvloop", "fastapi uvicorn uvloop"),
        _subject("fastapi/granian", "FastAPI and dishka on granian", "fastapi granian"),
        _subject("litestar/sansio", "Litestar's listener on uvicorn", "litestar uvicorn"),
        _subject("socketio/sansio", "python-socketio on uvicorn", "socketio uvicorn", "socketio"),
        _subject("chanx/sansio", "chanx on uvicorn", "chanx fast_channels uvicorn", "actions"),
    )
}
