"""Open scopes: the sources of their objects, and the internals of dishka's containers in use."""

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

import pytest
from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from harness import app_with, talk
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from websuckets import CommandGroup, Socket, WebSuckets
from websuckets.di import lock_factory
from websuckets.runtime.scopes import OpenScope, sources_of_generators

pytestmark = pytest.mark.anyio


class Wide: ...


class Middle: ...


class Narrow: ...


class Plain: ...


class Things(Provider):
    """A provider of generators in three scopes."""

    def __init__(self) -> None:
        super().__init__()
        self.built: list[str] = []

    @provide(scope=Scope.APP)
    async def wide(self) -> AsyncIterator[Wide]:
        self.built.append("wide")
        yield Wide()

    @provide(scope=Scope.SESSION)
    def middle(self, wide: Wide) -> Iterator[Middle]:
        self.built.append("middle")
        yield Middle()

    @provide(scope=Scope.REQUEST)
    async def narrow(self, middle: Middle, wide: Wide, number: int) -> AsyncIterator[Narrow]:
        self.built.append("narrow")
        yield Narrow()

    plain = provide(Plain, scope=Scope.REQUEST)


@asynccontextmanager
async def opened(things: Things) -> AsyncIterator[tuple[OpenScope, OpenScope, AsyncContainer]]:
    """Yield an APP scope, a SESSION scope and a REQUEST scope."""
    things.from_context(int, scope=Scope.SESSION)
    things.from_context(str, scope=Scope.APP)
    container = make_async_container(things, lock_factory=lock_factory, context={str: "app"})
    app = OpenScope(container, copy_context())
    session = app.session({int: 1}, lock_factory, copy_context())
    async with app.container, session.container, session.request({}, []) as request:
        yield app, session, request


async def test_what_dishka_keeps_to_itself_is_as_expected() -> None:
    """`websuckets.runtime.scopes` has to be adapted to a version of dishka that fails this test."""
    async with opened(Things()) as (app, session, request):
        assert request.parent_container is session.container
        assert session.container.parent_container is app.container
        await request.get(Narrow)
        _, (generator, asynchronous) = request._exits  # the first empties the container
        assert generator is None
        assert inspect.isasyncgen(asynchronous)
        ((generator, asynchronous),) = session.container._exits
        assert inspect.isgenerator(generator)
        assert asynchronous is None
        assert set(request._cache) == {Narrow}
        assert set(session.container._cache) == {Middle}
        assert Wide in app.container._cache
        assert request.parent_closer is None
        assert app.container.parent_closer is not None  # together with the scope RUNTIME
        names = {source.__name__ for source in sources_of_generators(request)}
        assert names == {"wide", "middle", "narrow"}


async def test_objects_of_wider_scopes_are_built_once() -> None:
    """An object is built once, whichever scope is asked first."""
    things = Things()
    async with opened(things) as (app, session, request):
        await request.get(Narrow)
        async with session.request({}, []) as another:
            await another.get(Narrow)
        assert things.built == ["wide", "middle", "narrow", "narrow"]
        wide = await app.container.get(Wide)
        assert await app.get(Wide) is await session.get(Wide) is wide
        assert await session.get(Middle) is await session.container.get(Middle)
        assert await session.get(int) == 1
        assert await session.get(str) == await app.get(str) == "app"


async def test_nothing_is_built_in_a_scope_that_has_ended() -> None:
    """Nothing is built that would never be finalised."""
    async with opened(Things()) as (_, session, request):
        session.close()
        with pytest.raises(RuntimeError, match="has ended"):
            await request.get(Narrow)


async def test_the_program_may_provide_what_comes_with_a_connection() -> None:
    """The provider of the program is used instead of the value of the framework."""
    group = CommandGroup()

    @group.command("look")
    async def check(socket: ServerConnection, *, request: Request, same: Socket) -> Any:
        return [request.path, same is socket]

    provider = Provider(scope=Scope.SESSION)

    @provider.provide
    def request() -> Request:
        return Request("/of-the-program", None)  # type: ignore[arg-type]

    async with talk(app_with(group, providers=[provider])) as client:
        assert (await client.call("look"))["payload"] == ["/of-the-program", True]


async def test_a_startup_hook_may_use_what_has_a_narrower_scope(journal: list[str]) -> None:
    """The object is finalised after the hook."""

    async def middle(wide: Wide) -> AsyncIterator[Middle]:
        yield Middle()
        journal.append("middle is finalised")

    provider = Provider(scope=Scope.SESSION)
    provider.provide(middle)
    app = WebSuckets(providers=[Things(), provider])

    @app.on_startup
    async def hook(middle: Middle, wide: Wide) -> None:
        journal.append("hook")

    provider = Provider(scope=Scope.SESSION)
    provider.provide(lambda: 1, provides=int)
    with app.override(provider):
        async with app.lifespan():
            assert journal == ["hook", "middle is finalised"]
