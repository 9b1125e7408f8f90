"""Behaviour that all session stores share."""

import math
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from brokers import linked
from pydantic_core import to_json
from redis_server import RedisServer
from stores import Stores
from timeouts import TIMEOUT

from websuckets.exc import Unavailable
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import RedisConnection
from websuckets.redis.store import RedisSessionStore
from websuckets.store import MemorySessionStore, Record, key_of

pytestmark = pytest.mark.anyio

LONG = 1000
MANY = 1000

ANN, ANN_AGAIN, BOB = map(key_of, ("ann's", "another of ann's", "bob's"))


async def test_a_record_is_as_it_was_saved(stores: Stores) -> None:
    """A record keeps all that JSON can hold; an id that is a number stays one."""
    store = stores.make(LONG, MANY)
    assert await store.load(ANN) is None
    ann = Record("ann", time.time() + LONG, 1, {"role": "editor", "rooms": [1, None, {"я": 0.5}]})
    bob = Record(7)
    assert await store.save(ANN, ann)
    assert await store.save(BOB, bob)
    assert await store.load(ANN) == ann
    assert await store.load(BOB) == bob


async def test_who_changes_an_old_version_changes_nothing(stores: Stores) -> None:
    """Expect the second of two concurrent changes of a record to be refused, until repeated."""
    store = stores.make(LONG, MANY)
    assert await store.save(ANN, Record("ann"))
    assert not await store.save(ANN, Record("ann", data={"role": "late"}))
    assert await store.save(ANN, Record("ann", version=2, data={"role": "first"}))
    assert not await store.save(ANN, Record("ann", version=2, data={"role": "late"}))
    assert not await store.save(ANN, Record("ann", version=4))
    assert await store.load(ANN) == Record("ann", version=2, data={"role": "first"})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "record",
    [
        Record("ann", data={"lock": object()}),
        Record("ann", data={"balance": math.inf}),
        Record("ann", data={"balance": [{"a": math.nan}]}),
        Record("ann", data={"drawing": nested(250)}),
        Record("ann", expires_at=math.inf),
        Record("ann", expires_at=math.nan),
    ],
    ids=["object", "infinite", "nan", "nested", "never expires", "expires at nan"],
)
async def test_what_cannot_be_read_again_is_not_saved(stores: Stores, record: Record) -> None:
    """The earlier record is kept, and the error quotes no data."""
    store = stores.make(LONG, MANY)
    assert await store.save(ANN, Record("ann"))
    with pytest.raises(ValueError, match=r"JSON|serialize"):
        await store.save(ANN, replace(record, version=2))
    assert await store.load(ANN) == Record("ann")


async def test_records_end_at_their_time_or_unused(stores: Stores) -> None:
    """Records end at their own time, or when not used for their lifetime; their keys are free
    then."""
    store, short = stores.make(LONG, MANY), stores.make(0.05, MANY)
    assert await store.save(ANN, Record("ann", time.time() - 1))
    assert await store.load(ANN) is None
    assert await store.save(ANN, Record("ann"))
    assert await short.save(BOB, Record("bob"))
    with anyio.fail_after(TIMEOUT):
        while not await short.save(BOB, Record("bob")):
            await anyio.sleep(0.01)
    assert await store.load(ANN) == Record("ann")


async def test_one_record_is_forgotten(stores: Stores) -> None:
    """The other record of the user is kept, and the revocation counter stays."""
    store = stores.make(LONG, MANY)
    for key in (ANN, ANN_AGAIN):
        assert await store.save(key, Record("ann"))
    before = await store.revocations()
    for _ in range(2):
        await store.delete(ANN, "ann")
    assert await store.load(ANN) is None
    assert await store.load(ANN_AGAIN) == Record("ann")
    assert await store.revoked({ANN: "ann", ANN_AGAIN: "ann"}) == {ANN}
    assert await store.revocations() == before


async def test_a_forgotten_record_is_not_saved_again(stores: Stores) -> None:
    """A connection that knew the record cannot save it again; a new login may have the same
    token."""
    store = stores.make(LONG, MANY)
    assert await store.save(ANN, Record("ann"))
    await store.delete(ANN, "ann")
    assert not await store.save(ANN, Record("ann"), again=True)
    assert await store.load(ANN) is None
    assert await store.save(ANN, Record("ann"))
    assert await store.save(ANN, Record("ann", version=2), again=True)


async def test_a_record_that_has_only_ended_is_saved_again(stores: Stores) -> None:
    """An expired record may be saved again, as it was not revoked."""
    store, short = stores.make(LONG, MANY), stores.make(0.05, MANY)
    assert await short.save(ANN, Record("ann"))
    with anyio.fail_after(TIMEOUT):
        while not await short.save(ANN, Record("ann"), again=True):
            await anyio.sleep(0.01)
    assert await store.revoked({ANN: "ann"}) == set()


async def test_of_one_user_only_so_many_records_are_kept(stores: Stores) -> None:
    """The record that was not used for longest is removed; those of other users stay."""
    store = stores.make(LONG, 3)
    # In the order in which they are used last: Redis may use them within one millisecond.
    second, third, first, fourth, fifth = keys = [f"{number:064}" for number in range(5)]
    assert await store.save(BOB, Record("bob"))
    for key in (first, second, third):
        assert await store.save(key, Record("ann"))
    assert await store.load(first) == Record("ann")
    for key in (fourth, fifth):
        assert await store.save(key, Record("ann"))
    kept = [key for key in keys if await store.load(key) is not None]
    assert kept == [first, fourth, fifth]
    assert await store.load(BOB) == Record("bob")
    assert await store.revoked(dict.fromkeys(keys, "ann")) == set()
    await store.revoke("ann")
    assert [key for key in keys if await store.load(key) is not None] == []


async def test_a_revocation_is_of_all_that_a_user_had(stores: Stores) -> None:
    """A revocation concerns neither later records of the user nor other users."""
    store = stores.make(LONG, MANY)
    for key, id in ((ANN, "7"), (ANN_AGAIN, "7"), (BOB, 7)):
        assert await store.save(key, Record(id))
    before = await store.revocations()
    await store.revoke("7")
    assert await store.revocations() != before
    assert await store.load(ANN) is None
    assert await store.save(ANN_AGAIN, Record("7"))
    users: dict[str, str | int] = {ANN: "7", ANN_AGAIN: "7", BOB: 7}
    assert await store.revoked(users) == {ANN}
    assert await store.load(BOB) == Record(7)
    many = {f"{number:064}": "7" for number in range(1001)}  # more than one is asked for at once
    assert await store.revoked({**many, **users}) == {*many, ANN}


@pytest.mark.parametrize("numbers", [(0, 1), (math.nan, 1), (math.inf, 1), (1, 0), (1, math.inf)])
def test_a_store_needs_numbers_that_mean_something(numbers: tuple[float, Any]) -> None:
    """A lifetime and a number of records have to be positive and finite."""
    with pytest.raises(ValueError, match="positive"):
        MemorySessionStore(*numbers)


def test_a_key_is_not_the_token() -> None:
    """A key cannot be turned back into the token."""
    assert key_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(key_of("\ud800")) == 64


WRONG: list[Any] = [
    {},
    [],
    {"schema": 2, "id": "ann", "expires_at": None, "version": 1, "data": {}},
    {"schema": 1, "id": True, "expires_at": None, "version": 1, "data": {}},
    {"schema": 1, "id": "ann", "expires_at": "never", "version": 1, "data": {}},
    {"schema": 1, "id": "ann", "expires_at": None, "version": "1", "data": {}},
    {"schema": 1, "id": "ann", "expires_at": None, "version": 1, "data": []},
]


@pytest.mark.parametrize("wrong", [b"", b"\x80\x04N.", *map(to_json, WRONG)])
def test_what_is_no_record_is_not_read(wrong: bytes) -> None:
    """Anything that is not a record is refused."""
    with pytest.raises(ValueError):
        Record.decode(wrong)


async def test_malformed_records_are_ignored_and_counted(shared_redis: RedisServer) -> None:
    """Malformed records are ignored and counted, and their keys are free then."""
    prefix = secrets.token_hex(8)
    redis = RedisBroker(RedisConnection(shared_redis.url, 5), prefix)
    store = RedisSessionStore(redis, LONG, MANY)
    shared_redis.command("HSET", f"{redis.root}:session:{ANN}", "record", b"\x80\x04N.")
    shared_redis.command("SET", f"{redis.root}:session:{BOB}", "bob")
    shared_redis.command("SET", f"{redis.root}:revocations", "none")
    async with linked(redis):
        for key in (ANN, BOB):
            assert await store.load(key) is None
            assert await store.save(key, Record("ann"))
            assert await store.load(key) == Record("ann")
        assert await store.revocations() == 0
    assert redis.malformed.count == 3


async def test_without_redis_nothing_is_known(own_redis: RedisServer) -> None:
    """Redis being away is not a refusal, but `Unavailable`."""
    redis = RedisBroker(RedisConnection(own_redis.url, 0.5), "test")
    store = RedisSessionStore(redis, LONG, MANY)
    async with linked(redis) as node:
        assert await store.save(ANN, Record("ann"))
        own_redis.kill()
        await node.until(lambda: redis.redis._connection is None or not node.gaps)
        with anyio.fail_after(TIMEOUT), pytest.raises(Unavailable):
            while True:
                await store.load(ANN)
        own_redis.start()


async def test_nothing_is_shared_with_what_is_kept(stores: Stores) -> None:
    """Changes of a loaded record are not seen by others until they are saved."""
    store = stores.make(LONG, MANY)
    assert await store.save(ANN, Record("ann", data={"rooms": [1]}))
    for _ in range(2):
        record = await store.load(ANN)
        assert record is not None
        assert record.data == {"rooms": [1]}
        record.data["rooms"].append(2)


async def test_who_was_revoked_is_not_saved_again(stores: Stores) -> None:
    """A known record cannot be saved again; a new login may have the same token."""
    store = stores.make(LONG, MANY)
    assert await store.save(ANN, Record("ann"))
    await store.revoke("ann")
    assert not await store.save(ANN, Record("ann"), again=True)
    assert await store.load(ANN) is None
    assert await store.save(ANN, Record("ann"))
    assert await store.save(ANN, Record("ann", version=2), again=True)
    assert await store.save(BOB, Record("bob"), again=True)  # lost, but not by a revocation


@pytest.fixture
async def redis_store(shared_redis: RedisServer) -> AsyncIterator[RedisSessionStore]:
    """Yield a store whose keys begin with ``test``."""
    prefix = f"test {secrets.token_hex(8)}"
    redis = RedisBroker(RedisConnection(shared_redis.url, 5), prefix)
    async with linked(redis):
        yield RedisSessionStore(redis, LONG, MANY)


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [
        ("HSET", "session:{ANN}", ("version", "99")),
        ("HSET", "session:{ANN}", ("record", "none")),
        ("HSET", "session:{ANN}", ("version", "none", "record", "none")),
        ("HSET", "session:{ANN}", ("version", "1", "record", "\x80\x04N.")),
        ("RPUSH", "session:{ANN}", ("a",)),
        ("SET", 'keys:"ann"', ("a",)),
        ("HSET", "session:{ANN}", ("version", "1", "record", "none", "user", '"ann"')),
        ("RPUSH", "revocations", ("a",)),
        ("SET", "revocations", ("9" * 5000,)),
        ("SET", "revocations", ("none",)),
    ],
)
async def test_what_is_in_the_way_is_removed_and_counted(
    redis_store: RedisSessionStore,
    shared_redis: RedisServer,
    command: str,
    key: str,
    value: tuple[str, ...],
) -> None:
    """The store works in spite of malformed data."""
    store = redis_store
    shared_redis.command(command, f"{store._root}:{key.format(ANN=ANN)}", *value)
    assert await store.load(ANN) is None
    assert await store.save(ANN, Record("ann"))
    assert await store.load(ANN) == Record("ann")
    before = await store.revocations()
    await store.revoke("ann")
    assert await store.revocations() not in (before, 0)
    assert await store.load(ANN) is None
    assert await store.revoked({ANN: "ann"}) == {ANN}
    assert store._malformed.count >= 1


async def test_a_field_of_another_version_is_what_counts(
    redis_store: RedisSessionStore, shared_redis: RedisServer
) -> None:
    """The version's field counts, so that a comparison with it can succeed."""
    store = redis_store
    assert await store.save(ANN, Record("ann"))
    shared_redis.command("HSET", f"{store._root}:session:{ANN}", "version", "7")
    assert await store.load(ANN) == Record("ann", version=7)
    assert await store.save(ANN, Record("ann", version=8))


async def test_tokens_that_have_ended_are_taken_off_the_list(
    redis_store: RedisSessionStore, shared_redis: RedisServer
) -> None:
    """Expired keys of a user that logs in often are removed."""
    store = redis_store
    keys = f'{store._root}:keys:"ann"'
    for number in range(3):
        shared_redis.command("ZADD", keys, "1", f"ended {number}")
    assert await store.save(ANN, Record("ann"))
    assert shared_redis.command("ZCARD", keys) == b":1\r\n"


@pytest.mark.slow
async def test_a_login_costs_redis_the_same_however_many_there_were(
    own_redis: RedisServer,
) -> None:
    """Count commands of Redis for an app in which many guests are one user."""
    redis = RedisBroker(RedisConnection(own_redis.url, 60), "test")
    store = RedisSessionStore(redis, LONG, MANY)

    async def commands_of_a_login(number: int) -> int:
        own_redis.command("CONFIG", "RESETSTAT")
        assert await store.save(f"{number:064}", Record("guest"))
        stats = own_redis.command("INFO", "commandstats").decode()
        return sum(int(calls) for calls in re.findall(r"calls=(\d+)", stats))

    async with linked(redis):
        first = await commands_of_a_login(0)
        for number in range(1, 500):
            await commands_of_a_login(number)
        assert await commands_of_a_login(500) == first


@pytest.mark.slow
async def test_of_two_first_ones_at_once_none_is_lost(
    redis_store: RedisSessionStore,
) -> None:
    """A concurrent load does not remove a record that was just written."""
    store = redis_store

    async def look() -> None:
        for _ in range(50):
            await store.load(key)

    for number in range(20):
        key = f"{number:064}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            tasks.start_soon(look)
            assert await store.save(key, Record("ann"))
        assert await store.load(key) == Record("ann")
