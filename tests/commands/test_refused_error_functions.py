"""Tests of error functions that are refused, when they are decorated or before the port opens."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from dishka import make_async_container
from harness import app_with
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Message, Payload, WebSuckets
from websuckets.di import lock_factory, setup_dishka
from websuckets.exc import (
    ClientError,
    ConfigurationError,
    InvalidHandlerSignature,
    MissingProvider,
    NotAuthorized,
)
from websuckets.security import CurrentUser

pytestmark = pytest.mark.anyio


class DomainError(Exception): ...


class Missing: ...


def maps(error: Exception) -> ClientError:
    return ClientError("mapped")


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (maps, r"maps` \(.*: it takes the class of the errors; write `@app.on_error\(SomeError\)`"),
        ("DomainError", r"on_error\('DomainError'\): it takes the class of the errors"),
        (DomainError(), r"on_error\(DomainError\(\)\): it takes the class of the errors"),
        (DomainError | OSError, "it takes the class of the errors"),
        (ClientError, r"on_error\(ClientError\): a ClientError is a reply already"),
        (NotAuthorized, r"on_error\(NotAuthorized\): a ClientError is a reply already"),
        (int, r"on_error\(int\): it is not a subclass of Exception"),
        (BaseException, r"on_error\(BaseException\): it is not a subclass of Exception"),
        (KeyboardInterrupt, "it is not a subclass of Exception"),
        (asyncio.CancelledError, "it is not a subclass of Exception"),
    ],
)
def test_anything_but_the_class_of_an_error_is_refused(error: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        WebSuckets().on_error(error)


def test_a_second_function_for_a_class_is_refused() -> None:
    """Expect the places of both in the error; a subclass may have one of its own."""
    app = WebSuckets()
    app.on_error(OSError)(maps)
    app.on_error(ConnectionError)(maps)
    with pytest.raises(ConfigurationError) as caught:

        @app.on_error(OSError)
        def again(error: OSError) -> None: ...

    (problem,) = caught.value.problems
    assert "app.on_error(OSError) stands twice" in problem
    assert ".maps` (" in problem and ".again` (" in problem
    assert problem.count(__file__) == 2
    assert "drop one, or map a subclass" in problem


def test_an_object_that_cannot_be_called_is_refused() -> None:
    register: Any = WebSuckets().on_error(DomainError)
    with pytest.raises(ConfigurationError, match=r"on_error\(DomainError\): 'x' is not a function"):
        register("x")


def without_parameter() -> None: ...


def keyword_only(*, error: DomainError) -> None: ...


def variadic(*errors: DomainError) -> None: ...


def of_another_class(error: OSError) -> None: ...


def of_a_subclass(message: str, error: DomainError) -> None: ...


def unannotated(error, user) -> None: ...  # type: ignore[no-untyped-def]


def method(self, error) -> None: ...  # type: ignore[no-untyped-def]


def payload(error: DomainError, payload: Payload[int]) -> None: ...


def yields(error: DomainError) -> Iterator[ClientError]:
    yield ClientError("one")


async def streams(error: DomainError) -> AsyncIterator[ClientError]:
    yield ClientError("one")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (without_parameter, "no parameter for the error; put it first: `error: DomainError`"),
        (keyword_only, "no parameter for the error"),
        (variadic, "no parameter for the error"),
        (of_another_class, "`error: OSError`, is not the error; put the error first"),
        (of_a_subclass, "`message: str`, is not the error"),
        (unannotated, "parameter `user` has no annotation"),
        (method, "parameter `self`: it is a method"),
        (payload, "an error is not a message, so there is no payload"),
        (yields, "it yields; it returns one ClientError, or None"),
        (streams, "it yields; it returns one ClientError, or None"),
    ],
)
def test_a_function_that_cannot_map_the_error_is_refused(function: Any, problem: str) -> None:
    """Expect the name and place of the function, and the remedy."""
    app = WebSuckets()
    with pytest.raises(InvalidHandlerSignature) as caught:
        app.on_error(DomainError)(function)
    assert problem in str(caught.value)
    assert f".{function.__name__}` ({__file__}, line " in str(caught.value)
    app.on_error(DomainError)(maps)  # the refused one was not registered


async def not_started(app: WebSuckets) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        async with app.serve("127.0.0.1", 0):
            raise AssertionError("it started")
    return caught.value


async def test_a_dependency_that_a_function_misses_is_in_the_report_of_the_start() -> None:
    """Expect one report with what handlers miss."""
    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: ServerConnection, *, missing: Missing) -> None: ...

    app = app_with(group)

    @app.on_error(DomainError)
    async def refuse(error: DomainError, missing: Missing) -> None: ...

    error = await not_started(app)
    assert isinstance(error, MissingProvider)
    assert len(error.problems) == 2
    assert "refuse` (" in error.problems[1]
    assert "parameter `missing: Missing` cannot be provided" in error.problems[1]


async def test_objects_of_a_message_are_refused_at_the_start() -> None:
    """Expect an error: the function runs for hooks, too, which answer no message."""
    app = WebSuckets()

    @app.on_error(DomainError)
    async def refuse(error: DomainError, message: Message, user: CurrentUser) -> None: ...

    error = await not_started(app)
    assert len(error.problems) == 2
    assert all("that belongs to a message" in problem for problem in error.problems)


async def test_names_that_stay_undefined_are_refused_at_the_start() -> None:
    app = WebSuckets()

    @app.on_error(DomainError)
    async def refuse(error: DomainError, late: "NeverDefined") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert "name 'NeverDefined' is not defined" in str(await not_started(app))


async def test_a_name_that_is_defined_later_is_found_at_the_start() -> None:
    app = WebSuckets()

    @app.on_error(DomainError)
    async def refuse(error: "Later") -> ClientError:
        return ClientError("mapped")

    Later = DomainError
    async with app.serve("127.0.0.1", 0):
        pass


async def test_a_function_that_is_registered_after_the_start_is_refused() -> None:
    app = WebSuckets()
    async with app.serve("127.0.0.1", 0):
        with pytest.raises(ConfigurationError, match="register on_error functions before it sta"):
            app.on_error(DomainError)(maps)


async def test_a_function_that_comes_after_the_providers_were_read_is_refused() -> None:
    """A container built of them would miss its dependencies."""
    app = WebSuckets()
    setup_dishka(make_async_container(*app.providers, lock_factory=lock_factory), app)
    with pytest.raises(ConfigurationError, match="register on_error functions before"):
        app.on_error(DomainError)(maps)
