"""Mark of code that runs for a command that takes effect once."""

from contextvars import ContextVar
from typing import Final

__all__ = ["OnceRun", "running_once"]


class OnceRun:
    """One run of a command that is declared with ``once=True``."""

    __slots__ = ("command", "is_in_handler", "is_over")

    def __init__(self, command: str) -> None:
        self.command: str = command
        """Name of the command."""
        self.is_in_handler: bool = False
        """True while the handler runs."""
        self.is_over: bool = False
        """True once the scope of the command has closed; tasks that it started may run on."""


class _RunningOnce:
    """The run, if any, for which the current code runs."""

    def __init__(self) -> None:
        self._run: ContextVar[OnceRun | None] = ContextVar("websuckets.once", default=None)

    def begin(self, command: str) -> OnceRun:
        """Mark the current context as that of a run, which begins."""
        run = OnceRun(command)
        self._run.set(run)
        return run

    def get(self) -> str | None:
        """Return the name of the command whose guards, dependencies or handler run, if any does."""
        run = self._run.get()
        return None if run is None or run.is_over else run.command

    def refuse(self, doing: str) -> None:
        """Raise `RuntimeError` in the handler of such a command, which must not do this."""
        run = self._run.get()
        if run is not None and run.is_in_handler:
            raise RuntimeError(
                f"command {run.command!r:.80} is declared with once=True, so it cannot {doing}: "
                "sent again, it would get its reply without that; use a command without once=True"
            )


running_once: Final = _RunningOnce()
