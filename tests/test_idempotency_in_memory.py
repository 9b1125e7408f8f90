"""Bounds of the replies that one process keeps in its memory."""

import time
from math import inf, nan

import anyio
import pytest
from timeouts import TIMEOUT

from websuckets.idempotency import (
    OVERHEAD,
    IdempotencyStore,
    MemoryIdempotencyStore,
    MemoryReplies,
    RetryingStore,
    StoredReply,
)

pytestmark = pytest.mark.anyio

PRINT = bytes(32)
CANARY = "a-secret-canary"


async def keep(replies: MemoryReplies, key: str, frame: str = "", owner: str = "") -> None:
    store = MemoryIdempotencyStore(replies)
    with anyio.fail_after(TIMEOUT):
        assert await store.claim(owner, key, PRINT) is None
    try:
        await store.complete(StoredReply(PRINT, frame))
    except BaseException:
        await store.settle(False)
        raise
    await store.settle(True)


async def kept(replies: MemoryReplies, *keys: str, owner: str = "") -> list[str]:
    """Return those of the keys that have a reply."""
    found = []
    for key in keys:
        store = MemoryIdempotencyStore(replies)
        with anyio.fail_after(TIMEOUT):
            if await store.claim(owner, key, PRINT) is not None:
                found.append(key)
            else:
                await store.settle(False)
    return found


async def test_the_oldest_replies_make_room_for_new_ones() -> None:
    replies = MemoryReplies(entries=2)
    for key in "abc":
        await keep(replies, key)
    assert await kept(replies, *"abc") == ["b", "c"]


@pytest.mark.parametrize(
    ("frame", "size"),
    [("x" * 10_000, 10_000), ("é" * 10_000, 10_000), ("щ" * 10_000, 20_000), ("🔑" * 500, 2_000)],
    ids=["ASCII", "Latin", "Cyrillic", "emoji"],
)
async def test_replies_are_bounded_by_the_memory_that_they_take(frame: str, size: int) -> None:
    """Two replies fit, the third does not."""
    replies = MemoryReplies(size=2 * (OVERHEAD + size + 300))
    for key in "abc":
        await keep(replies, key, frame)
    assert await kept(replies, *"abc") == ["b", "c"]


async def test_owners_and_keys_count_as_memory() -> None:
    """The id of a user has no bound of its own."""
    replies = MemoryReplies(size=25_000)
    owner = "str:" + "x" * 10_000
    for key in "abc":
        await keep(replies, key, owner=owner)
    assert await kept(replies, *"abc", owner=owner) == ["b", "c"]


async def test_a_reply_that_never_fits_is_an_error_before_the_effect_and_removes_nothing() -> None:
    """Nothing of the reply is quoted."""
    replies = MemoryReplies(size=5000)
    await keep(replies, "a")
    with pytest.raises(ValueError, match="more bytes than MemoryReplies keeps in all") as caught:
        await keep(replies, CANARY, CANARY * 1000, owner=CANARY)
    assert CANARY not in str(caught.value)
    assert await kept(replies, "a", CANARY) == ["a"]


async def test_replies_that_are_too_old_take_no_memory() -> None:
    """Replies are removed when any command takes effect, whatever its key is."""
    replies = MemoryReplies(lifetime=0.05)
    for key in "abc":
        await keep(replies, key)
    end = time.monotonic() + 0.05
    while time.monotonic() <= end:
        await anyio.sleep(0.01)
    await keep(replies, "d")
    assert repr(replies) == "MemoryReplies(1)"
    assert replies._bytes < 2 * OVERHEAD


async def test_a_reply_that_was_replaced_is_counted_once() -> None:
    replies = MemoryReplies()
    for _ in range(3):
        await keep(replies, "a")
        replies._kept["", "a"] = replies._kept["", "a"]._replace(end=0.0)
    assert await kept(replies, "a") == []
    assert (repr(replies), replies._bytes) == ("MemoryReplies(0)", 0)


@pytest.mark.parametrize("number", [0, -1, nan])
@pytest.mark.parametrize("name", ["lifetime", "entries", "size"])
def test_numbers_that_mean_nothing_are_refused(name: str, number: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        MemoryReplies(**{name: number})  # type: ignore[arg-type]


async def test_a_lifetime_that_is_over_at_once_keeps_nothing() -> None:
    replies = MemoryReplies(lifetime=1e-300)
    await keep(replies, "a")
    assert await kept(replies, "a") == []


async def test_replies_may_be_kept_for_good() -> None:
    replies = MemoryReplies(lifetime=inf)
    await keep(replies, "a")
    assert await kept(replies, "a") == ["a"]


def test_the_text_of_a_reply_names_neither_key_nor_frame() -> None:
    assert CANARY not in repr(StoredReply(PRINT, CANARY))


def test_a_store_in_memory_knows_no_error_after_which_a_command_may_succeed() -> None:
    store: IdempotencyStore = MemoryIdempotencyStore(MemoryReplies())
    assert not isinstance(store, RetryingStore)
