"""Tests of hooks that are refused, when they are decorated or before the port opens."""

import re
from collections.abc import AsyncIterator

import pytest
from harness import app_with
from hook_objects import Account, Journalling, hooked_commands
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from websuckets import CommandGroup, ConnectionTasks, Message, Payload, Socket, WebSuckets
from websuckets.exc import ConfigurationError, InvalidHandlerSignature, MissingProvider
from websuckets.security import CurrentUser
from websuckets.session import User

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(journal: list[str]) -> WebSuckets:
    return app_with(hooked_commands(journal), providers=[Journalling(journal)])


async def test_a_hook_registered_after_the_start_is_refused(app: WebSuckets) -> None:
    """Expect an error for later hooks, which would never run."""
    async with app.serve("127.0.0.1", 0):
        with pytest.raises(ConfigurationError, match="register on_connect hooks before"):

            @app.on_connect
            async def late() -> None: ...


class Missing: ...


def test_a_function_that_is_not_a_hook_is_refused_when_decorated() -> None:
    """Expect all mistakes of the function and its place in the error."""
    app = WebSuckets()
    with pytest.raises(InvalidHandlerSignature) as caught:

        @app.on_connect
        def sync(unannotated, *many) -> None: ...

    problems = "\n".join(caught.value.problems)
    assert "it is not an async function; declare it with `async def`" in problems
    assert "`unannotated` has no annotation" in problems
    assert "`*many`: nothing can fill it" in problems
    assert __file__ in problems
    with pytest.raises(
        InvalidHandlerSignature, match="it yields; a hook is an `async def` without"
    ):

        @app.on_connect
        async def stream() -> AsyncIterator[int]:
            yield 1

    with pytest.raises(InvalidHandlerSignature, match="there is no payload"):

        @app.on_connect
        async def payload(model: Payload[int]) -> None: ...


async def not_started(app: WebSuckets) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        async with app.serve("127.0.0.1", 0):
            raise AssertionError("it started")
    return caught.value


async def test_a_dependency_that_a_hook_misses_is_refused_at_start(app: WebSuckets) -> None:
    """Expect one report of dependencies that hooks and handlers miss."""
    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: ServerConnection, *, missing: Missing) -> None: ...

    @app.on_connect
    async def greet(missing: Missing) -> None: ...

    app.include_command_group(group)
    error = await not_started(app)
    assert isinstance(error, MissingProvider)
    assert len(error.problems) == 2
    assert "greet` (" in error.problems[1]
    assert "parameter `missing: Missing` cannot be provided" in error.problems[1]
    assert "put it second" not in error.problems[1]


@pytest.mark.parametrize("kind", ["on_startup", "on_handshake", "on_connect", "on_disconnect"])
async def test_a_hook_that_asks_for_objects_of_a_message_is_refused_at_start(
    app: WebSuckets, kind: str
) -> None:
    """Expect an error for objects of a message, and at startup of a connection, at any depth."""

    async def hook(
        message: Message, user: CurrentUser, maybe: CurrentUser | None, account: Account
    ) -> None: ...

    getattr(app, kind)(hook)
    error = await not_started(app)
    assert type(error) is ConfigurationError
    told = [re.search(r"it asks for (.*): that belongs to a message", p) for p in error.problems]
    asked = [match[1] for match in told if match is not None]
    assert (asked[0], asked[1], asked[3]) == (
        "`Message`",
        "`CurrentUser`",
        "`Account` -> `CurrentUser`",
    )
    assert "CurrentUser" in asked[2] and len(asked) == 4


async def test_a_startup_hook_that_asks_for_objects_of_a_connection_is_refused() -> None:
    """Expect an error, because there is no connection yet."""
    app = WebSuckets()

    @app.on_startup
    async def hook(
        socket: Socket,
        connection: ServerConnection,
        request: Request,
        user: User,
        tasks: ConnectionTasks,
    ) -> None: ...

    error = await not_started(app)
    assert len(error.problems) == 5
    for problem in error.problems:
        assert "belongs to a connection, and at startup there is none" in problem


async def test_a_hook_with_a_default_for_an_object_of_a_message_is_refused_at_start(
    app: WebSuckets,
) -> None:
    """Expect an error, because with a message the parameter would be filled."""

    @app.on_connect
    async def hook(account: Account | None = None) -> None: ...

    error = await not_started(app)
    assert "it asks for `Account` -> `CurrentUser`: that belongs to a message" in str(error)


async def test_undefined_names_in_hooks_are_refused_at_start(
    app: WebSuckets, journal: list[str]
) -> None:
    """Expect an error at the start, like a handler's, for a name that is still not defined."""

    @app.on_connect
    async def early(visit: "Defined") -> None:  # noqa: F821  # nor will it be
        journal.append(type(visit).__name__)

    @app.on_connect
    async def never(thing: "NeverDefined") -> None: ...  # noqa: F821  # on purpose

    error = await not_started(app)
    assert "name 'Defined' is not defined" in str(error)
    assert "name 'NeverDefined' is not defined" in str(error)


async def test_a_wrong_hook_that_can_only_be_read_late_is_refused_at_start(app: WebSuckets) -> None:
    """Expect the start to raise the error."""

    @app.on_connect
    async def hook(model: "Defined") -> None: ...

    Defined = Payload[int]
    error = await not_started(app)
    assert "there is no payload" in str(error)
