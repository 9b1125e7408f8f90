"""Bounds of the log of events that one process keeps in its memory, and values that it takes."""

from math import inf, nan
from typing import Any

import pytest
from event_logs import KEPT, SetClock, publication

from websuckets.history import (
    OVERHEAD,
    EventLog,
    History,
    HistoryLost,
    LoggedEvent,
    MemoryLog,
    PlainMessageLog,
    Position,
    Publication,
    in_order,
)

pytestmark = pytest.mark.anyio

CANARY = "a-secret-canary"


async def kept(log: MemoryLog, *channels: str) -> list[str]:
    """Return those of the channels that have an event; change nothing."""
    return [name for name in channels if name in log._channels and log._channels[name].events]


async def test_the_channel_that_was_not_used_for_longest_makes_room_for_others() -> None:
    """Expect publishing, asking and reading to be uses."""
    log = MemoryLog(channels=3)
    for channel in "abc":
        position = await log.append(publication("{}", channel))
    await log.append(publication("{}", "a"))
    await log.append(publication("{}", "d"))
    assert await kept(log, *"abcd") == ["a", "c", "d"]
    await log.position("a")
    await log.read("c", position, 1)
    await log.append(publication("{}", "e"))
    assert await kept(log, *"acde") == ["a", "c", "e"]


async def test_a_channel_that_was_forgotten_begins_with_a_new_epoch() -> None:
    log = MemoryLog(channels=1)
    before = await log.append(publication("{}", "a"))
    await log.append(publication("{}", "b"))
    with pytest.raises(HistoryLost):
        await log.read("a", before, 1)
    after = await log.append(publication("{}", "a"))
    assert after.offset == 1
    assert after.epoch != before.epoch


@pytest.mark.parametrize("step", ["position", "positions", "read"])
async def test_channels_that_were_only_asked_for_are_bounded_too(step: str) -> None:
    log = MemoryLog(channels=3)
    for number in range(10):
        if step == "position":
            await log.position(str(number))
        elif step == "positions":
            await log.positions([str(number), f"{number} too"])
        else:
            with pytest.raises(HistoryLost):
                await log.read(str(number), Position("x", 0), 1)
    assert repr(log) == "MemoryLog(3 channels)"


async def test_events_are_bounded_by_the_memory_that_they_take() -> None:
    """Two events fit, the third does not."""
    log = MemoryLog(size=2 * (OVERHEAD + 1000))
    for channel in "abc":
        await log.append(publication("x" * 1000, channel))
    assert await kept(log, *"abc") == ["b", "c"]


async def test_the_channel_that_is_used_keeps_its_events_though_they_are_over_the_bound() -> None:
    log = MemoryLog(size=1000)
    for _ in range(5):
        end = await log.append(publication("x" * 1000))
    assert len(await log.read("c", Position(end.epoch, 0), 10)) == 5


async def test_events_that_are_removed_take_no_memory() -> None:
    """Test events over the size, too old, of a channel that was forgotten, and of an old epoch."""
    clock = SetClock()
    log = MemoryLog(clock=clock, channels=2)
    for channel in "abc":
        for _ in range(5):
            await log.append(publication("x" * 1000, channel, History(size=3, seconds=10)))
    assert log._bytes == 2 * 3 * (OVERHEAD + 1000)
    clock.now += 10
    await log.append(publication("", "c"))
    assert log._bytes == 3 * (OVERHEAD + 1000) + OVERHEAD
    await log.position("b")
    assert log._bytes == OVERHEAD
    await log.new_epoch()
    assert log._bytes == 0
    assert repr(log) == "MemoryLog(0 channels)"


async def test_an_event_is_kept_until_its_last_second_is_over() -> None:
    clock = SetClock()
    log = MemoryLog(clock=clock)
    end = await log.append(publication("{}", history=History(seconds=10)))
    start = Position(end.epoch, 0)
    clock.now += 9.5
    assert len(await log.read("c", start, 1)) == 1
    clock.now += 0.5
    with pytest.raises(HistoryLost):
        await log.read("c", start, 1)


async def test_a_log_in_memory_is_not_shared_and_tells_nobody() -> None:
    log: EventLog = MemoryLog()
    assert not log.is_shared
    assert not log.publishes_hints


async def test_a_plain_log_of_a_message_gives_positions_and_appends_nothing() -> None:
    log = MemoryLog()
    end = await log.append(publication("{}"))
    plain = PlainMessageLog(log)
    assert not plain.is_transactional
    assert await plain.position("c") == end
    with pytest.raises(NotImplementedError):
        await plain.append([publication("{}")])


@pytest.mark.parametrize(
    "values",
    [
        *({"size": value} for value in (0, -1, 1.5, True, "1", None, inf)),
        *({"seconds": value} for value in (0, -1, nan, inf, True, "1", None)),
    ],
)
def test_a_history_that_means_nothing_is_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=rf"History\({name}="):
        History(**values)


def test_publications_are_ordered_by_channel_and_else_stay_in_their_order() -> None:
    given = [publication(str(number), channel) for number, channel in enumerate("bacab")]
    ordered = in_order(given)
    assert [(each.channel, each.frame) for each in ordered] == [
        ("a", b"1"),
        ("a", b"3"),
        ("b", b"0"),
        ("b", b"4"),
        ("c", b"2"),
    ]


def test_publications_have_ids_of_their_own() -> None:
    assert len({publication("{}").id for _ in range(100)}) == 100


def test_the_texts_of_publications_and_events_do_not_name_what_they_carry() -> None:
    assert CANARY not in repr(Publication("c", KEPT, CANARY.encode()))
    assert CANARY not in repr(LoggedEvent(1, CANARY.encode()))
