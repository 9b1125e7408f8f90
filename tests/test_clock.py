"""The time of an app: in steps as fine as its timeouts need, and only while it runs."""

import math
import time

import anyio
import pytest

from websuckets.clock import LONGEST_STEP, SHORTEST_STEP, Clock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("timeout", "step"), [(4, 0.5), (100, LONGEST_STEP), (0.001, SHORTEST_STEP)]
)
def test_a_timeout_takes_at_most_a_quarter_longer(timeout: float, step: float) -> None:
    """Two steps, of which it consists of eight."""
    assert Clock().allow(timeout) == timeout + step


def test_no_timeout_is_for_ever() -> None:
    """And asks for no fineness."""
    clock = Clock()
    assert clock.allow(None) == math.inf
    assert clock.allow(8) == 9


async def test_time_goes_on_in_steps_and_listeners_are_told() -> None:
    """However long the event loop is held up: nobody is late because of others."""
    clock = Clock()
    clock.allow(0.08)
    seen: list[float] = []
    enough = anyio.Event()

    def listen() -> None:
        time.sleep(0.05)  # holds the loop up
        seen.append(clock.now)
        if len(seen) == 3:
            enough.set()

    clock.listen(listen)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.run)
        await enough.wait()
        tasks.cancel_scope.cancel()
    assert seen[:3] == pytest.approx([0.01, 0.02, 0.03])


async def test_it_goes_on_when_a_listener_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else is to wait for ever because of that."""
    clock = Clock()
    clock.allow(0.01)
    enough = anyio.Event()

    def fail() -> None:
        raise ValueError("bug")

    clock.listen(fail)
    clock.listen(lambda: enough.set() if clock.now > 0.01 else None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.run)
        await enough.wait()
        tasks.cancel_scope.cancel()
    assert "a look at what is late failed" in caplog.text
