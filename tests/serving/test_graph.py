"""Tests of `app.graph()`, which draws the dependencies."""

import pytest
from dishka import Provider, Scope, make_async_container
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.di import lock_factory, setup_dishka
from websuckets.exc import MissingProvider
from websuckets.security import CurrentUser, SecurityProvider


class Mailer: ...


class Admin:
    def __init__(self, user: CurrentUser) -> None: ...


@pytest.fixture
def app() -> WebSuckets:
    group = CommandGroup()

    @group.command("send", protected=Admin)
    async def send_mail(socket: ServerConnection, *, mailer: Mailer) -> None: ...

    app = WebSuckets()
    app.include_command_group(group)

    @app.on_connect
    async def greet(mailer: Mailer) -> None: ...

    return app


def providers() -> list[Provider]:
    mailer = Provider(scope=Scope.APP)
    mailer.provide(Mailer)
    admin = Provider(scope=Scope.REQUEST)
    admin.provide(Admin)
    return [mailer, admin]


def test_it_shows_handlers_guards_hooks_and_scopes(app: WebSuckets) -> None:
    """Expect the graph with the app's container, with overrides, and with the program's."""
    with pytest.raises(MissingProvider):
        app.graph()
    with app.override(*providers()):
        check(app.graph())
    container = make_async_container(
        SecurityProvider(), *providers(), *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)
    check(app.graph())


def check(page: str) -> None:
    assert page.startswith("<html>") and "mermaid" in page
    for scope in ("APP", "SESSION", "REQUEST"):
        assert scope in page
    for name in ("send_mail", "greet", "Mailer", "Admin", "CurrentUser"):
        assert name in page
