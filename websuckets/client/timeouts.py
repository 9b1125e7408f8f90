"""Timeouts of clients: errors that say what has not come, and within how many seconds."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

__all__ = ["within"]


@contextmanager
def within(seconds: float | None, otherwise: str) -> Iterator[None]:
    """Return a context that ends after so many seconds; ``None`` sets no limit.

    Raises `TimeoutError` then, whose text begins with ``otherwise``: what has not come.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise TimeoutError(f"{otherwise} within {seconds} seconds") from None
