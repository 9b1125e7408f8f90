"""Mistakes that users make: programs that make one each, and the texts that the programs show.

A `Mistake` is a small program. `see` runs the program in this process, as the file ``program.py``,
and returns all that its user sees: the traceback of the error that ended the program, and the log.
In the source of a program, the comment ``# here`` marks the line that its user has to find.

The programs stand in the modules ``mistakes_in_*``, by subject.
"""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import anyio

from websuckets import WebSuckets
from websuckets.testing import CommandError, TestClient

HERE: Final = "# here"
FILE: Final = "program.py"
LEVEL: Final = logging.INFO
"""Level from which on the log is shown, as the log of a program that has not set up logging."""

BLOCKED: Final = "the event loop was blocked"
"""Beginning of a warning that any program may cause where many programs run."""

OUTER: Final = ("websuckets", "dishka", "importlib")
"""Packages of which no frame may stand above the first line of the program."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A program with a mistake, the texts that its user has to see, and the remedy."""

    name: str
    """Subject and mistake, in a few words."""
    program: str
    says: tuple[str, ...]
    """Parts of the text that the user sees: the event, and the remedy."""
    mended: tuple[tuple[str, str], ...]
    """Replacements that make a program that runs: the remedy, as a user would follow it."""
    place: str | None = "line"
    """Place that the text names: ``line`` for the one that is marked, another text as it is."""
    is_heavy: bool = False

    @property
    def mended_program(self) -> str:
        """The program without the mistake; every replacement has to replace something."""
        program = self.program
        for old, new in self.mended:
            assert old in program, f"{self.name}: the program does not contain {old!r}"
            program = program.replace(old, new)
        return program

    @property
    def places(self) -> list[str]:
        """Texts that name the place, one of which the user has to see."""
        if self.place != "line":
            return [] if self.place is None else [self.place]
        lines = self.program.splitlines()
        [number] = [n for n, line in enumerate(lines, 1) if line.endswith(HERE)]
        return [f"{FILE}, line {number})", f'{FILE}", line {number},']


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the user of a program has seen."""

    text: str
    """Tracebacks, warnings and the log."""
    stacks: tuple[tuple[str, ...], ...]
    """Files of the frames of each traceback, the outermost first."""
    has_failed: bool
    """True if the program ended with an error, or logged a warning or more."""

    @property
    def is_led_by_us(self) -> bool:
        """True if a frame of the framework stands above the program's own in any traceback."""
        return any(_is_led_by_us(stack) for stack in self.stacks)


def _is_led_by_us(stack: tuple[str, ...]) -> bool:
    if not any(_is_of_the_program(file) for file in stack):
        return False
    first = next(number for number, file in enumerate(stack) if _is_of_the_program(file))
    return any(package in Path(file).parts for file in stack[:first] for package in OUTER)


def _is_of_the_program(file: str) -> bool:
    return Path(file).name == FILE


def see(source: str, folder: Path) -> Seen:
    """Run a program in ``folder``, and return all that its user sees."""
    path = folder / FILE
    path.write_text(source)
    module = ModuleType("program")
    module.__file__ = str(path)
    vars(module).update(talk=talk, folder=folder)
    error: BaseException | None = None
    with _log() as log, warnings.catch_warnings(record=True) as warned, _known(module):
        warnings.simplefilter("always")
        try:
            exec(compile(source, str(path), "exec"), vars(module))
        except Exception as raised:
            error = raised
        vars(module).clear()  # coroutines that nobody awaited are told of now
    text = log.text
    stacks = log.stacks
    if error is not None:
        shown = _without_this_module(error)
        text += "".join(traceback.format_exception(type(error), error, shown))
        stacks.append(_files(shown))
        stacks.extend(_files(e.__traceback__) for e in _led_to(error))
    text += "".join(f"{w.category.__name__}: {w.message}\n" for w in warned)
    return Seen(text, tuple(stacks), error is not None or log.has_warned or bool(warned))


def talk(app: WebSuckets, *commands: Any, **fields: Any) -> list[Any]:
    """Start an app, send it commands (names, or tuples of a name and a payload), and stop it.

    Return the payloads of the replies. An error that the app sends is left to the log.
    """

    async def main() -> list[Any]:
        replies = []
        async with TestClient(app) as client:
            for command in commands:
                event, payload = command if isinstance(command, tuple) else (command, None)
                try:
                    replies.append((await client.call(event, payload, **fields)).payload)
                except CommandError as error:
                    replies.append(str(error))
        return replies

    return anyio.run(main)


def _without_this_module(error: BaseException) -> Any:
    shown = error.__traceback__
    while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
        shown = shown.tb_next
    return shown


def _led_to(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that a traceback shows above the error."""
    if error.__cause__ is not None:
        yield error.__cause__
    elif error.__context__ is not None and not error.__suppress_context__:
        yield error.__context__


def _files(shown: Any) -> tuple[str, ...]:
    return tuple(frame.filename for frame in traceback.extract_tb(shown))


@contextmanager
def _known(module: ModuleType) -> Iterator[None]:
    """Let other modules find the module of the program, as they find that of any program."""
    with ExitStack() as stack:
        before = sys.modules.get(module.__name__)
        sys.modules[module.__name__] = module
        if before is not None:
            stack.callback(sys.modules.__setitem__, module.__name__, before)
        else:
            stack.callback(sys.modules.pop, module.__name__, None)
        yield


class _Log(logging.Handler):
    """Log of the framework as a console shows it."""

    def __init__(self) -> None:
        super().__init__(LEVEL)
        self._lines = StringIO()
        self.stacks: list[tuple[str, ...]] = []
        self.has_warned = False
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.write(self.format(record) + "\n")
        is_of_load = record.msg.startswith(BLOCKED)  # other programs may keep the cores busy
        self.has_warned |= record.levelno >= logging.WARNING and not is_of_load
        if record.exc_info:
            self.stacks.append(_files(record.exc_info[2]))

    @property
    def text(self) -> str:
        return self._lines.getvalue()


@contextmanager
def _log() -> Iterator[_Log]:
    logger = logging.getLogger("websuckets")
    log, level = _Log(), logger.level
    logger.addHandler(log)
    logger.setLevel(LEVEL)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
