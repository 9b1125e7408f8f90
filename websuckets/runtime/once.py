"""Mark of code that runs for a command that takes effect once."""

from contextvars import ContextVar
from typing import Final

__all__ = ["running_once"]

running_once: Final[ContextVar[str | None]] = ContextVar("websuckets.once", default=None)
"""Name of the command with a key whose handler, guards or dependencies run; ``None`` elsewhere.

It is set from before the first guard until the scope of the command has closed.
"""
