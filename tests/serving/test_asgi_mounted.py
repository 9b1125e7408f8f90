"""Tests of `app.asgi` mounted in an application of Starlette, FastAPI or Litestar."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from dishka import Provider, Scope, make_async_container, provide
from dishka.integrations import fastapi as dishka_fastapi
from fastapi import FastAPI
from harness import app_with
from litestar import Litestar, asgi
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient as StarletteClient

from websuckets import AppTasks, CommandGroup, Socket, WebSuckets
from websuckets.broker import Broker, MemoryBroker
from websuckets.di import lock_factory, provide_context, setup_dishka
from websuckets.exc import ConfigurationError
from websuckets.session import Session
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio


class Thing: ...


class Things(Provider):
    thing = provide(Thing, scope=Scope.APP)


def starlette(app: WebSuckets, lifespan: Any) -> Any:
    routes = [Mount("/mounted", app.asgi), WebSocketRoute("/ws", app.asgi)]
    return StarletteClient(Starlette(routes=routes, lifespan=lifespan))


def fastapi(app: WebSuckets, lifespan: Any) -> Any:
    api = FastAPI(lifespan=lifespan, routes=[WebSocketRoute("/ws", app.asgi)])
    api.mount("/mounted", app.asgi)
    return StarletteClient(api)


def litestar(app: WebSuckets, lifespan: Any) -> Any:
    mounted = asgi("/mounted", is_mount=True, copy_scope=True)(app.asgi)
    at_one_path = asgi("/ws", copy_scope=True)(app.asgi)
    lifespans = [] if lifespan is None else [lifespan]
    host = Litestar([mounted, at_one_path], lifespan=lifespans, logging_config=None)
    return LitestarClient(host)


@pytest.mark.parametrize("host", [starlette, fastapi, litestar])
def test_a_mounted_app_is_started_by_its_host(
    host: Callable[[WebSuckets, Any], Any], group: CommandGroup
) -> None:
    """Expect the app to work in any ASGI application, started by its host."""
    app = app_with(group, providers=[Things()])

    with host(app, app.lifespan) as client:
        for path in ("/ws", "/mounted/", "/mounted/a%20b?c=d"):
            with client.websocket_connect(path, headers={"X-Test": "x"}) as connection:
                connection.send_text('{"event": "request"}')
                assert connection.receive_json()["payload"][:2] == [path, "x"]
        assert client.get("/mounted/").status_code == 426


@pytest.mark.parametrize("host", [starlette, fastapi, litestar])
def test_an_app_with_nothing_to_start_starts_by_itself(
    host: Callable[[WebSuckets, Any], Any], app: WebSuckets
) -> None:
    """Expect the app to start by itself, and again in another event loop."""
    for _ in range(2):
        with host(app, None) as client:
            for _ in range(2):
                with client.websocket_connect("/ws") as connection:
                    connection.send_text('{"event": "say", "payload": "hi"}')
                    assert connection.receive_json() == {"event": "say", "payload": "hi"}


def test_an_app_that_runs_in_one_loop_is_not_served_in_another(app: WebSuckets) -> None:
    """Serve by a test client that starts a loop for each connection."""
    host = starlette(app, None)  # not entered as a context
    with host.websocket_connect("/ws") as first:
        with pytest.raises(RuntimeError, match="the app runs in another event loop"):
            with host.websocket_connect("/ws"):
                pytest.fail("it is open")
        first.send_text('{"event": "say", "payload": "hi"}')
        assert first.receive_json() == {"event": "say", "payload": "hi"}


def with_providers(app: WebSuckets) -> WebSuckets:
    return WebSuckets(providers=[Things()])


def with_startup(app: WebSuckets) -> WebSuckets:
    @app.on_startup
    async def startup() -> None: ...

    return app


def with_tasks(app: WebSuckets) -> WebSuckets:
    class Feed:
        def __init__(self, tasks: AppTasks) -> None: ...

    provider = Provider(scope=Scope.APP)
    provider.provide(Feed)

    @app.on_connect
    async def connect(feed: Feed) -> None: ...

    container = make_async_container(provider, *app.providers, lock_factory=lock_factory)
    setup_dishka(container, app)
    return app


def with_own_container(app: WebSuckets) -> WebSuckets:
    class Pool:
        def __init__(self, thing: Thing) -> None: ...

    @asynccontextmanager
    async def thing() -> AsyncIterator[Thing]:
        yield Thing()

    @app.on_connect
    async def connect(pool: Pool) -> None: ...

    provider = provide_context(thing, scope=Scope.APP)
    provider.provide(Pool, scope=Scope.APP)
    setup_dishka(make_async_container(provider, *app.providers, lock_factory=lock_factory), app)
    return app


def with_own_broker(app: WebSuckets) -> WebSuckets:
    @asynccontextmanager
    async def broker() -> AsyncIterator[Broker]:
        yield MemoryBroker()

    provider = provide_context(broker, scope=Scope.APP)
    setup_dishka(make_async_container(provider, *app.providers, lock_factory=lock_factory), app)
    return app


@pytest.mark.parametrize(
    "having", [with_providers, with_startup, with_tasks, with_own_container, with_own_broker]
)
def test_an_app_with_something_to_start_has_to_be_started(
    having: Callable[[WebSuckets], WebSuckets], app: WebSuckets
) -> None:
    """Expect an error that tells a host without lifespan what to write."""
    app = having(app)
    with starlette(app, None) as client:
        with pytest.raises(ConfigurationError, match=r"async with app\.lifespan\(\):"):
            with client.websocket_connect("/ws"):
                pytest.fail("it is open")


async def test_an_app_with_a_container_of_the_program_starts_by_itself(app: WebSuckets) -> None:
    """Expect the start if no object that the app needs is finalised, whatever HTTP needs."""

    @app.on_connect
    async def connect(thing: Thing) -> None: ...

    @asynccontextmanager
    async def for_http() -> AsyncIterator[ForHttp]:
        yield ForHttp()

    container = make_async_container(
        Things(),
        provide_context(for_http, scope=Scope.APP),
        *app.providers,
        lock_factory=lock_factory,
    )
    setup_dishka(container, app)
    with starlette(app, None) as client:
        with client.websocket_connect("/ws") as connection:
            connection.send_text('{"event": "say", "payload": "hi"}')
            assert connection.receive_json()["payload"] == "hi"


class ForHttp: ...


@pytest.mark.on_asyncio
async def test_objects_are_shared_with_the_host(group: CommandGroup) -> None:
    """Expect HTTP and WebSocket to share the objects of the app."""
    seen: list[int] = []

    @group.command("thing")
    async def thing(socket: Socket, *, thing: Thing, session: Session) -> None:
        seen.extend((id(thing), id(session)))

    app = app_with(group)
    container = make_async_container(
        Things(), dishka_fastapi.FastapiProvider(), *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)
    api = FastAPI()
    dishka_fastapi.setup_dishka(container, api)

    @api.get("/thing")
    @dishka_fastapi.inject
    async def get_thing(
        thing: dishka_fastapi.FromDishka[Thing], session: dishka_fastapi.FromDishka[Session]
    ) -> int:
        seen.extend((id(thing), id(session)))
        return len(session.online)

    transport = httpx2.ASGITransport(api)
    async with (
        TestClient(app) as client,
        httpx2.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        await client.call("thing")
        assert (await http.get("/thing")).json() == 1
    assert seen[:2] == seen[2:]
    await container.close()
