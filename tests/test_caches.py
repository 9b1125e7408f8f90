"""Behaviour that all caches share."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

import anyio
import pytest
from caches import Caches
from harness import Gate
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator
from timeouts import TIMEOUT

from websuckets.runtime import computations

pytestmark = pytest.mark.anyio

LONG = 1000.0

CANARY = "a-secret-canary"


class Player(BaseModel):
    name: str
    since: datetime
    scores: list[int] = Field(default=[], alias="points")

    @computed_field
    def total(self) -> int:
        return sum(self.scores)


ANN = Player(name="ann", since=datetime(2026, 1, 2, tzinfo=UTC), points=[3, 4])


class Deferred(BaseModel):
    """A model that pydantic reads when it is first used."""

    model_config = ConfigDict(defer_build=True)

    name: str


class Colour(str, Enum):  # noqa: UP042  # whose str() is not the value
    RED = "red"


@dataclass
class Counter:
    """A factory that counts its calls, and waits at a gate in each."""

    gate: Gate
    calls: int = 0

    async def __call__(self) -> int:
        self.calls += 1
        await self.gate()
        return self.calls


async def one() -> int:
    return 1


async def test_a_value_is_read_as_it_was_set_on_every_node(caches: Caches) -> None:
    here, there = caches
    assert await here.get("ann", Player) is None
    await here.set("ann", ANN, LONG)
    for cache in caches:
        assert await cache.get("ann", Player) == ANN
    await there.set("ann", ANN.model_copy(update={"name": "anne"}), LONG)
    found = await here.get("ann", Player)
    assert found is not None
    assert found.name == "anne"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (["a", "b"], list[str]),
        ({1: {2}}, dict[int, set[int]]),
        ({"ann": ANN}, dict[str, Player]),
        (7, int | str),
        ("7", str | int),
        (0, int),
        ("", str),
        (1.5, Annotated[float, Field(gt=1)]),
        ("a", Annotated[str, {"not": "hashable"}]),
        (True, Literal[True]),
        (b"bytes", bytes),
        (Colour.RED, Colour),
        (Deferred(name="ann"), Deferred),
    ],
)
async def test_values_may_have_any_type_of_pydantic(caches: Caches, value: Any, hint: Any) -> None:
    here, there = caches
    await here.set("key", value, LONG)
    found = await there.get("key", hint)
    assert (found, type(found)) == (value, type(value))
    await here.set("key", value, LONG, type=hint)
    assert await there.get("key", hint) == value


async def test_nothing_is_shared_with_what_is_kept(caches: Caches) -> None:
    here, there = caches
    value = [1]

    async def load() -> list[int]:
        return value

    for found in (await here.get_or_set("key", load, LONG), await there.get("key", list[int])):
        assert found == [1]
        found.append(2)
    value.append(3)
    assert await there.get_or_set("key", load, LONG) == [1]


async def test_a_deleted_value_is_gone_on_every_node(caches: Caches) -> None:
    here, there = caches
    await here.set("key", 1, LONG)
    await there.delete("key")
    await there.delete("never set")
    assert await here.get("key", int) is None
    assert await there.get("key", int) is None


async def test_a_value_ends_at_its_time(caches: Caches) -> None:
    here, there = caches
    await here.set("long", 1, LONG)
    await here.set("short", 1, 0.05)
    assert await here.get_or_set("computed", one, 0.05) == 1
    with anyio.fail_after(TIMEOUT):
        for key in ("short", "computed"):
            while await there.get(key, int) is not None:
                await anyio.sleep(0.01)
    assert await there.get("long", int) == 1


async def test_a_factory_runs_once_for_a_hundred_callers_on_two_nodes(caches: Caches) -> None:
    gate = Gate()
    factory = Counter(gate)
    got: list[int] = []

    async def ask(number: int) -> None:
        got.append(await caches[number % 2].get_or_set("key", factory, LONG))

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, number)
            await gate.reached.wait()
            gate.opened.set()
    assert got == [1] * 100
    assert factory.calls == 1
    assert await caches[1].get("key", int) == 1


async def test_the_factory_sees_the_context_of_its_caller(caches: Caches) -> None:
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("caller's")

    async def load() -> str:
        return variable.get()

    assert await caches[0].get_or_set("key", load, LONG) == "caller's"


async def test_the_error_of_a_factory_reaches_those_who_wait_and_is_not_kept(
    caches: Caches,
) -> None:
    here, there = caches
    gate = Gate()
    failed: list[BaseException] = []

    async def fail() -> int:
        await gate()
        raise LookupError("nothing there")

    async def ask() -> None:
        with pytest.raises(LookupError, match="nothing there") as caught:
            await here.get_or_set("key", fail, LONG)
        failed.append(caught.value)

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await gate.reached.wait()
            gate.opened.set()
    assert len(failed) == 3
    assert len(set(map(id, failed))) == 1
    assert await there.get_or_set("key", one, LONG) == 1


async def test_the_end_of_the_program_in_a_factory_is_raised_as_it_is(caches: Caches) -> None:
    async def leave() -> int:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await caches[0].get_or_set("key", leave, LONG)
    assert await caches[0].get_or_set("key", one, LONG) == 1


async def start_asking(
    tasks: Any, ask: Callable[[], Awaitable[Any]], *, got: list[Any]
) -> anyio.CancelScope:
    """Start a task that asks, in the scope that is returned; its result comes into ``got``."""
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            got.append(await ask())

    tasks.start_soon(run)
    await anyio.wait_all_tasks_blocked()
    return scope


async def until_waiting(cache: Any, number: int) -> None:
    """Wait until so many callers wait beside the one whose factory runs."""
    while cache._computations._running["key"]._waiting < number:
        await anyio.sleep(0.001)


async def test_a_caller_that_is_cancelled_does_not_cancel_the_factory_for_others(
    caches: Caches,
) -> None:
    gate = Gate()
    factory = Counter(gate)
    ask = partial(caches[0].get_or_set, "key", factory, LONG)
    got: list[int] = []
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            first = await start_asking(tasks, ask, got=got)
            await gate.reached.wait()
            second = await start_asking(tasks, ask, got=got)
            await start_asking(tasks, ask, got=got)
            await until_waiting(caches[0], 2)
            first.cancel()
            second.cancel()
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
    assert got == [1]
    assert factory.calls == 1


async def test_a_caller_whose_factory_others_wait_for_stays_until_it_has_ended(
    caches: Caches, journal: list[str]
) -> None:
    """The factory may use objects of its caller's scope, which ends only afterwards."""
    gate = Gate()
    factory = Counter(gate)
    ask = partial(caches[0].get_or_set, "key", factory, LONG)

    async def ask_in_a_scope() -> None:
        try:
            await ask()
        finally:
            journal.append(f"scope closed, opened: {gate.opened.is_set()}")

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            first = await start_asking(tasks, ask_in_a_scope, got=[])
            await gate.reached.wait()
            await start_asking(tasks, ask, got=[])
            await until_waiting(caches[0], 1)
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            assert journal == []
            gate.opened.set()
    assert journal == ["scope closed, opened: True"]


async def test_a_factory_is_cancelled_with_the_last_who_waits_for_it(
    caches: Caches, journal: list[str]
) -> None:
    here, there = caches
    gate = Gate()

    async def wait() -> int:
        try:
            await gate()
        except anyio.get_cancelled_exc_class():
            journal.append("cancelled")
            raise
        return 0

    ask = partial(here.get_or_set, "key", wait, LONG)
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            first = await start_asking(tasks, ask, got=[])
            await gate.reached.wait()
            second = await start_asking(tasks, ask, got=[])
            await until_waiting(here, 1)
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            assert journal == []
            second.cancel()
        assert journal == ["cancelled"]
        assert await there.get_or_set("key", one, LONG) == 1
    assert here._computations._running == {}


async def test_those_who_wait_begin_anew_when_a_cancelled_caller_stays_too_long(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computations, "HOLD", 0.01)
    gate = Gate()
    got: list[int] = []
    ask = partial(caches[0].get_or_set, "key", Counter(gate), LONG)
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            first = await start_asking(tasks, ask, got=got)
            await gate.reached.wait()
            await start_asking(tasks, partial(caches[0].get_or_set, "key", one, LONG), got=got)
            await until_waiting(caches[0], 1)
            first.cancel()
    assert got == [1]


@pytest.mark.on_asyncio
async def test_a_cancellation_by_asyncio_itself_is_like_any_other(caches: Caches) -> None:
    gate = Gate()
    factory = Counter(gate)
    ask = partial(caches[0].get_or_set, "key", factory, LONG)
    first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
    with anyio.fail_after(TIMEOUT):
        await gate.reached.wait()
        await until_waiting(caches[0], 1)
        for _ in range(2):
            first.cancel()
            await anyio.wait_all_tasks_blocked()
        assert not first.done()
        gate.opened.set()
        assert await second == 1
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.on_asyncio
async def test_a_factory_that_cancels_itself_is_the_failure_of_its_caller_alone(
    caches: Caches,
) -> None:
    gate = Gate()

    async def cancel() -> int:
        await gate()
        raise asyncio.CancelledError

    first = asyncio.create_task(caches[0].get_or_set("key", cancel, LONG))
    with anyio.fail_after(TIMEOUT):
        await gate.reached.wait()
        second = asyncio.create_task(caches[0].get_or_set("key", one, LONG))
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == 1


@pytest.mark.parametrize("change", ["delete", "set"])
async def test_a_result_that_was_computed_before_a_change_is_not_kept(
    caches: Caches, change: str
) -> None:
    """Callers who wait get the result; callers who ask after the change do not."""
    here, there = caches
    gate = Gate()
    old: list[int] = []
    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            await start_asking(tasks, partial(here.get_or_set, "key", Counter(gate), LONG), got=old)
            await gate.reached.wait()
            if change == "delete":
                await there.delete("key")
                await here.delete("key")
            else:
                await there.set("key", 7, LONG)
                await here.set("key", 7, LONG)
            new = 7 if change == "set" else 8
            assert await here.get_or_set("key", eight, LONG) == new
            gate.opened.set()
    assert old == [1]
    assert await there.get("key", int) == new


async def eight() -> int:
    return 8


async def test_a_factory_that_asks_for_its_own_key_is_told(caches: Caches) -> None:
    cache = caches[0]

    async def again() -> int:
        return await cache.get_or_set("key", one, LONG)

    async def other() -> int:
        return await cache.get_or_set("other", one, LONG)

    with pytest.raises(RuntimeError, match="its own key"):
        await cache.get_or_set("key", again, LONG)
    assert await cache.get_or_set("key", other, LONG) == 1


# Types of values


async def test_a_value_of_another_type_is_a_miss_that_is_counted_and_logged(
    caches: Caches, caplog: pytest.LogCaptureFixture
) -> None:
    """The log is written at each power of two, and tells neither the key nor the value."""
    cache = caches[0]
    await cache.set(CANARY, {"name": CANARY}, LONG)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert await cache.get(CANARY, Player) is None
    assert cache.misfits == 5
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 3
    assert "Player" in caplog.text
    assert CANARY not in caplog.text

    async def load() -> Player:
        return ANN

    assert await cache.get_or_set(CANARY, load, LONG) == ANN
    assert await caches[1].get(CANARY, Player) == ANN


async def test_a_validator_that_fails_with_any_error_is_a_miss(caches: Caches) -> None:
    class Broken(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def check(cls, name: str) -> str:
            raise RuntimeError(name)

    await caches[0].set("key", {"name": "ann"}, LONG)
    assert await caches[0].get("key", Broken) is None


async def test_callers_who_wait_for_other_types_have_their_own_factories_run(
    caches: Caches,
) -> None:
    gate = Gate()
    got: list[Any] = []

    async def names() -> list[str]:
        return ["ann"]

    with anyio.fail_after(TIMEOUT):
        async with anyio.create_task_group() as tasks:
            number = partial(caches[0].get_or_set, "key", Counter(gate), LONG)
            await start_asking(tasks, number, got=got)
            await gate.reached.wait()
            for cache in caches:
                text = partial(cache.get_or_set, "key", names, LONG)
                await start_asking(tasks, text, got=got)
            gate.opened.set()
    assert sorted(got, key=repr) == [1, ["ann"], ["ann"]]


async def test_none_is_a_value_where_the_type_admits_it(caches: Caches) -> None:
    cache = caches[0]
    calls: list[int] = []

    async def load() -> Player | None:
        calls.append(1)
        return None

    for _ in range(2):
        assert await cache.get_or_set("nobody", load, LONG) is None
    assert len(calls) == 1
    assert await cache.get("nobody", Player) is None
    assert cache.misfits == 0

    async def ann() -> Player:
        return ANN

    assert await cache.get_or_set("nobody", ann, LONG) == ANN


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (object(), None),
        (CANARY, int),
        ([CANARY, object()], None),
        ({"name": CANARY}, Player),
        (float("nan"), float),
        (None, Player),
        (b"\xff", bytes),
    ],
)
async def test_a_value_that_cannot_be_read_again_is_refused(
    caches: Caches, value: Any, hint: Any
) -> None:
    """The value that was kept stays, and the error does not quote the other one."""
    cache = caches[0]

    async def load() -> Any:
        return value

    await cache.set("key", 1, LONG)
    with pytest.raises(ValueError, match="JSON") as caught:
        await cache.set("key", value, LONG, type=hint)
    assert CANARY not in str(caught.value)
    assert await cache.get("key", int) == 1
    with pytest.raises(ValueError, match="JSON"):
        await cache.get_or_set("other", load, LONG, type=hint or object)


async def test_the_type_of_a_value_is_that_of_its_factory_or_is_given(caches: Caches) -> None:
    cache = caches[0]

    async def of_name(name: str) -> "list[Player]":
        return [ANN.model_copy(update={"name": name})]

    class Loader:
        async def __call__(self) -> Player:
            return ANN

        async def load(self) -> Player:
            return ANN

    bob = await cache.get_or_set("bob", partial(of_name, "bob"), LONG)
    assert bob[0].name == "bob"
    assert await cache.get_or_set("call", Loader(), LONG) == ANN
    assert await cache.get_or_set("method", Loader().load, LONG) == ANN
    eve = await cache.get_or_set("eve", lambda: of_name("eve"), LONG, type=list[Player])
    assert eve[0].name == "eve"


async def test_a_factory_that_does_not_tell_its_type_is_refused(caches: Caches) -> None:
    class Local(BaseModel):
        name: str

    async def unannotated():  # type: ignore[no-untyped-def]
        return 1

    async def unknown() -> "Local":
        return Local(name="ann")

    def plain() -> Awaitable[int]:
        return one()

    for factory in (unannotated, unknown, plain, lambda: one()):
        with pytest.raises(TypeError, match="type="):
            await caches[0].get_or_set("key", factory, LONG)  # type: ignore[arg-type]
    assert await caches[0].get_or_set("key", unknown, LONG, type=Local) == Local(name="ann")


# Keys and times


async def test_keys_are_texts_of_bounded_length(caches: Caches) -> None:
    cache = caches[0]
    longest = "я" * 256
    await cache.set(longest, 1, LONG)
    await cache.set(Colour.RED, 2, LONG)
    assert await cache.get(longest, int) == 1
    assert await cache.get("red", int) == 2
    for key in ("", longest + "a", "\ud800"):
        for call in (
            cache.get(key, int),
            cache.set(key, 1, LONG),
            cache.delete(key),
            cache.get_or_set(key, one, LONG),
        ):
            with pytest.raises(ValueError, match="512 bytes"):
                await call
    with pytest.raises(TypeError, match="a str, not int"):
        await cache.get(7, int)  # type: ignore[call-overload]


@pytest.mark.parametrize("seconds", [0, -1, 0.0001, float("inf"), float("nan"), 10**10, "1"])
async def test_times_are_positive_and_finite(caches: Caches, seconds: Any) -> None:
    for call in (
        caches[0].set("key", 1, seconds),
        caches[0].get_or_set("key", one, seconds),
    ):
        with pytest.raises(ValueError, match=r"from 0\.001"):
            await call
