"""Commands that take effect once, by Redis: leases, lost claims, dead nodes and foreign data."""

import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from harness import Gate
from redis_claims import KEY, OTHER_PRINT, OWNER, PRINT, REPLY, Node, node_at, warnings
from redis_nodes import LONG_TIMEOUT, until
from redis_server import RedisServer
from timeouts import TIMEOUT

from websuckets.exc import Unavailable
from websuckets.idempotency import StoredReply
from websuckets.redis import idempotency

pytestmark = pytest.mark.anyio

OTHERS_CLAIM = b"c" + b"0" * 16
OTHERS_REPLY = b"r" + b"0" * 16 + OTHER_PRINT


@pytest.fixture
async def nodes(shared_redis: RedisServer) -> AsyncIterator[tuple[Node, Node]]:
    prefix = secrets.token_hex(8)
    async with node_at(shared_redis.url, prefix) as one, node_at(shared_redis.url, prefix) as two:
        yield one, two


@pytest.fixture(autouse=True)
def neither_owner_nor_key_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "canary" not in caplog.text
    assert '{"a":' not in caplog.text


async def renewed(redis: RedisServer, names: list[str]) -> None:
    """Wait until each of these leases has begun anew."""
    for name in names:
        before = after = redis.command("PTTL", name)
        with anyio.fail_after(TIMEOUT):
            while int(after[1:]) <= int(before[1:]):
                assert int(after[1:]) > 0
                await anyio.sleep(0.01)
                before, after = after, redis.command("PTTL", name)


# Leases


async def test_one_task_renews_all_claims_of_a_node_and_ends_with_the_last_one(
    nodes: tuple[Node, Node], shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    monkeypatch.setattr(idempotency, "AT_ONCE", 2)
    here, there = nodes
    keys = ["a", "b", "c"]
    for committed in (False, True):  # the second turn needs the task again
        stores = [await here.claimed(key) for key in keys]
        values = [shared_redis.command("GET", here.name(key)) for key in keys]
        await renewed(shared_redis, [here.name(key) for key in keys])
        assert [shared_redis.command("GET", here.name(key)) for key in keys] == values
        assert len(set(values)) == 3
        for store in stores:
            await store.complete(REPLY)
            await store.settle(committed)
        await until(lambda: not here.claims._is_keeping)
    for key in keys:
        assert await there.store().claim(OWNER, key, PRINT) == REPLY


async def test_a_node_has_one_task_that_renews_however_many_have_been_started(
    nodes: tuple[Node, Node],
) -> None:
    """Two messages that get their claims at the same time start two tasks."""
    here, _ = nodes
    store = await here.claimed()
    await until(lambda: here.claims._is_keeping)
    with anyio.fail_after(TIMEOUT):
        await here.claims._keep()
    assert here.claims._is_keeping
    await store.settle(False)


@pytest.mark.slow
async def test_a_twin_on_another_node_waits_for_longer_than_a_lease(
    nodes: tuple[Node, Node], shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "LEASE", 3)
    monkeypatch.setattr(idempotency, "RENEWAL", 0.3)
    here, there = nodes
    store = await here.claimed()
    got: list[StoredReply | None] = []

    async def ask() -> None:
        got.append(await there.store().claim(OWNER, KEY, PRINT))

    with anyio.fail_after(LONG_TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            for _ in range(11):  # each after a tenth of the lease
                await renewed(shared_redis, [here.name()])
            assert got == []
            await store.complete(REPLY)
            await store.settle(True)
    assert got == [REPLY]


async def test_a_node_that_dies_blocks_others_for_a_lease_at_most(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that dies settles nothing."""
    monkeypatch.setattr(idempotency, "LEASE", 1)
    prefix = secrets.token_hex(8)
    async with node_at(shared_redis.url, prefix) as survivor:
        async with node_at(shared_redis.url, prefix) as dying:
            await dying.claimed()
        assert int(shared_redis.command("PTTL", dying.name())[1:]) <= 1000
        store = await survivor.claimed()
        await store.settle(False)


async def test_a_process_that_was_stopped_for_longer_than_a_lease_has_lost_its_claim(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the effect to be rolled back, and the command to run when it is sent again."""
    monkeypatch.setattr(idempotency, "LEASE", 0.1)
    here, there = nodes
    store = await here.claimed()
    time.sleep(0.3)  # as SIGSTOP does it: nothing of the process runs
    with pytest.raises(Unavailable):
        await store.complete(REPLY)
    await store.settle(False)
    (warning,) = warnings(caplog)
    assert "has lost its claim, and is rolled back" in warning
    assert await there.found() is None


# Lost claims


@pytest.mark.parametrize("others", [None, OTHERS_CLAIM, OTHERS_REPLY], ids=["-", "claim", "reply"])
async def test_a_claim_that_is_lost_is_an_error_before_the_effect_is_committed(
    nodes: tuple[Node, Node],
    shared_redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
    others: bytes | None,
) -> None:
    """Expect the data of the other message to stay."""
    here, _ = nodes
    store = await here.claimed()
    shared_redis.command("DEL", here.name())
    if others is not None:
        shared_redis.command("SET", here.name(), others, "PX", "60000")
    with pytest.raises(Unavailable):
        await store.complete(REPLY)
    await store.settle(False)
    expected = b"$-1\r\n" if others is None else b"$%d\r\n%b\r\n" % (len(others), others)
    assert shared_redis.command("GET", here.name()) == expected
    (warning,) = warnings(caplog)
    assert "has lost its claim, and is rolled back" in warning


@pytest.mark.parametrize("others", [OTHERS_CLAIM, OTHERS_REPLY], ids=["claim", "reply"])
async def test_a_claim_that_another_message_took_after_the_commit_is_told_in_the_log(
    nodes: tuple[Node, Node],
    shared_redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
    others: bytes,
) -> None:
    """Expect no error, as the effect has happened, and the data of the other message to stay."""
    here, _ = nodes
    store = await here.completed()
    shared_redis.command("SET", here.name(), others, "PX", "60000")
    await store.settle(True)
    assert shared_redis.command("GET", here.name()) == b"$%d\r\n%b\r\n" % (len(others), others)
    (warning,) = warnings(caplog)
    assert "may have taken effect twice" in warning
    assert (here.claims._held, here.claims._turns) == (set(), {})


async def test_a_reply_is_stored_though_the_lease_ended_if_nobody_took_the_key(
    nodes: tuple[Node, Node], shared_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = nodes
    store = await here.completed()
    shared_redis.command("DEL", here.name())
    await store.settle(True)
    assert await there.found() == REPLY
    assert warnings(caplog) == []


async def test_a_claim_that_is_lost_is_not_renewed(
    nodes: tuple[Node, Node], shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another claim of the same node still is."""
    monkeypatch.setattr(idempotency, "RENEWAL", 0.1)
    here, _ = nodes
    lost, kept = await here.claimed(), await here.claimed("another key")
    shared_redis.command("SET", here.name(), OTHERS_CLAIM, "PX", "60000")
    await until(lambda: lost._claim not in here.claims._held)
    assert int(shared_redis.command("PTTL", here.name())[1:]) > 30_000
    await renewed(shared_redis, [here.name("another key")])
    with pytest.raises(Unavailable):
        await lost.complete(REPLY)
    for store in (lost, kept):
        await store.settle(False)


async def test_a_claim_that_was_given_to_a_cancelled_message_is_released(
    nodes: tuple[Node, Node], shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is cancelled when Redis has given the claim, and has not answered yet."""
    here, there = nodes
    gate, ask, store = Gate(), here.broker.redis.ask, here.store()

    async def slow_answer(*command: object) -> object:
        answer = await ask(*command)
        if idempotency.CLAIM in command:
            await gate()
        return answer

    monkeypatch.setattr(here.broker.redis, "ask", slow_answer)

    async def claim() -> None:
        try:
            await store.claim(OWNER, KEY, PRINT)
        finally:
            await store.settle(False)

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            await gate.reached.wait()
            assert shared_redis.command("EXISTS", here.name()) == b":1\r\n"
            tasks.cancel_scope.cancel()
    assert shared_redis.command("EXISTS", here.name()) == b":0\r\n"
    assert await there.found() is None


# Foreign data


FOREIGN = [
    b"",
    b"r",
    b"c",
    b"\x80\x04N.",
    b"c" + b"0" * 15,
    b"c" + b"0" * 17,
    b"r" + b"0" * 47,
    b"r" + b"0" * 48 + b"\xff",
    b"x" * 49,
]


@pytest.mark.parametrize("value", FOREIGN)
async def test_bytes_that_no_node_has_written_are_absent_and_counted(
    nodes: tuple[Node, Node], shared_redis: RedisServer, value: bytes
) -> None:
    here, there = nodes
    shared_redis.command("SET", here.name(), value, "PX", "60000")
    store = await here.claimed()
    assert here.broker.malformed.count == 1
    await store.complete(REPLY)
    await store.settle(True)
    assert await there.found() == REPLY
    assert (here.broker.malformed.count, there.broker.malformed.count) == (1, 0)


@pytest.mark.parametrize("lifetime", [(), ("PX", "7200000")], ids=["no end", "an end far away"])
async def test_a_claim_that_blocks_for_good_was_written_by_nobody(
    nodes: tuple[Node, Node], shared_redis: RedisServer, lifetime: tuple[str, ...]
) -> None:
    here, _ = nodes
    shared_redis.command("SET", here.name(), OTHERS_CLAIM, *lifetime)
    assert await here.found() is None
    assert here.broker.malformed.count == 1
    assert shared_redis.command("EXISTS", here.name()) == b":0\r\n"


async def test_keys_of_another_kind_are_replaced(
    nodes: tuple[Node, Node], shared_redis: RedisServer
) -> None:
    """Test such a key at each step."""
    here, there = nodes

    def spoil() -> None:
        shared_redis.command("DEL", here.name())
        shared_redis.command("HSET", here.name(), "a", "b")

    spoil()
    store = await here.claimed()
    spoil()
    with pytest.raises(Unavailable):
        await store.complete(REPLY)
    spoil()
    await store.settle(False)
    store = await here.completed()
    spoil()
    await store.settle(True)
    assert await there.found() == REPLY
    assert here.broker.malformed.count == 2  # at the claim, and at the end


async def test_foreign_bytes_in_the_place_of_a_claim_are_replaced_by_the_reply(
    nodes: tuple[Node, Node], shared_redis: RedisServer
) -> None:
    here, there = nodes
    store = await here.completed()
    shared_redis.command("SET", here.name(), b"\x80")
    await store.settle(True)
    assert here.broker.malformed.count == 1
    assert await there.found() == REPLY


# Names


async def test_keys_in_redis_name_neither_owner_nor_key_and_end_by_themselves(
    own_redis: RedisServer,
) -> None:
    async with node_at(own_redis.url, "shop", lifetime=77.0) as node:
        store = await node.claimed()
        name = node.name()
        assert re.fullmatch(r"\{0/shop\}:once:[0-9a-f]{64}", name)
        assert 0 < int(own_redis.command("PTTL", name)[1:]) <= 10_000
        await store.complete(REPLY)
        await store.settle(True)
        assert 0 < int(own_redis.command("PTTL", name)[1:]) <= 77_000
        assert "canary" not in own_redis.command("KEYS", "*").decode()


async def test_apps_with_another_prefix_know_nothing_of_each_other(
    shared_redis: RedisServer,
) -> None:
    prefix = secrets.token_hex(8)
    async with (
        node_at(shared_redis.url, prefix) as one,
        node_at(shared_redis.url, f"{prefix}2") as two,
    ):
        store, other = await one.completed(), await two.claimed()
        await store.settle(True)
        await other.settle(False)
        assert await two.found() is None
        assert await one.found() == REPLY


async def test_an_owner_of_any_text_has_keys_of_its_own(nodes: tuple[Node, Node]) -> None:
    """Test half of a character, which UTF-8 cannot encode, and owners that look alike."""
    here, _ = nodes
    names = {
        here.claims.claim(owner, key).name
        for owner, key in [("\ud800", "k"), ("1:", "k"), ("1", ":k"), ("", "1:k"), ("?", "k")]
    }
    assert len(names) == 5
