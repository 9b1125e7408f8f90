"""Tests of users that are verified once, at their opening handshake."""

import functools
import time
from collections.abc import AsyncIterator, Iterator
from http.cookies import SimpleCookie
from typing import Any

import pytest
from dishka import Provider, Scope, make_async_container
from harness import app_with, dial
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request

from websuckets import CommandGroup, Limits, Socket, WebSuckets
from websuckets.di import lock_factory, setup_dishka
from websuckets.exc import ConfigurationError, HandshakeRefused, NotAuthorized
from websuckets.runtime.clock import Clock
from websuckets.security import CurrentUser, HandshakeSecurityProvider, Identity
from websuckets.session import Session
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

ORIGIN = "https://example.org"
ORIGINS = [ORIGIN, None]


class Accounts:
    """Accounts by their cookies."""

    def __init__(self) -> None:
        self.names = {"c1": "Ann", "c2": "Bob"}


class AccountsProvider(Provider):
    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.provide(self.accounts, scope=Scope.REQUEST)
        self.journal = journal

    async def accounts(self) -> AsyncIterator[Accounts]:
        yield Accounts()
        self.journal.append("close accounts")


async def by_cookie(request: Request, accounts: Accounts) -> Identity | None:
    cookie = SimpleCookie(request.headers.get("Cookie", "")).get("session")
    if cookie is None:
        return None
    if cookie.value == "too-old":
        return Identity("Old", expires_at=time.time() - 1)
    if cookie.value == "old":
        return Identity("Old", expires_at=time.time() + 1)
    if cookie.value not in accounts.names:
        raise NotAuthorized
    return Identity(accounts.names[cookie.value])


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket, *, user: CurrentUser) -> Any:
        return user.id

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    return group


@pytest.fixture
def app(group: CommandGroup, journal: list[str]) -> WebSuckets:
    providers = [AccountsProvider(journal), HandshakeSecurityProvider(by_cookie)]
    return app_with(group, providers=providers, origins=ORIGINS, limits=Limits(send_timeout=0.08))


def cookie(value: str) -> dict[str, Any]:
    return {"additional_headers": {"Cookie": f"session={value}", "Origin": ORIGIN}}


async def test_a_cookie_verifies(on_sockets: Serving, app: WebSuckets, journal: list[str]) -> None:
    """Expect commands without a token; dependencies of the check are closed before the start."""
    async with on_sockets(app) as server:
        async with dial(server, **cookie("c1")) as ann, dial(server, **cookie("c2")) as bob:
            assert journal == ["close accounts"] * 2
            assert (await ann.call("whoami"))["payload"] == "Ann"
            assert (await bob.call("whoami"))["payload"] == "Bob"
            assert set(Session.verified) == {"Ann", "Bob"}


async def test_without_one_nobody_is_verified(on_sockets: Serving, app: WebSuckets) -> None:
    """Expect a client without a cookie to run unprotected commands only."""
    async with on_sockets(app) as server, dial(server) as client:
        assert (await client.call("whoami"))["error"] == "not authorized"
        assert (await client.call("ping"))["payload"] == "pong"


@pytest.mark.parametrize("value", ["c3", "too-old"])
async def test_a_wrong_one_does_not_get_in(
    on_sockets: Serving, app: WebSuckets, value: str
) -> None:
    """Expect 403 for a wrong cookie."""
    async with on_sockets(app) as server:
        with pytest.raises(InvalidStatus) as refused:
            async with dial(server, **cookie(value)):
                pass
        assert refused.value.response.status_code == 403


async def test_another_page_does_not_get_in(app: WebSuckets) -> None:
    """Expect a refusal of another page, though the browser sends the cookie along."""
    headers = {"Cookie": "session=c1", "Origin": "https://evil.example"}
    with pytest.raises(HandshakeRefused, match="403"):
        async with TestClient(app, headers=headers):
            pass


@pytest.mark.slow
async def test_its_time_ends(on_sockets: Serving, app: WebSuckets) -> None:
    """Expect 4401 when the time of the user is over, even if no message comes any more."""
    async with on_sockets(app) as server, dial(server, **cookie("old")) as client:
        assert (await client.call("whoami"))["payload"] == "Old"
        assert await client.closed() == (4401, "expired")
        assert not Session.verified


async def test_its_time_is_over_for_the_next_message(
    app: WebSuckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expect each message to be checked, even before the clock has noticed."""
    monkeypatch.setattr(Clock, "ring", lambda self: None)
    async with TestClient(app, headers={"Cookie": "session=c1"}) as client:
        assert (await client.call("whoami")).payload == "Ann"
        Session.verified["Ann"].expires_at = time.time() - 1
        with pytest.raises(CommandError, match="not authorized"):
            await client.call("whoami")


async def test_hooks_see_who_it_is(app: WebSuckets, journal: list[str]) -> None:
    """Expect the user to be verified before the hooks of the program run."""

    @app.on_handshake
    async def seen(request: Request, identity: Identity | None) -> None:
        journal.append(f"seen {identity}")

    async with TestClient(app, headers={"Cookie": "session=c1"}):
        pass
    assert "seen Identity(id='Ann', expires_at=None)" in journal


async def test_any_provider_of_an_identity_will_do(group: CommandGroup) -> None:
    """Expect any provider of an identity to work, even one that is never ``None``."""
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: Identity(7), provides=Identity)
    app = app_with(group, providers=[provider], origins=ORIGINS)
    async with TestClient(app):
        assert set(Session.verified) == {7}


@pytest.mark.parametrize("shared", [False, True])
async def test_it_does_not_start_without_origins(
    group: CommandGroup, journal: list[str], shared: bool
) -> None:
    """Expect an error without origins: any page could act for its visitors."""
    providers = [AccountsProvider(journal), HandshakeSecurityProvider(by_cookie)]
    if shared:
        app = app_with(group)
        container = make_async_container(*providers, *app.providers, lock_factory=lock_factory)
        setup_dishka(container, app)
    else:
        app = app_with(group, providers=providers)
    with pytest.raises(ConfigurationError, match=r"origins=\["):
        async with TestClient(app):
            pass


async def test_in_a_shared_container(group: CommandGroup, journal: list[str]) -> None:
    """Expect the same as with a container of the app's own."""
    app = app_with(group, origins=ORIGINS)
    container = make_async_container(
        AccountsProvider(journal),
        HandshakeSecurityProvider(by_cookie),
        *app.providers,
        lock_factory=lock_factory,
    )
    setup_dishka(container, app)
    async with TestClient(app, headers={"Cookie": "session=c2"}) as client:
        assert (await client.call("whoami", timeout=TIMEOUT)).payload == "Bob"
    await container.close()


async def test_a_token_in_a_subprotocol(group: CommandGroup) -> None:
    """Expect verification by the subprotocol, the only header that browsers can set."""

    async def by_subprotocol(request: Request) -> Identity | None:
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        names = {"token.t1": "Ann"}
        return next((Identity(names[o.strip()]) for o in offered if o.strip() in names), None)

    app = app_with(
        group,
        providers=[HandshakeSecurityProvider(by_subprotocol)],
        origins=ORIGINS,
        subprotocols=["chat"],
    )
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server, subprotocols=["chat", "token.t1"]) as client:
            assert client.connection.subprotocol == "chat"
            assert (await client.call("whoami"))["payload"] == "Ann"


async def by_word(word: str, request: Request) -> Identity | None:
    return Identity(word)


class ByWord:
    async def __call__(self, request: Request) -> Identity | None:
        return Identity("ann")


def plainly(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def without_hint(request: Request):
    return by_word("ann", request)


def at_once(request: Request) -> Identity:
    return Identity("ann")


async def yields(request: Request) -> AsyncIterator[Identity | None]:
    yield Identity("ann")


def yields_at_once(request: Request) -> Iterator[Identity | None]:
    yield Identity("ann")


@pytest.mark.parametrize(
    "authenticate",
    [
        ByWord(),
        functools.partial(by_word, "ann"),
        plainly(functools.partial(by_word, "ann")),
        plainly(ByWord()),
        without_hint,
        at_once,
        yields,
        yields_at_once,
    ],
)
async def test_whatever_python_calls_an_async_function_authenticates(authenticate: Any) -> None:
    """Expect instances, partials, wrappers, plain functions, and cleaning generators to work."""
    group = CommandGroup()

    @group.command("who")
    async def who(socket: Socket, *, user: CurrentUser) -> Any:
        return user.id

    provider = HandshakeSecurityProvider(authenticate)
    async with TestClient(app_with(group, providers=[provider], origins=ORIGINS)) as client:
        assert (await client.call("who")).payload == "ann"


def test_an_authentication_that_names_what_is_not_defined_is_refused() -> None:
    """Expect an error at once, with the place of the function."""

    async def authenticate(request: "Nowhere") -> None: ...  # noqa: F821  # on purpose

    with pytest.raises(ConfigurationError, match=r"authenticate` \(.*'Nowhere' is not defined"):
        HandshakeSecurityProvider(authenticate)
