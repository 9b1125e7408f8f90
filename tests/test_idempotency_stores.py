"""Behaviour that all stores of commands that take effect once share."""

from collections.abc import AsyncIterator
from itertools import cycle, islice

import anyio
import anyio.lowlevel
import pytest
from idempotency_stores import PARAMETERS, Make, Message, Nodes, Open, prepared
from timeouts import TIMEOUT

from websuckets.idempotency import StoredReply

pytestmark = pytest.mark.anyio

LONG = 1000.0

ANN = "str:ann"
PRINT, OTHER_PRINT = b"\x00" + bytes(range(31)), b"\xff" * 32
REPLY = StoredReply(PRINT, '{"event":"place","payload":{"id":1}}')
OTHER_REPLY = StoredReply(OTHER_PRINT, '{"event":"cancel","payload":null}')

KEYS = [
    "k",
    " ",
    "a key",
    "a:b",
    ":",
    "{a}",
    "{",
    "}{",
    "%s%d%%",
    "'; DROP TABLE x; --",
    '"\\',
    "*?[a-z]",
    "\r\n",
    "\t",
    "\x00",
    "a\x00b",
    "\x7f",
    "\ufeff",
    "é",
    "e\u0301",
    "ключ",
    "钥匙",
    "🔑",
    "\u202e",
    "k" * 128,
    "🔑" * 128,
]
"""Keys, each from 1 to 128 characters that UTF-8 can encode; no two of them are the same."""

OWNERS = ["", "str:1", "int:1", "str:int:1", "str:", "str:a:b", "str:é", "str:" + "long" * 500]
"""Owners; with the key ``b``, ``str:a`` and ``b:b`` must not be mixed up either."""


@pytest.fixture(params=PARAMETERS)
def open_nodes(request: pytest.FixtureRequest, anyio_backend: str) -> Open:
    """Return a function that opens two nodes with replies of a given lifetime."""
    return prepared(request.param, anyio_backend, request)


@pytest.fixture
async def nodes(open_nodes: Open) -> AsyncIterator[Nodes]:
    """Yield two nodes that keep replies for longer than any test."""
    async with open_nodes(LONG) as nodes:
        yield nodes


@pytest.fixture(params=["on one node", "on two nodes"])
def here_and_there(request: pytest.FixtureRequest, nodes: Nodes) -> tuple[Make, Make]:
    """Return functions that make messages of the same node, or of different ones."""
    return nodes.both if request.param == "on two nodes" else (nodes.one, nodes.one)


async def claim(make: Make, owner: str, key: str) -> tuple[Message, StoredReply | None]:
    """Return a new message that has claimed, and the reply that was found."""
    message = make()
    with anyio.fail_after(TIMEOUT):
        return message, await message.claim(owner, key, PRINT)


async def claimed(make: Make, owner: str = ANN, key: str = "k") -> Message:
    """Return a new message that has the claim."""
    message, reply = await claim(make, owner, key)
    assert reply is None
    return message


async def keep(make: Make, owner: str = ANN, key: str = "k", reply: StoredReply = REPLY) -> None:
    """Run a command whose effect is committed."""
    message = await claimed(make, owner, key)
    await message.complete(reply)
    await message.settle(True)


async def found(make: Make, owner: str = ANN, key: str = "k") -> StoredReply | None:
    """Return the reply that a message gets; give back a claim."""
    message, reply = await claim(make, owner, key)
    if reply is None:
        await message.settle(False)
    return reply


class Waiting:
    """A message in a task of its own, which claims what another message has."""

    def __init__(self, make: Make, owner: str = ANN, key: str = "k") -> None:
        self.message = make()
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.reply: StoredReply | None = None
        self._name = owner, key

    async def run(self) -> None:
        try:
            with self.scope:
                self.reply = await self.message.claim(*self._name, PRINT)
        finally:
            self.ended.set()

    async def cancel(self) -> None:
        """Cancel the claim; give back a claim that came before the cancellation."""
        self.scope.cancel()
        with anyio.fail_after(TIMEOUT):
            await self.ended.wait()
        if not self.scope.cancelled_caught and self.reply is None:
            await self.message.settle(False)

    async def has_claim(self) -> bool:
        """Wait for the end; return True for a claim, False for a reply."""
        with anyio.fail_after(TIMEOUT):
            await self.ended.wait()
        return self.reply is None


# One message after the other


async def test_a_key_that_nobody_has_used_is_claimed(nodes: Nodes) -> None:
    assert await found(nodes.one) is None


async def test_a_command_that_took_effect_gives_its_reply_on_each_node(nodes: Nodes) -> None:
    await keep(nodes.one)
    for make in (*nodes.both, *nodes.both):
        assert await found(make) == REPLY


async def test_a_reply_is_returned_whatever_the_fingerprint_of_the_claim_is(nodes: Nodes) -> None:
    """Expect the fingerprint that was stored: the caller compares."""
    await keep(nodes.one, reply=OTHER_REPLY)
    assert await found(nodes.two) == OTHER_REPLY


@pytest.mark.parametrize("is_complete", [False, True], ids=["not complete", "complete"])
async def test_a_command_that_failed_leaves_nothing_behind(
    here_and_there: tuple[Make, Make], is_complete: bool
) -> None:
    here, there = here_and_there
    message = await claimed(here)
    if is_complete:
        await message.complete(OTHER_REPLY)
    await message.settle(False)
    assert await found(there) is None
    await keep(there)
    for make in (here, there):
        assert await found(make) == REPLY


async def test_a_message_that_never_claimed_may_be_settled(nodes: Nodes) -> None:
    await nodes.one().settle(False)
    await keep(nodes.one)
    await nodes.two().settle(False)
    assert await found(nodes.one) == REPLY


@pytest.mark.parametrize(
    "frame",
    ["", "x" * 60 * 1024, '{"payload":"' + "é🔑\\u0000\n" * 5000],
    ids=["empty", "60 KiB", "many bytes for each character"],
)
async def test_a_frame_of_any_length_is_given_as_it_was_kept(nodes: Nodes, frame: str) -> None:
    await keep(nodes.one, reply=StoredReply(OTHER_PRINT, frame))
    for make in nodes.both:
        assert await found(make) == StoredReply(OTHER_PRINT, frame)


# Names


@pytest.mark.parametrize("owner", ["", ANN])
async def test_keys_of_any_characters_are_told_apart(nodes: Nodes, owner: str) -> None:
    replies = {key: StoredReply(PRINT, f'{{"number":{n}}}') for n, key in enumerate(KEYS)}
    assert len(replies) == len(KEYS)
    for make, (key, reply) in zip(cycle(nodes.both), replies.items(), strict=False):
        await keep(make, owner, key, reply)
    for key, reply in replies.items():
        for make in nodes.both:
            assert await found(make, owner, key) == reply


async def test_owners_do_not_see_each_others_keys(nodes: Nodes) -> None:
    names = [(owner, key) for owner in OWNERS for key in ("k", "1", ":1", "K")]
    names += [("str:a", "b:b"), ("str:a:", "b"), ("str", "a:b:b"), ("str:A", "b:b")]
    for number, (owner, key) in enumerate(names):
        assert await found(nodes.two, owner, key) is None, (owner, key)
        await keep(nodes.one, owner, key, StoredReply(PRINT, str(number)))
    for number, (owner, key) in enumerate(names):
        assert await found(nodes.two, owner, key) == StoredReply(PRINT, str(number))


# Lifetimes


async def test_a_reply_that_is_too_old_is_forgotten(open_nodes: Open) -> None:
    async with open_nodes(0.2) as nodes:
        await keep(nodes.one)
        with anyio.fail_after(TIMEOUT):
            while (reply := await found(nodes.two)) is not None:
                assert reply == REPLY
                await anyio.sleep(0.01)
        message = await claimed(nodes.one)
        await message.complete(OTHER_REPLY)
        await message.settle(True)
        assert await found(nodes.two) in (OTHER_REPLY, None)


async def test_a_reply_that_replaces_an_old_one_is_given_from_then_on(nodes: Nodes) -> None:
    await keep(nodes.one)
    await nodes.expire(ANN, "k")
    await keep(nodes.two, reply=OTHER_REPLY)
    for make in nodes.both:
        assert await found(make) == OTHER_REPLY


async def test_an_old_reply_stays_forgotten_where_the_new_run_of_the_command_fails(
    nodes: Nodes,
) -> None:
    await keep(nodes.one)
    await nodes.expire(ANN, "k")
    message = await claimed(nodes.two)
    await message.complete(OTHER_REPLY)
    await message.settle(False)
    for make in nodes.both:
        assert await found(make) is None


# Twins


async def test_a_twin_waits_and_gets_the_reply_of_a_command_that_took_effect(
    here_and_there: tuple[Make, Make],
) -> None:
    here, there = here_and_there
    message = await claimed(here)
    twin = Waiting(there)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(twin.run)
        await anyio.wait_all_tasks_blocked()
        await message.complete(REPLY)
        await anyio.wait_all_tasks_blocked()
        assert not twin.ended.is_set()
        await message.settle(True)
        assert not await twin.has_claim()
    assert twin.reply == REPLY


@pytest.mark.parametrize("is_complete", [False, True], ids=["not complete", "complete"])
async def test_a_twin_waits_and_gets_the_claim_of_a_command_that_failed(
    here_and_there: tuple[Make, Make], is_complete: bool
) -> None:
    here, there = here_and_there
    message = await claimed(here)
    twin = Waiting(there)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(twin.run)
        await anyio.wait_all_tasks_blocked()
        if is_complete:
            await message.complete(OTHER_REPLY)
        assert not twin.ended.is_set()
        await message.settle(False)
        assert await twin.has_claim()
    await twin.message.complete(REPLY)
    await twin.message.settle(True)
    assert await found(here) == REPLY


@pytest.mark.parametrize("failures", [0, 3, 19, 20])
async def test_of_many_twins_one_at_a_time_has_the_claim_until_one_takes_effect(
    nodes: Nodes, failures: int
) -> None:
    """Each twin that runs fails, until ``failures`` of them have."""
    twins = 20
    running = runs = 0
    replies: list[StoredReply] = []

    async def handle(make: Make) -> None:
        nonlocal running, runs
        message = make()
        reply = await message.claim(ANN, "k", PRINT)
        if reply is not None:
            replies.append(reply)
            return
        runs += 1
        running += 1
        assert running == 1
        await anyio.lowlevel.checkpoint()
        takes_effect = runs > failures
        await message.complete(REPLY if takes_effect else OTHER_REPLY)
        running -= 1
        await message.settle(takes_effect)

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for make in islice(cycle(nodes.both), twins):
                tasks.start_soon(handle, make)
    assert runs == min(failures + 1, twins)
    assert replies == [REPLY] * (twins - runs)
    assert await found(nodes.one) == (REPLY if failures < twins else None)


async def test_messages_with_other_keys_do_not_wait(nodes: Nodes) -> None:
    if nodes.is_serial:
        pytest.skip("it has one claim at a time")
    messages = [
        await claimed(make, owner, key)
        for owner in ("", ANN)
        for make, key in zip(nodes.both, ("k", "l"), strict=True)
    ]
    for message in messages:
        await message.complete(REPLY)
        await message.settle(True)


# Cancellations


async def test_a_twin_that_is_cancelled_leaves_nothing_behind(
    here_and_there: tuple[Make, Make],
) -> None:
    """Expect the claim to stay with the one who has it, and twins that wait to go on waiting."""
    here, there = here_and_there
    message = await claimed(here)
    gone, staying = Waiting(there), Waiting(there)
    async with anyio.create_task_group() as tasks:
        for twin in (gone, staying):
            tasks.start_soon(twin.run)
            await anyio.wait_all_tasks_blocked()
        await gone.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not staying.ended.is_set()
        await message.complete(REPLY)
        await message.settle(True)
        assert not await staying.has_claim()
    assert staying.reply == await found(here) == REPLY


async def test_a_twin_that_is_cancelled_when_the_claim_comes_blocks_nobody(
    here_and_there: tuple[Make, Make],
) -> None:
    """The claim is given back and a twin is cancelled at the same moment."""
    here, there = here_and_there
    message = await claimed(here)
    gone, staying = Waiting(there), Waiting(there)
    async with anyio.create_task_group() as tasks:
        for twin in (gone, staying):
            tasks.start_soon(twin.run)
            await anyio.wait_all_tasks_blocked()
        await message.settle(False)
        await gone.cancel()
        assert await staying.has_claim()
    await staying.message.settle(False)
    await keep(here)


@pytest.mark.parametrize(
    "checkpoints", [pytest.param(n, marks=[pytest.mark.heavy] if n > 3 else []) for n in range(12)]
)
async def test_a_claim_that_is_cancelled_at_any_moment_blocks_nobody(
    nodes: Nodes, checkpoints: int
) -> None:
    waiting = Waiting(nodes.one)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiting.run)
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        await waiting.cancel()
    for make in reversed(nodes.both):
        assert await found(make) is None
    await keep(nodes.two)
    assert await found(nodes.one) == REPLY


# Crashes


async def test_a_node_that_dies_loses_its_claim(nodes: Nodes) -> None:
    if nodes.crash is None:
        pytest.skip("it dies with its only node")
    for is_complete in (False, True):
        message = await claimed(nodes.one)
        if is_complete:
            await message.complete(OTHER_REPLY)
        await nodes.crash(message)
        assert await found(nodes.two) is None
    await keep(nodes.two)
    assert await found(nodes.two) == REPLY
