"""Random pauses, so that many nodes, connections or clients do not act at the same moment."""

from collections.abc import Callable
from random import SystemRandom
from typing import Final

__all__ = ["random", "uniform"]

_generator = SystemRandom()

random: Final[Callable[[], float]] = _generator.random
"""Function that returns a number from 0 to 1, 1 excluded."""

uniform: Final[Callable[[float, float], float]] = _generator.uniform
"""Function that returns a number between two others, each as likely.

Neither is that of the module ``random``: programs seed it, after which all workers would pause
equally long, and Hypothesis reports who uses it while values are drawn.
"""
