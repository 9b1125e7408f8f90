"""What every store of sessions does alike."""

import secrets
import time
from typing import Any

import anyio
import pytest
from brokers import linked
from harness import TIMEOUT
from pydantic_core import PydanticSerializationError, to_json
from redis_server import RedisServer
from stores import Stores

from websuckets.exc import Unavailable
from websuckets.redis.broker import RedisBroker
from websuckets.redis.line import Line
from websuckets.redis.store import RedisSessionStore
from websuckets.store import Record, key_of

pytestmark = pytest.mark.anyio

LONG = 1000

ANN, ANN_AGAIN, BOB = map(key_of, ("ann's", "another of ann's", "bob's"))


async def test_a_record_is_as_it_was_saved(stores: Stores) -> None:
    """With all that JSON can hold; an id that is a number is one still."""
    store = stores.make(LONG)
    assert await store.load(ANN) is None
    ann = Record("ann", time.time() + LONG, 1, {"role": "editor", "rooms": [1, None, {"я": 0.5}]})
    bob = Record(7)
    assert await store.save(ANN, ann)
    assert await store.save(BOB, bob)
    assert await store.load(ANN) == ann
    assert await store.load(BOB) == bob


async def test_who_changes_an_old_version_changes_nothing(stores: Stores) -> None:
    """Of two who change the same at once, one has to look again."""
    store = stores.make(LONG)
    assert await store.save(ANN, Record("ann"))
    assert not await store.save(ANN, Record("ann", data={"role": "late"}))
    assert await store.save(ANN, Record("ann", version=2, data={"role": "first"}))
    assert not await store.save(ANN, Record("ann", version=2, data={"role": "late"}))
    assert not await store.save(ANN, Record("ann", version=4))
    assert await store.load(ANN) == Record("ann", version=2, data={"role": "first"})


async def test_what_is_no_json_is_not_saved(stores: Stores) -> None:
    """Rather than to come back as something else."""
    with pytest.raises(PydanticSerializationError):
        await stores.make(LONG).save(ANN, Record("ann", data={"lock": object()}))


async def test_records_end(stores: Stores) -> None:
    """At their own time, or their lifetime after they were last used; then there is room."""
    store, short = stores.make(LONG), stores.make(0.05)
    assert await store.save(ANN, Record("ann", time.time() - 1))
    assert await store.load(ANN) is None
    assert await store.save(ANN, Record("ann"))
    assert await short.save(BOB, Record("bob"))
    with anyio.fail_after(TIMEOUT):
        while not await short.save(BOB, Record("bob")):
            await anyio.sleep(0.01)
    assert await store.load(ANN) == Record("ann")


async def test_one_record_is_forgotten(stores: Stores) -> None:
    """Which is no revocation: the other goes on."""
    store = stores.make(LONG)
    for key in (ANN, ANN_AGAIN):
        assert await store.save(key, Record("ann"))
    for _ in range(2):
        await store.delete(ANN, "ann")
    assert await store.load(ANN) is None
    assert await store.load(ANN_AGAIN) == Record("ann")
    assert await store.revoked({ANN: "ann", ANN_AGAIN: "ann"}) == set()


async def test_a_revocation_is_of_all_that_a_user_had(stores: Stores) -> None:
    """But not of what it has afterwards, and not of others."""
    store = stores.make(LONG)
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


def test_a_key_is_not_the_token() -> None:
    """Nor can it be made one again."""
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
    """Whatever else it may be."""
    with pytest.raises(ValueError):
        Record.decode(wrong)


async def test_foreign_records_are_dropped_and_counted(shared_redis: RedisServer) -> None:
    """Then their places are free."""
    prefix = secrets.token_hex(8)
    redis = RedisBroker(Line(shared_redis.url, 5), prefix)
    store = RedisSessionStore(redis.line, prefix, redis.foreign, LONG)
    shared_redis.command("HSET", f"{prefix}:session:{ANN}", "record", b"\x80\x04N.")
    shared_redis.command("SET", f"{prefix}:session:{BOB}", "bob")
    shared_redis.command("SET", f"{prefix}:revocations", "none")
    async with linked(redis):
        for key in (ANN, BOB):
            assert await store.load(key) is None
            assert await store.save(key, Record("ann"))
            assert await store.load(key) == Record("ann")
        assert await store.revocations() == 0
    assert redis.foreign.count == 3


async def test_without_redis_nothing_is_known(own_redis: RedisServer) -> None:
    """Which is no refusal."""
    redis = RedisBroker(Line(own_redis.url, 0.5), "test")
    store = RedisSessionStore(redis.line, "test", redis.foreign, LONG)
    async with linked(redis) as node:
        assert await store.save(ANN, Record("ann"))
        own_redis.kill()
        await node.until(lambda: redis.line._connection is None or not node.gaps)
        with anyio.fail_after(TIMEOUT), pytest.raises(Unavailable):
            while True:
                await store.load(ANN)
        own_redis.start()
