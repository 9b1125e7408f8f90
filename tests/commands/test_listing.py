"""Tests of ``app.commands``."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import pytest
from dishka import Provider, Scope, make_async_container, provide
from harness import app_with
from pydantic import BaseModel, Field

from websuckets import CommandGroup, Limits, Payload, Socket, WebSuckets
from websuckets.app import CommandInfo
from websuckets.di import lock_factory, setup_dishka
from websuckets.exc import ConfigurationError, DuplicateCommand, InvalidHandlerSignature
from websuckets.security import CurrentUser, SecurityProvider

pytestmark = pytest.mark.anyio


class Post(BaseModel):
    title: str


class Admin: ...


class Admins(Provider):
    @provide(scope=Scope.REQUEST)
    def admin(self, user: CurrentUser) -> Admin:
        return Admin()


def listed(*groups: CommandGroup, **options: Any) -> dict[str, CommandInfo]:
    return dict(app_with(*groups, **options).commands)


def test_a_command_is_listed_as_its_handler_declares_it() -> None:
    group = CommandGroup("post", protected=True)

    @group.command("edit", protected=Admin, timeout=5, once=True)
    async def edit(socket: Socket, post: Post) -> list[Post]:
        """Edit a post, and return
        all posts.

        This is not in the summary.
        """
        return [post]

    line = edit.__code__.co_firstlineno
    assert listed(group) == {
        "post edit": CommandInfo(
            name="post edit",
            payload=Post,
            reply=list[Post],
            is_stream=False,
            protected=True,
            guards=(Admin,),
            timeout=5,
            once=True,
            subscribes=(),
            summary="Edit a post, and return all posts.",
            description="This is not in the summary.",
            deprecated=False,
            tags=("post",),
            raises=(),
            function=edit,
            file=__file__,
            line=line,
        )
    }


def test_a_command_that_declares_nothing_has_the_settings_of_the_app() -> None:
    group = CommandGroup()

    @group.command("plain")
    async def plain(socket: Socket): ...  # type: ignore[no-untyped-def]

    (command,) = listed(group, limits=Limits(handler_timeout=7)).values()
    assert (command.payload, command.reply, command.summary) == (None, Any, None)
    assert (command.protected, command.guards, command.timeout) == (False, (), 7)


def test_a_stream_is_listed_with_the_type_of_its_items() -> None:
    group = CommandGroup(timeout=None)

    @group.command("watch")
    async def watch(socket: Socket, ids: Payload[list[int]]) -> AsyncIterator[Post]:
        """ """
        yield Post(title="")

    (command,) = listed(group).values()
    assert (command.is_stream, command.payload, command.reply) == (True, list[int], Post)
    assert (command.timeout, command.summary) == (None, None)


def test_a_payload_of_several_types_is_listed_as_their_union() -> None:
    group = CommandGroup()

    @group.command("either")
    async def either(socket: Socket, post: Post | None = None) -> None: ...

    @group.command("constrained")
    async def constrained(socket: Socket, n: Payload[Annotated[int, Field(gt=0)]]) -> None: ...

    commands = listed(group)
    assert commands["either"].payload == Post | None
    assert commands["either"].reply is None or commands["either"].reply is type(None)
    assert commands["constrained"].payload is int


def test_a_handler_that_is_an_object_has_the_docstring_of_its_call() -> None:
    class Handler:
        """An object."""

        async def __call__(self, socket: Socket) -> None:
            """Answer."""

    async def function(text: str, socket: Socket) -> None:
        """Answer with a text."""

    group = CommandGroup()
    group.command("object")(Handler())
    group.command("partial")(partial(function, "text"))
    commands = listed(group)
    assert commands["object"].summary == "Answer."
    assert commands["partial"].summary == "Answer with a text."


def test_commands_are_sorted_by_name_and_read_only() -> None:
    async def handler(socket: Socket) -> None: ...

    first, second = CommandGroup("b"), CommandGroup("a")
    for group in (first, second):
        group.command("two")(handler)
        group.command("one")(handler)
    app = app_with(first, second)
    assert list(app.commands) == ["a one", "a two", "b one", "b two"]
    assert list(app_with(second, first).commands) == list(app.commands)
    commands: Any = app.commands
    with pytest.raises(TypeError):
        commands["c"] = commands["a one"]
    with pytest.raises(AttributeError):
        commands["a one"].name = "c"


async def test_commands_are_the_same_before_during_and_after_a_run() -> None:
    group = CommandGroup()

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    app = app_with(group)
    before = app.commands
    async with app.lifespan():
        assert app.commands == before
    assert app.commands == before
    group.command("later")(ping)
    assert list(app.commands) == ["later", "ping"]


async def test_commands_of_an_app_with_a_container_are_those_in_the_container() -> None:
    """A command that comes after the providers were read is not served."""
    group = CommandGroup()

    async def ping(socket: Socket) -> None: ...

    group.command("ping")(ping)
    app = app_with(group)
    container = make_async_container(SecurityProvider(), *app.providers, lock_factory=lock_factory)
    setup_dishka(container, app)
    group.command("later")(ping)
    assert list(app.commands) == ["ping"]


def test_names_that_are_defined_later_are_still_read_after_a_listing() -> None:
    """Expect a listing to leave what is not defined yet open."""
    group = CommandGroup()

    @group.command("late")
    async def late(socket: Socket) -> "Reply": ...  # type: ignore[empty-body]

    app = app_with(group)
    assert app.commands["late"].reply is Any
    Reply = Post
    assert app.commands["late"].reply is Post


def test_a_listing_of_wrong_groups_raises_the_errors_of_the_start() -> None:
    group = CommandGroup()

    @group.command("late")
    async def late(socket: Socket, missing: "NeverDefined") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    app = app_with(group)
    with pytest.raises(InvalidHandlerSignature, match="name 'NeverDefined' is not defined"):
        assert app.commands

    async def ping(socket: Socket) -> None: ...

    twice = CommandGroup()
    twice.command("ping")(ping)
    app = app_with(twice)
    twice.command("ping")(ping)
    with pytest.raises(DuplicateCommand):
        assert app.commands
    assert issubclass(DuplicateCommand, ConfigurationError)


def test_an_app_without_groups_has_no_commands() -> None:
    assert dict(WebSuckets().commands) == {}


async def test_missing_providers_do_not_matter_to_a_listing() -> None:
    group = CommandGroup(protected=Admin)

    @group.command("ping")
    async def ping(socket: Socket) -> None: ...

    assert listed(group)["ping"].guards == (Admin,)
    assert listed(group, providers=[Admins()]) == listed(group)
