"""Hashing of passwords by argon2 that waits in its thread until a test lets it go on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import anyio
from argon2 import PasswordHasher
from timeouts import TIMEOUT


@contextmanager
def held_hashing() -> Iterator[anyio.Event]:
    """Hold every hash that begins meanwhile, to the end of the block.

    Yields an event that is set when the first of them has begun. Hashing has to run in threads that
    anyio started.
    """
    began, go_on = anyio.Event(), threading.Event()

    def held(method: Callable[..., Any]) -> Callable[..., Any]:
        def hold(*arguments: Any) -> Any:
            anyio.from_thread.run_sync(began.set)
            assert go_on.wait(2 * TIMEOUT)
            return method(*arguments)

        return hold

    with (
        patch.object(PasswordHasher, "hash", held(PasswordHasher.hash)),
        patch.object(PasswordHasher, "verify", held(PasswordHasher.verify)),
    ):
        try:
            yield began
        finally:
            go_on.set()
