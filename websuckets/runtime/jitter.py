"""Random pauses, so that many nodes, connections or clients do not act at the same moment."""

from collections.abc import Callable
from random import SystemRandom
from typing import Final

__all__ = ["uniform"]

uniform: Final[Callable[[float, float], float]] = SystemRandom().uniform
"""Function that returns a number between two others, each as likely.

Not that of the module ``random``: programs seed it, after which all workers would pause equally
long, and Hypothesis reports who uses it while values are drawn.
"""
