"""Generators that provide objects: how they get the error that ended their scope."""

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope, provide
from dishka.exceptions import ExitError

from websuckets.runtime.clock import Clock
from websuckets.runtime.finalisers import read_generators
from websuckets.runtime.request_scope import RequestScopes
from websuckets.runtime.scopes import ExitsOf, sources_of_generators
from websuckets.serving.container import build_container

pytestmark = pytest.mark.anyio

seen: list[str] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    """Clear the record of what the generators below have seen, for each test."""
    yield
    seen.clear()


class Thing: ...


def see(error: BaseException | None) -> None:
    seen.append("nothing" if error is None else f"sent {type(error).__name__}")


def caught(error: BaseException) -> None:
    seen.append(f"raised {type(error).__name__}")


def see_what_is_raised() -> None:
    error = sys.exception()
    if error is not None:
        caught(error)


async def except_and_else() -> AsyncIterator[Thing]:
    try:
        yield Thing()
    except Exception as error:
        caught(error)
        raise
    else:
        seen.append("nothing")


def sync_except_and_else() -> Iterator[Thing]:
    try:
        yield Thing()
    except Exception as error:
        caught(error)
        raise
    else:
        seen.append("nothing")


async def swallowing() -> AsyncIterator[Thing]:
    try:
        yield Thing()
        seen.append("nothing")
    except Exception as error:
        caught(error)


@contextmanager
def watching() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        caught(error)
        raise
    else:
        seen.append("nothing")


@asynccontextmanager
async def watching_asynchronously() -> AsyncIterator[None]:
    with watching():
        yield


async def within_a_context() -> AsyncIterator[Thing]:
    with nullcontext(), watching():
        yield Thing()


async def within_an_asynchronous_context() -> AsyncIterator[Thing]:
    async with watching_asynchronously():
        yield Thing()


async def within_a_suppressing_context() -> AsyncIterator[Thing]:
    with suppress(ValueError), watching():
        yield Thing()


async def within_a_task_group() -> AsyncIterator[Thing]:
    with watching():
        async with anyio.create_task_group():
            with watching():
                yield Thing()


async def in_the_else_of_one_with_finally() -> AsyncIterator[Thing]:
    try:
        seen.clear()
    except ValueError:
        seen.append("nonsense")
    else:
        yield Thing()
        seen.append("nothing")
    finally:
        see_what_is_raised()


async def groups_of_errors() -> AsyncIterator[Thing]:
    try:
        yield Thing()
    except* ValueError as group:
        caught(group.exceptions[0])
        raise
    else:
        seen.append("nothing")


async def on_several_lines() -> AsyncIterator[Thing]:
    text = """
not indented"""
    with watching():
        yield (
            Thing() if text else None  # type: ignore[misc]
        )


def delegating() -> Iterator[Thing]:
    with watching():
        yield from bare()


async def keeping_the_value() -> AsyncIterator[Thing]:
    with watching():
        see((yield Thing()))


def bare() -> Iterator[Thing]:
    yield Thing()
    seen.append("goes on")


async def bare_beside_a_try() -> AsyncIterator[Thing]:
    try:
        seen.clear()
    finally:
        yield Thing()
    seen.append("goes on")


async def bare_in_an_except() -> AsyncIterator[Thing]:
    try:
        raise ValueError
    except ValueError:
        yield Thing()
        seen.append("goes on")


async def bare_with_a_function_that_tries() -> AsyncIterator[Thing]:
    class Helper:
        def run(self) -> Iterator[None]:
            try:
                yield
            finally:
                pass

    def helper() -> Iterator[None]:
        with nullcontext():
            yield

    yield Thing()
    seen.append("goes on")


def bare_and_delegating() -> Iterator[Thing]:
    yield from sync_except_and_else()


def delegating_to_one_that_keeps_the_value() -> Iterator[Thing]:
    def inner() -> Iterator[Thing]:
        see((yield Thing()))

    with watching():
        yield from inner()


RAISED = "raised ValueError"

FUNCTIONS: dict[Callable[..., Any], list[str]] = {
    except_and_else: [RAISED],
    sync_except_and_else: [RAISED],
    swallowing: [RAISED],
    within_a_context: [RAISED],
    within_an_asynchronous_context: [RAISED],
    within_a_suppressing_context: [RAISED],
    within_a_task_group: [RAISED, "raised ExceptionGroup"],
    in_the_else_of_one_with_finally: [RAISED],
    groups_of_errors: [RAISED],
    on_several_lines: [RAISED],
    delegating: [RAISED],
    bare_and_delegating: [RAISED],
    keeping_the_value: ["sent ValueError", "nothing"],
    bare: ["goes on"],
    bare_beside_a_try: ["goes on"],
    bare_in_an_except: ["goes on"],
    bare_with_a_function_that_tries: ["goes on"],
    delegating_to_one_that_keeps_the_value: ["sent ValueError", "nothing"],
}


async def end(source: Any, error: BaseException | None, key: Any = Thing) -> None:
    """Build the object of `source`, and end its scope."""
    provider = source
    if not isinstance(source, Provider):
        provider = Provider(scope=Scope.REQUEST)
        provider.provide(source, provides=key)
    container = build_container([provider], [])
    read_generators(sources_of_generators(container))
    scope = container(scope=Scope.REQUEST)
    with RequestScopes(Clock(), finalize_timeout=None).begin(anyio.CancelScope()) as request_scope:
        await scope.get(key)
        failure = await request_scope.finalise(ExitsOf(scope), error)
    if failure is not None:
        raise failure


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_an_error_is_raised_at_a_yield_that_would_notice_it(
    function: Callable[..., Any],
) -> None:
    """The error is raised in a `try` or `with` if the yield's value is unused; else sent, as by
    dishka."""
    error = ValueError()
    await end(function, error)
    assert seen == FUNCTIONS[function]
    assert error.__traceback__ is None


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_without_an_error_a_yield_gives_nothing(function: Callable[..., Any]) -> None:
    """The value of the yield is None, and nothing is raised."""
    await end(function, None)
    assert set(seen) <= {"nothing", "goes on"}
    assert seen


class Methods(Provider):
    """A provider with two kinds of method."""

    @provide(scope=Scope.REQUEST)
    async def thing(self) -> AsyncIterator[Thing]:
        with watching():
            yield Thing()

    @provide(scope=Scope.REQUEST)
    def number(self) -> Iterator[int]:
        error = yield 1
        see(error)


@pytest.mark.parametrize(("key", "what"), [(Thing, RAISED), (int, "sent ValueError")])
async def test_methods_of_a_provider_are_no_different(key: Any, what: str) -> None:
    """Provide by methods of a provider class, and end their scope with an error."""
    await end(Methods(), ValueError(), key)
    assert seen == [what]


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def wrapping(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def wrapper(*arguments: Any) -> AsyncIterator[Any]:
        async for thing in function(*arguments):
            yield thing
            seen.append("goes on")

    return wrapper


@passing_on
async def decorated() -> AsyncIterator[Thing]:
    with watching():
        yield Thing()


@wrapping
async def wrapped() -> AsyncIterator[Thing]:
    with watching():
        yield Thing()


class Callable_:
    async def __call__(self) -> AsyncIterator[Thing]:
        with watching():
            yield Thing()


@pytest.mark.parametrize(
    ("source", "what"), [(decorated, RAISED), (wrapped, "goes on"), (Callable_(), RAISED)]
)
async def test_the_generator_that_waits_decides(source: Any, what: str) -> None:
    """Wrap generators in decorators and in a callable object."""
    await end(source, ValueError())
    assert seen[0] == what


@pytest.mark.parametrize("chooses", [False, True])
async def test_of_several_yields_the_one_that_waits_decides(chooses: bool) -> None:
    """The yield that waits counts, if one is in a `with` and another is not."""

    async def choosing() -> AsyncIterator[Thing]:
        if chooses:
            with watching():
                yield Thing()
        else:
            yield Thing()
            seen.append("goes on")

    await end(choosing, ValueError())
    assert seen == [RAISED if chooses else "goes on"]


SHIPPED = """
def shipped():
    try:
        yield Thing()
    finally:
        seen.append("goes on")
"""


async def test_without_a_source_the_error_is_sent_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Run a program that was shipped as bytecode."""
    namespace: dict[str, Any] = {"Thing": Thing, "seen": seen}
    exec(SHIPPED, namespace)
    await end(namespace["shipped"], ValueError())
    assert seen == ["goes on"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("no source can be read of shipped: ")


@pytest.mark.parametrize("now", ["", "x = 1", "x = (", "def another():\n    yield"])
async def test_a_file_that_has_changed_since_is_no_source(tmp_path: Path, now: str) -> None:
    """Check that a newer file is not read for the code that runs."""
    path = tmp_path / "shipped.py"
    path.write_text(now)
    namespace: dict[str, Any] = {"Thing": Thing, "seen": seen}
    # Sources are remembered by code object, and equal code objects are one key.
    program = SHIPPED.strip().replace("    try:", f"    path = {str(path)!r}\n    try:")
    exec(compile(program, path, "exec"), namespace)
    await end(namespace["shipped"], ValueError())
    assert seen == ["goes on"]


async def test_a_generator_in_a_lambda_gets_the_error_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lambda contains no statement that would notice an error."""
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(lambda: see((yield Thing())), provides=Thing)
    await end(provider, ValueError())
    assert seen == ["sent ValueError"]
    assert not caplog.records


class Compiled:
    """A generator without code or frame, as those of Cython may be."""

    def __init__(self) -> None:
        self.generator: Any = sync_except_and_else()

    def __iter__(self) -> Iterator[Thing]:
        return self

    def __next__(self) -> Thing:
        thing: Thing = next(self.generator)
        return thing

    def send(self, value: Any) -> Any:
        return self.generator.send(value)


async def test_a_generator_that_is_not_pythons_gets_the_error_sent() -> None:
    """Nothing can be known of a generator that is not Python's."""

    def compiled() -> Iterator[Thing]:
        yield Thing()

    @wraps(compiled)
    def function() -> Any:
        return Compiled()

    await end(function, ValueError())
    assert seen == ["nothing"]


@pytest.mark.parametrize("error", [StopIteration(), StopAsyncIteration()])
@pytest.mark.parametrize("function", [except_and_else, sync_except_and_else])
async def test_errors_that_no_generator_can_raise(
    function: Callable[..., Any], error: Exception
) -> None:
    """Raising such an error again is not a failure, although Python replaces it with another
    error."""
    await end(function, error)
    assert seen == [f"raised {type(error).__name__}"]


async def another_error() -> AsyncIterator[Thing]:
    try:
        yield Thing()
    except ValueError:
        raise KeyError("canary") from None


async def another_error_beside_it() -> AsyncIterator[Thing]:
    try:
        yield Thing()
    except ValueError as error:
        raise ExceptionGroup("", [error, KeyError("canary")]) from None


@pytest.mark.parametrize("function", [another_error, another_error_beside_it])
async def test_another_error_is_a_failure(function: Callable[..., Any]) -> None:
    """The other error is in the `ExitError`, like that of any finaliser."""
    with pytest.raises(ExitError) as failure:
        await end(function, ValueError())
    assert failure.group_contains(KeyError, match="canary")


async def yielding_twice() -> AsyncIterator[Thing]:
    try:
        yield Thing()
        yield Thing()
    finally:
        seen.append("closed")


def yielding_again_after_an_error() -> Iterator[Thing]:
    try:
        yield Thing()
    except ValueError:
        yield Thing()
    finally:
        seen.append("closed")


@pytest.mark.parametrize(
    ("function", "error"), [(yielding_twice, None), (yielding_again_after_an_error, ValueError())]
)
async def test_one_that_yields_again_is_closed_and_has_failed(
    function: Callable[..., Any], error: Exception | None
) -> None:
    """Expect an error of the scope, because the rest of the generator does not run."""
    with pytest.raises(ExitError) as failure:
        await end(function, error)
    assert failure.group_contains(RuntimeError, match=f"{function.__name__} provides one object")
    assert seen == ["closed"]
