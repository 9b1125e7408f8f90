"""What is measured. Each module here serves the job with one library, on several loops perhaps.

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
    """What a server may be asked for beside the job; who cannot do that, ignores it."""

    commands: int = 0
    """Commands beside those of the job."""
    depth: int = 0
    """Objects that the dependency of the protected command depends on, each on the next one."""
    without: str = ""
    """A guarantee of websuckets that is taken away; see `benchmarks.guarantees`."""
    redis: str = ""
    """The URL of what connects several nodes; see `benchmarks.channels`."""

    def to_json(self) -> str:
        """Only what is asked for: another revision's servers may not know the rest."""
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
    """What has to be installed for it."""
    dialect: str = "events"
    is_ours: bool = False
    root: Path = ROOT
    """The folder with the ``benchmarks`` and the ``websuckets`` that its process imports."""

    @property
    def is_installed(self) -> bool:
        return all(find_spec(name) is not None for name in self.needs)


def _subject(name: str, title: str, needs: str = "", dialect: str = "events") -> Subject:
    """``name`` is ``module/variant``."""
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
