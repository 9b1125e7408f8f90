"""Event loops by name."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

__all__ = ["run", "until_told_to_end"]


def run(variant: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` on ``"asyncio"`` or ``"uvloop"``."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if variant == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def until_told_to_end() -> Awaitable[object]:
    """Wait for SIGTERM."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    return told.wait()
