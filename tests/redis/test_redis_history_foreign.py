"""The log of Redis for events of channels, where keys have what no node has written."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from event_logs import publication
from redis_logs import LogNode, node_at, number
from redis_server import RedisServer
from timeouts import TIMEOUT

from websuckets.history import HistoryLost

pytestmark = pytest.mark.anyio


@pytest.fixture
async def nodes(shared_redis: RedisServer) -> AsyncIterator[tuple[LogNode, LogNode]]:
    prefix = secrets.token_hex(8)
    async with node_at(shared_redis.url, prefix) as one, node_at(shared_redis.url, prefix) as two:
        yield one, two


FOREIGN = [
    ("SET", "value"),
    ("HSET", "field", "value"),
    ("RPUSH", "value"),
    ("SADD", "value"),
    ("ZADD", "1", "value"),
    ("XADD", "*", "field", "value"),
]
"""Commands, without the key, that make a key of each kind."""


@pytest.mark.parametrize("command", FOREIGN, ids=[command[0] for command in FOREIGN])
@pytest.mark.parametrize("kind", ["log", "events", "published", "epochs"])
async def test_keys_of_another_kind_are_no_error(
    nodes: tuple[LogNode, LogNode],
    shared_redis: RedisServer,
    kind: str,
    command: tuple[str, ...],
) -> None:
    """Expect each step to go on, and the log to work again after the next append."""
    here, there = nodes
    one = publication("{}")
    await here.log.append(publication("{}"))
    start = await here.log.position("c")

    def spoil() -> None:
        names = {"epochs": here.generations, "published": here.key("published", f"{one.id}:c")}
        name = names.get(kind, here.key(kind))
        shared_redis.command("DEL", name)
        shared_redis.command(command[0], name, *command[1:])

    for step in ("position", "positions", "read", "append", "new epoch"):
        spoil()
        if step == "position":
            await there.log.position("c")
        elif step == "positions":
            await there.log.positions(["a", "c"])
        elif step == "read":
            with anyio.fail_after(TIMEOUT):
                try:
                    await there.log.read("c", start, 10)
                    await there.log.read("c", start._replace(offset=0), 10)
                except HistoryLost:
                    pass
        elif step == "append":
            await there.log.append(one)
        else:
            await there.log.new_epoch()
        end = await here.log.append(publication(step))
        assert await there.frames(end.offset - 1) == [step.encode()]
    assert there.malformed + here.malformed > 0 or (kind, command[0]) in {
        ("log", "HSET"),
        ("epochs", "SET"),
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": "x" * 16},
        {"epoch": "ab"},
        {"epoch": ""},
        {"epoch": b"\xff" * 16},
        {"offset": ""},
        {"offset": "-1"},
        {"offset": "1.5"},
        {"offset": "nan"},
        {"offset": "1e3"},
        {"offset": "9" * 16},
        {"offset": "9" * 400},
        {"offset": b"\xff"},
    ],
)
async def test_a_hash_that_no_node_has_written_is_absent_and_counted(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer, fields: dict[str, Any]
) -> None:
    here, there = nodes
    ((field, value),) = fields.items()
    before = await here.log.append(publication("old"))
    for step in ("append", "position", "read"):
        shared_redis.command("HSET", here.key("log"), field, value)
        count = here.malformed
        if step == "append":
            await here.log.append(publication("new"))
        elif step == "position":
            assert (await here.log.position("c")).offset == 0
        else:
            with pytest.raises(HistoryLost):
                await here.log.read("c", before, 10)
        assert here.malformed == count + 1
        if step != "read":
            after = await there.log.position("c")
            assert after.epoch != before.epoch
            assert await there.frames() == ([b"new"] if step == "append" else [])
    assert there.malformed == 0


@pytest.mark.parametrize("lifetime", ["", "nan", "inf", "-inf", "x", "1e400", "0x10", "-5"])
async def test_a_lifetime_that_no_node_has_written_is_no_error(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer, lifetime: str
) -> None:
    here, _ = nodes
    await here.log.append(publication("1"))
    shared_redis.command("HSET", here.key("log"), "lifetime", lifetime)
    assert await here.frames() in (None, [b"1"])
    await here.log.append(publication("2"))
    assert await here.frames() == [b"1", b"2"]


async def test_a_stream_that_is_ahead_of_its_hash_begins_a_new_epoch(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer
) -> None:
    here, there = nodes
    for count in range(5):
        before = await here.log.append(publication(str(count)))
    shared_redis.command("HSET", here.key("log"), "offset", "2")
    for since in (3, 4, 5):
        assert await there.frames(since) is None
    after = await here.log.append(publication("new"))
    assert after.offset == 1
    assert after.epoch != before.epoch
    assert await there.frames() == [b"new"]
    assert here.malformed == 1


async def test_an_event_that_is_missing_within_a_stream_is_a_loss_to_those_before_it(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer
) -> None:
    here, _ = nodes
    for count in range(1, 6):
        await here.log.append(publication(str(count)))
    (name,) = (await here.broker.redis.ask(b"XRANGE", here.key("events"), 3, 3))[0][:1]
    assert number(shared_redis.command("XDEL", here.key("events"), name)) == 1
    assert [await here.frames(since) for since in (0, 2, 3)] == [None, None, [b"4", b"5"]]


@pytest.mark.parametrize(
    "fields",
    [
        ("field", "value"),
        ("excluded", "", "frame", "{}", "more", ""),
        ("frame", "{}", "excluded", ""),
        ("excluded", b"\xff", "frame", "{}"),
    ],
)
async def test_an_entry_that_no_node_has_written_is_lost_and_counted(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer, fields: tuple[str | bytes, ...]
) -> None:
    here, there = nodes
    await here.log.append(publication("1"))
    time = (await here.broker.redis.ask(b"TIME"))[0].decode() + "000"
    shared_redis.command("XADD", here.key("events"), f"2-{time}", *fields)
    shared_redis.command("HSET", here.key("log"), "offset", "2")
    await here.log.append(publication("3"))
    assert [await there.frames(since) for since in (0, 1, 2)] == [None, None, [b"3"]]
    assert there.malformed == 2


@pytest.mark.parametrize("value", ["", "x", "a b", "aa -1", b"\xff 1", "aa " + "1" * 5000])
async def test_a_remembered_position_that_no_node_has_written_is_replaced(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer, value: str | bytes
) -> None:
    here, there = nodes
    one = publication("{}")
    shared_redis.command("SET", here.key("published", f"{one.id}:c"), value)
    end = await here.log.append(one)
    assert await there.log.append(one) == end
    assert await here.frames() == [b"{}"]
    assert (here.malformed, there.malformed) == (1, 0)


async def test_a_generation_that_is_lost_is_a_new_epoch(
    nodes: tuple[LogNode, LogNode], shared_redis: RedisServer
) -> None:
    here, there = nodes
    await here.log.new_epoch()
    before = await here.log.append(publication("{}"))
    for value in (None, b"\xff\x00"):
        shared_redis.command("DEL", here.generations)
        if value is not None:
            shared_redis.command("SET", here.generations, value)
        after = await there.log.append(publication("new"))
        assert after.offset == 1
        assert after.epoch != before.epoch
        before = after
