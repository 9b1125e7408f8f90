"""Behaviour that all logs of the events of channels share."""

import secrets
from collections.abc import AsyncIterator, Sequence
from itertools import cycle

import anyio
import pytest
from event_logs import KEPT, PARAMETERS, Nodes, Open, prepared, publication
from timeouts import TIMEOUT

from websuckets.exc import Unavailable
from websuckets.history import EventLog, History, HistoryLost, LoggedEvent, Position

pytestmark = pytest.mark.anyio

NAMES = [
    "c",
    "C",
    " c",
    "c ",
    "ticket/5",
    "ticket/5/",
    "ticket//5",
    "/",
    "a:b",
    "a::b",
    ":",
    "{a}",
    "{",
    "}{",
    "{}",
    "%s%d%%",
    "'; DROP TABLE x; --",
    '"\\',
    "*?[a-z]",
    "c\n",
    "\r\n",
    "\t",
    "\x00",
    "c\x00",
    "a\x00b",
    "\x7f",
    "\ufeff",
    "é",
    "e\u0301",
    "канал",
    "频道",
    "📺",
    "\u202e",
    "c" * 128,
    "📺" * 32,
]
"""Names of channels, each of from 1 to 128 bytes; no two of them are the same."""

FRAMES = {
    "empty": b"",
    "JSON": b'{"event":"commented","payload":{"text":"\\n"}}',
    "many bytes for each character": '{"a":"é频📺\u202e"}'.encode(),
    "line breaks": b"\n{\r\n}\n\n",
    "U+0000": b"\x00a\x00",
    "all of ASCII": bytes(range(128)),
    "large": b'{"a":"' + b"x" * 1024 * 1024 + b'"}',
}


@pytest.fixture(params=PARAMETERS)
def open_nodes(request: pytest.FixtureRequest, anyio_backend: str) -> Open:
    """Return a function that opens two nodes with one log."""
    return prepared(request.param, anyio_backend, request)


@pytest.fixture
async def nodes(open_nodes: Open) -> AsyncIterator[Nodes]:
    """Yield two nodes with one log."""
    async with open_nodes() as nodes:
        yield nodes


async def fill(nodes: Nodes, number: int, channel: str = "c", history: History = KEPT) -> Position:
    """Append so many events by both nodes in turn; return the position behind the last one."""
    for _, log in zip(range(number), cycle(nodes.both), strict=False):
        position = await log.append(publication("{}", channel, history))
    await nodes.trim(channel)
    return position


async def offsets(
    log: EventLog, since: int, channel: str = "c", limit: int = 10_000
) -> list[int] | None:
    """Return the offsets of the events behind this one, or ``None`` if the log has lost them."""
    epoch = (await log.position(channel)).epoch
    try:
        return [event.offset for event in await log.read(channel, Position(epoch, since), limit)]
    except HistoryLost:
        return None


# Positions


async def test_events_of_a_channel_get_offsets_from_1_without_a_gap(nodes: Nodes) -> None:
    for number in range(1, 8):
        for log, channel in ((nodes.one, "c"), (nodes.two, "d")):
            position = await log.append(publication("{}", channel))
            assert position.offset == number
    for number in range(8, 15):
        for log, channel in ((nodes.two, "c"), (nodes.one, "d")):
            assert (await log.append(publication("{}", channel))).offset == number


async def test_a_channel_without_events_has_offset_0_and_the_epoch_of_its_events_to_come(
    nodes: Nodes,
) -> None:
    position = await nodes.one.position("c")
    assert position.offset == 0
    assert position.epoch
    assert await nodes.two.position("c") == position
    assert await nodes.two.append(publication("{}")) == Position(position.epoch, 1)
    assert await offsets(nodes.one, 0) == [1]


async def test_the_position_is_behind_the_last_event_on_each_node(nodes: Nodes) -> None:
    for log in (*nodes.both, *nodes.both):
        position = await log.append(publication("{}"))
        for each in nodes.both:
            assert await each.position("c") == position
            assert list(await each.positions(["c"])) == [position]


async def test_nodes_that_use_a_new_channel_at_the_same_time_agree_on_its_epoch(
    nodes: Nodes,
) -> None:
    for channel in map(str, range(20)):
        found = await used_at_once(nodes, channel)
        assert len({position.epoch for position in found}) == 1
        assert await nodes.one.position(channel) == Position(found[0].epoch, 2)


async def used_at_once(nodes: Nodes, channel: str) -> list[Position]:
    """Return the positions that both nodes get who ask and append at the same time."""
    found: list[Position] = []

    async def ask(log: EventLog) -> None:
        found.append(await log.position(channel))

    async def append(log: EventLog) -> None:
        found.append(await log.append(publication("{}", channel)))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for log in nodes.both:
                tasks.start_soon(ask, log)
                tasks.start_soon(append, log)
    return found


async def test_positions_of_a_thousand_channels_come_in_their_order(nodes: Nodes) -> None:
    """Some of the channels have events, some are not used yet."""
    channels = [f"channel/{number}" for number in range(1000)]
    used = {channel: number % 3 + 1 for number, channel in enumerate(channels[::37])}
    expected = {channel: await fill(nodes, number, channel) for channel, number in used.items()}
    for log in nodes.both:
        for some in (channels, channels[::-1], channels[:1], []):
            positions = await log.positions(some)
            assert [position.offset for position in positions] == [
                used.get(channel, 0) for channel in some
            ]
            for channel, position in zip(some, positions, strict=True):
                assert position == expected.setdefault(channel, position)
    assert await nodes.two.append(publication("{}", channels[1])) == Position(
        expected[channels[1]].epoch, 1
    )


# Reading


async def test_a_log_is_read_in_pages(nodes: Nodes) -> None:
    end = await fill(nodes, 10)
    for log in nodes.both:
        assert await offsets(log, 0) == list(range(1, 11))
        assert await offsets(log, 0, limit=10) == list(range(1, 11))
        assert await offsets(log, 0, limit=4) == [1, 2, 3, 4]
        assert await offsets(log, 4, limit=4) == [5, 6, 7, 8]
        assert await offsets(log, 8, limit=4) == [9, 10]
        assert await offsets(log, 9, limit=1) == [10]
        assert list(await log.read("c", end, 4)) == []


async def test_reading_at_the_head_gives_nothing(nodes: Nodes) -> None:
    for _ in range(3):
        for log in nodes.both:
            for each in nodes.both:
                assert list(await each.read("c", await log.position("c"), 100)) == []
            await log.append(publication("{}"))


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
async def test_an_event_is_read_as_it_was_appended(nodes: Nodes, frame: bytes) -> None:
    excluded = ["", "a" * 32, " ", "é频📺", "a\x00b", "'"]
    start = await nodes.one.position("c")
    for log, connection in zip(cycle(nodes.both), excluded, strict=False):
        await log.append(publication(frame, excluded=connection))
    expected = [LoggedEvent(n, frame, connection) for n, connection in enumerate(excluded, 1)]
    for log in nodes.both:
        assert list(await log.read("c", start, 100)) == expected


async def test_channels_with_names_of_any_characters_are_told_apart(nodes: Nodes) -> None:
    for log, name in zip(cycle(nodes.both), NAMES, strict=False):
        assert (await log.append(publication(f"{{{name}}}", name))).offset == 1
    for log in nodes.both:
        for name, position in zip(NAMES, await log.positions(NAMES), strict=True):
            assert position.offset == 1
            assert await log.position(name) == position
            start = Position(position.epoch, 0)
            (event,) = await log.read(name, start, 100)
            assert event == LoggedEvent(1, f"{{{name}}}".encode())


# Trimming


async def test_a_channel_keeps_as_many_events_as_its_history_says(nodes: Nodes) -> None:
    few = History(size=3, seconds=1000)
    for number in range(1, 9):
        await fill(nodes, 1, history=few)
        for log in nodes.both:
            for since in range(number + 1):
                kept = list(range(since + 1, number + 1))
                assert await offsets(log, since) == (kept if len(kept) <= 3 else None)
                assert await offsets(log, since, limit=1) == (kept[:1] if len(kept) <= 3 else None)


async def test_a_history_may_have_one_event(nodes: Nodes) -> None:
    await fill(nodes, 4, history=History(size=1))
    for log in nodes.both:
        assert [await offsets(log, since) for since in range(5)] == [None, None, None, [4], []]


async def test_a_history_that_is_made_smaller_removes_more(nodes: Nodes) -> None:
    await fill(nodes, 5)
    await fill(nodes, 1, history=History(size=2))
    assert [await offsets(nodes.one, since) for since in (3, 4)] == [None, [5, 6]]
    await fill(nodes, 1)
    assert [await offsets(nodes.two, since) for since in (3, 4)] == [None, [5, 6, 7]]


async def test_channels_are_trimmed_each_by_its_own_history(nodes: Nodes) -> None:
    await fill(nodes, 5, "a")
    await fill(nodes, 5, "b", History(size=2))
    await fill(nodes, 5, "c", History(seconds=10))
    await nodes.pass_time(20)
    for channel in "abc":
        await nodes.trim(channel)
    for log in nodes.both:
        assert await offsets(log, 0, "a") == [1, 2, 3, 4, 5]
        assert [await offsets(log, since, "b") for since in (2, 3)] == [None, [4, 5]]
        assert [await offsets(log, since, "c") for since in (4, 5)] == [None, []]


async def test_events_that_are_too_old_are_removed(nodes: Nodes) -> None:
    hour = History(seconds=3600)
    await fill(nodes, 3, history=hour)
    await nodes.pass_time(1800)
    await fill(nodes, 2, history=hour)
    for log in nodes.both:
        assert await offsets(log, 0) == [1, 2, 3, 4, 5]
    await nodes.pass_time(2400)
    await nodes.trim("c")
    for log in nodes.both:
        assert [await offsets(log, since) for since in range(6)] == [
            None,
            None,
            None,
            [4, 5],
            [5],
            [],
        ]
    await fill(nodes, 1, history=hour)
    for log in nodes.both:
        assert [await offsets(log, since) for since in (2, 3, 5)] == [None, [4, 5, 6], [6]]


async def test_offsets_and_epoch_go_on_when_all_events_are_too_old(nodes: Nodes) -> None:
    hour = History(seconds=3600)
    end = await fill(nodes, 3, history=hour)
    await nodes.pass_time(5 * 3600)
    await nodes.trim("c")
    for log in nodes.both:
        assert await log.position("c") == end
        assert [await offsets(log, since) for since in range(4)] == [None, None, None, []]
    assert await nodes.two.append(publication("{}")) == Position(end.epoch, 4)
    for log in nodes.both:
        assert [await offsets(log, since) for since in range(5)] == [None, None, None, [4], []]


# Lost history


@pytest.mark.parametrize("offset", [-1, -7, -(2**70), 4, 5, 2**53, 2**63, 10**30])
async def test_a_position_to_which_the_log_has_not_come_is_lost(nodes: Nodes, offset: int) -> None:
    end = await fill(nodes, 3)
    for log in nodes.both:
        with pytest.raises(HistoryLost):
            await log.read("c", Position(end.epoch, offset), 100)
        with pytest.raises(HistoryLost):
            await log.read("unused", Position(end.epoch, offset), 100)


@pytest.mark.parametrize("epoch", ["", "0", " ", "é", "\x00", "x" * 10_000, "'"])
@pytest.mark.parametrize("offset", [0, 3])
async def test_a_position_of_another_epoch_is_lost(nodes: Nodes, epoch: str, offset: int) -> None:
    end = await fill(nodes, 3)
    for log in nodes.both:
        for other in (epoch, f"{end.epoch}{epoch or 0}", end.epoch[:-1]):
            with pytest.raises(HistoryLost):
                await log.read("c", Position(other, offset), 100)
        with pytest.raises(HistoryLost):
            await log.read("unused", Position(epoch, 0), 100)
        assert await log.position("c") == end


async def test_a_new_epoch_loses_the_events_of_every_channel(nodes: Nodes) -> None:
    before = {channel: await fill(nodes, 3, channel) for channel in "ab"}
    before["unused"] = await nodes.one.position("unused")
    await nodes.two.new_epoch()
    epochs = {position.epoch for position in before.values()}
    for log in nodes.both:
        for channel, position in before.items():
            for offset in range(position.offset + 1):
                with pytest.raises(HistoryLost):
                    await log.read(channel, Position(position.epoch, offset), 100)
            after = await log.position(channel)
            assert after.epoch not in epochs
            assert list(await log.read(channel, after, 100)) == []
            assert list(await log.positions([channel])) == [after]


async def test_a_channel_begins_anew_in_a_new_epoch(nodes: Nodes) -> None:
    """Expect two calls to be two epochs, and an append to be a use like any other."""
    epochs = [(await fill(nodes, 5)).epoch]
    for log in (nodes.one, nodes.one, nodes.two):
        await log.new_epoch()
        positions = [await each.append(publication("{}")) for each in nodes.both]
        assert [position.offset for position in positions] == [1, 2]
        assert positions[0].epoch == positions[1].epoch
        for each in nodes.both:
            assert await offsets(each, 0) == [1, 2]
        epochs.append(positions[0].epoch)
    assert len(set(epochs)) == 4


# Concurrency


async def test_of_many_events_at_once_each_gets_its_own_offset(nodes: Nodes) -> None:
    """Expect the events of each publisher in their order, and no gap."""
    publishers, number = 8, 15
    got: list[Position] = []

    async def publish(publisher: int, log: EventLog) -> None:
        before = 0
        for count in range(number):
            position = await log.append(publication(f"{publisher} {count}"))
            assert position.offset > before
            before = position.offset
            got.append(position)

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for publisher, log in zip(range(publishers), cycle(nodes.both), strict=False):
                tasks.start_soon(publish, publisher, log)
    (epoch,) = {position.epoch for position in got}
    assert sorted(position.offset for position in got) == list(range(1, publishers * number + 1))
    events = await nodes.one.read("c", Position(epoch, 0), 10_000)
    assert [event.offset for event in events] == list(range(1, publishers * number + 1))
    for publisher in range(publishers):
        frames = [event.frame.decode().split() for event in events]
        counts = [int(count) for who, count in frames if who == str(publisher)]
        assert counts == list(range(number))


async def test_a_reader_sees_each_event_once_while_others_append(nodes: Nodes) -> None:
    """Expect that no event appears behind a position that a reader has passed."""
    total, start = 60, await nodes.one.position("c")

    async def publish(log: EventLog) -> None:
        for _ in range(total // 2):
            await log.append(publication("{}"))

    async def follow(log: EventLog) -> None:
        at, seen = start, list[int]()
        while len(seen) < total:
            page: Sequence[LoggedEvent] = await log.read("c", at, 7)
            seen += [event.offset for event in page]
            at = at._replace(offset=len(seen))
            assert seen == list(range(1, len(seen) + 1))
            await anyio.sleep(0)

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for log in nodes.both:
                tasks.start_soon(publish, log)
                tasks.start_soon(follow, log)


# Failure


async def test_a_publication_that_is_appended_twice_is_there_once(nodes: Nodes) -> None:
    if not nodes.knows_repetitions:
        pytest.skip("its answers are not lost")
    first, second = publication("1"), publication("2")
    position = await nodes.one.append(first)
    assert await nodes.one.append(first) == position
    behind = await nodes.two.append(second)
    assert behind == Position(position.epoch, 2)
    for log in nodes.both:
        assert await log.append(first) == position
        assert await log.append(second) == behind
        events = await log.read("c", Position(position.epoch, 0), 100)
        assert [event.frame for event in events] == [b"1", b"2"]
        assert await log.position("c") == behind


async def test_a_publication_that_is_appended_twice_at_once_is_there_once(nodes: Nodes) -> None:
    if not nodes.knows_repetitions:
        pytest.skip("its answers are not lost")
    one = publication("{}")
    got: list[Position] = []

    async def append(log: EventLog) -> None:
        got.append(await log.append(one))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for log in nodes.both * 5:
                tasks.start_soon(append, log)
    assert len(set(got)) == 1
    assert await offsets(nodes.one, 0) == [1]


async def test_a_log_that_cannot_be_reached_says_so_and_works_again_later(nodes: Nodes) -> None:
    if nodes.outage is None:
        pytest.skip("it is always there")
    end = await fill(nodes, 3)
    secret = f"a-secret-{secrets.token_hex(4)}"
    with anyio.fail_after(TIMEOUT):
        async with nodes.outage():
            for call in (
                nodes.one.append(publication(secret, excluded=secret)),
                nodes.one.read("c", Position(end.epoch, 0), 100),
                nodes.one.position("c"),
                nodes.one.positions(["c", "d"]),
                nodes.one.new_epoch(),
            ):
                with pytest.raises(Unavailable) as caught:
                    await call
                assert secret not in str(caught.value)
    assert await nodes.one.position("c") == await nodes.two.position("c") == end
    assert await nodes.one.append(publication("{}")) == Position(end.epoch, 4)
    assert await offsets(nodes.one, 0) == [1, 2, 3, 4]
