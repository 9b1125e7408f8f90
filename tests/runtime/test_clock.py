"""Tests of the app's clock, whose steps are as short as its timeouts need, while the app runs."""

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from websuckets.runtime import clock as module
from websuckets.runtime.clock import FEW, LONGEST_STEP, SHORTEST_STEP, Clock, Timer

pytestmark = pytest.mark.anyio


class Ringing:
    """An owner of a timer that calls a function."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring

    def ring(self) -> None:
        self._ring()


@asynccontextmanager
async def running(clock: Clock) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.run)
        yield
        tasks.cancel_scope.cancel()


def go_on(clock: Clock, seconds: float) -> None:
    """Let this much time pass, in one step."""
    clock.now += seconds
    clock.ring()


@pytest.mark.parametrize(
    ("seconds", "due", "step"),
    [
        (100, 100 + LONGEST_STEP, LONGEST_STEP),
        (4, 4 + LONGEST_STEP, LONGEST_STEP),
        (2, 2, 0.25),
        (0.001, 0.001, SHORTEST_STEP),
    ],
)
def test_a_timeout_takes_at_most_a_quarter_longer(seconds: float, due: float, step: float) -> None:
    """Expect a long timeout to be a step late before and after at most, and a short one after."""
    timeout = Clock().timeout(seconds)
    assert timeout.due() == due
    assert timeout.step == step
    assert due >= seconds
    assert due + step <= max(seconds * 1.25, seconds + SHORTEST_STEP)


def test_no_timeout_never_passes() -> None:
    """Expect a timer without a timeout not to be set."""
    clock = Clock()
    timer = clock.timer(Ringing(lambda: None))
    timer.start(clock.timeout(None))
    assert timer.moment == math.inf


def test_a_timer_rings_once_at_the_earliest_moment_that_it_was_set_to() -> None:
    """Expect a later moment to be ignored; once it has rung, the timer may be set again."""
    clock = Clock()
    rung: list[float] = []
    timer = clock.timer(Ringing(lambda: rung.append(clock.now)))
    timer.by(5, 0.5)
    timer.by(3, 0.5)
    timer.by(4, 0.5)
    go_on(clock, 2.5)
    assert rung == []
    go_on(clock, 1)
    go_on(clock, 3)
    assert rung == [3.5]
    timer.by(7, 0.5)
    go_on(clock, 1)
    assert rung == [3.5, 7.5]


def test_a_timer_that_was_stopped_does_not_ring_and_is_not_set_any_more() -> None:
    """Expect the timer not to ring, even if another stops it at the moment when both ring."""
    clock = Clock()
    rung: list[str] = []
    first = clock.timer(Ringing(lambda: second.stop()))
    second = clock.timer(Ringing(lambda: rung.append("second")))
    for timer in (first, second):
        timer.by(1, 0.5)
    go_on(clock, 1)
    second.by(1.5, 0.5)
    second.stop()
    go_on(clock, 1)
    assert rung == []


def test_a_timer_may_be_set_to_a_moment_that_is_over() -> None:
    """Expect the timer to ring with the next step, not in an endless loop."""
    clock = Clock()
    rung: list[float] = []

    def ring() -> None:
        rung.append(clock.now)
        timer.by(0, 0.5)

    timer: Timer = clock.timer(Ringing(ring))
    timer.by(0, 0.5)
    for _ in range(3):
        go_on(clock, 1)
    assert rung == [1, 2, 3]


def test_what_does_not_ring_any_more_is_cleared_away() -> None:
    """Expect entries bounded by connections and messages that exist, while others come and go."""
    clock = Clock()
    lasting = [clock.timer(Ringing(lambda: None)) for _ in range(10)]
    for timer in lasting:
        timer.by(1e6, 0.01)
    for number in range(10 * FEW):
        timer = clock.timer(Ringing(lambda: None))
        timer.by(20 + number, 0.01)
        timer.by(10 + number, 0.5)
        timer.stop()
        assert len(clock._entries) <= len(lasting) + 2 * (FEW + 1)
        assert not [entry for entry in clock._entries if entry[3] is timer]
    assert clock._short[0.01] < len(lasting) + 2 * (FEW + 1)
    go_on(clock, 1e6)
    assert clock._entries == []
    assert clock._short == {}
    assert clock._outdated == 0


async def test_steps_are_as_short_as_what_runs_needs() -> None:
    """Expect long steps again afterwards, in which a long wait costs nothing."""
    clock = Clock()
    patient, has_rung = clock.timer(Ringing(lambda: None)), anyio.Event()
    patient.start(clock.timeout(30))
    steps: list[float] = []

    def ring() -> None:
        steps.append(clock._step)
        has_rung.set()

    async with running(clock):
        await anyio.wait_all_tasks_blocked()
        steps.append(clock._step)
        clock.timer(Ringing(ring)).start(clock.timeout(0.04))
        await has_rung.wait()
        await anyio.wait_all_tasks_blocked()
        steps.append(clock._step)
    assert steps == [LONGEST_STEP, 0.005, LONGEST_STEP]
    assert patient.moment < math.inf


async def test_a_short_timeout_does_not_pass_while_the_event_loop_is_held_up() -> None:
    """Expect the timeout not to pass, even if the clock is in a long step when it begins."""
    clock = Clock()
    rung: list[float] = []
    async with running(clock):
        await anyio.wait_all_tasks_blocked()
        clock.timer(Ringing(lambda: rung.append(clock.now))).start(clock.timeout(0.04))
        time.sleep(0.1)  # blocks the event loop
        clock.read()
        clock.ring()
        assert rung == []


async def test_a_short_timeout_counts_from_now_also_within_a_long_step() -> None:
    """Expect the timeout never to pass early."""
    clock = Clock()
    rung = anyio.Event()
    async with running(clock):
        await anyio.sleep(0.05)
        last_step = clock.now
        timeout = clock.timeout(0.02)
        begun = time.monotonic()
        clock.timer(Ringing(rung.set)).start(timeout)
        assert clock.now > last_step
        await rung.wait()
        assert time.monotonic() - begun >= 0.02


async def test_no_time_passes_while_the_event_loop_is_held_up() -> None:
    """Expect one step to pass, so that no timer is late because of others."""
    clock = Clock()
    clock.timer(Ringing(lambda: None)).by(1, 0.01)
    async with running(clock):
        await anyio.wait_all_tasks_blocked()
        before = clock.read()
        time.sleep(0.1)  # blocks the event loop
        assert clock.read() - before <= 0.01 + 1e-9
        await anyio.sleep(0)
        assert clock.now - before <= 0.01 + 1e-9


async def test_it_goes_on_when_a_timer_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Expect the clock to run on, so that no other timer waits for ever."""
    clock = Clock()
    enough = anyio.Event()

    def fail() -> None:
        raise ValueError("bug")

    clock.timer(Ringing(fail)).start(clock.timeout(0.01))
    clock.timer(Ringing(enough.set)).start(clock.timeout(0.02))
    async with running(clock):
        await enough.wait()
    assert "a look at what is late failed" in caplog.text


def test_listeners_are_told_when_the_wall_clock_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect one call for each jump, in either direction; a small difference is not a jump."""
    wall = 1e9
    monkeypatch.setattr(module, "time", lambda: wall)
    clock = Clock()
    told: list[float] = []
    clock.on_jump(lambda: told.append(wall))
    for seconds, jump in ((1, 0), (1, 0.5), (1, 3600), (1, 0), (1, -7200), (1, 0)):
        wall += seconds + jump
        go_on(clock, seconds)
    assert [round(moment - 1e9, 1) for moment in told] == [3603.5, -3594.5]
