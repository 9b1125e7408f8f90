"""`ScopeFactory`: its proof at the start of an app, and the user of a message in its scopes."""

from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

import pytest
from dishka import DependencyKey, Provider, Scope, make_async_container
from harness import app_with, until

from websuckets import AppTasks, CommandGroup, Message, OnCommit, Socket, WebSuckets
from websuckets.di import ScopeFactory, lock_factory, setup_dishka
from websuckets.exc import ConfigurationError, NotAuthorized
from websuckets.security import CurrentUser, HandshakeSecurityProvider, Identity, SecurityProvider
from websuckets.session import Session, User
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Db: ...


class Missing: ...


class NeedsMissing:
    def __init__(self, missing: Missing) -> None: ...


class NeedsMessage:
    def __init__(self, new_scope: ScopeFactory[Message]) -> None: ...


class NeedsUser:
    def __init__(self, new_scope: ScopeFactory[CurrentUser]) -> None:
        self.new_scope = new_scope


class NeedsSocket:
    def __init__(self, new_scope: ScopeFactory[tuple[Db, Socket]]) -> None: ...


class NeedsSeveral:
    def __init__(self, one: NeedsSocket, other: ScopeFactory[Db]) -> None: ...


class Box(Generic[T]):
    """An object of a generic provider of the program's own."""

    def __init__(self, content: type[T]) -> None: ...


def box(content: type[T]) -> Box[T]:
    return Box(content)


class Keyed:
    """An object whose provider asks for the key by which it is asked for."""

    def __init__(self, key: DependencyKey) -> None: ...


class NeedsTwice:
    """An object whose scopes contain such an object again."""

    def __init__(self, new_scope: "ScopeFactory[NeedsTwice]") -> None: ...


def app_asking_for(hint: Any, scope: Scope = Scope.REQUEST, *, is_stream: bool = False) -> Any:
    things = Provider(scope=scope)
    for thing in (NeedsMessage, NeedsUser, NeedsSocket, NeedsSeveral):
        things.provide(thing)
    messages = Provider(scope=Scope.REQUEST)
    messages.provide(box)
    for thing in (Db, Keyed, NeedsTwice):
        messages.provide(thing)
    group = CommandGroup()

    async def run(socket: Socket, *, it: Any) -> None: ...

    async def stream(socket: Socket, *, it: Any) -> AsyncIterator[int]:
        yield 1

    function = stream if is_stream else run
    function.__annotations__["it"] = hint
    group.command("run")(function)
    return app_with(group, providers=[messages, things])


@pytest.mark.parametrize("is_shared", [False, True], ids=["own container", "shared container"])
@pytest.mark.parametrize(
    "hint, scope, says",
    [
        (
            ScopeFactory[Missing],
            Scope.REQUEST,
            "it asks for `ScopeFactory[Missing]` -> `Missing`: nothing provides it; give a "
            "provider of it",
        ),
        (
            ScopeFactory[tuple[Db, Missing]],
            Scope.REQUEST,
            "`ScopeFactory[tuple[Db, Missing]]` -> `Missing`: nothing provides it",
        ),
        (
            ScopeFactory,
            Scope.REQUEST,
            "it asks for `ScopeFactory`: nothing says what its scopes give; write the type of the "
            "object, as in ScopeFactory[AsyncSession], or the type of each of several objects",
        ),
        (
            ScopeFactory[tuple[Db, ...]],
            Scope.REQUEST,
            "`ScopeFactory[tuple[Db, ...]]` -> `tuple[Db, ...]`: a scope gives a fixed number of "
            "objects; write the type of the object",
        ),
        (ScopeFactory[tuple], Scope.REQUEST, "`tuple`: a scope gives a fixed number of objects"),
        (
            NeedsMessage,
            Scope.APP,
            "it asks for `NeedsMessage` -> `ScopeFactory[Message]` -> `Message`: that belongs to a "
            "message, and a ScopeFactory of an object of Scope.APP opens scopes without one; let a "
            "handler, or an object of Scope.REQUEST, ask for it",
        ),
        (
            NeedsMessage,
            Scope.SESSION,
            "a ScopeFactory of an object of Scope.SESSION opens scopes without one",
        ),
        (
            NeedsUser,
            Scope.SESSION,
            "`NeedsUser` -> `ScopeFactory[CurrentUser]` -> `CurrentUser` -> `Message`: that",
        ),
        (
            NeedsSocket,
            Scope.APP,
            "`ScopeFactory[tuple[Db, Socket]]` -> `Socket`: that belongs to a connection, and a "
            "ScopeFactory of an object of Scope.APP opens scopes of the app alone",
        ),
    ],
)
async def test_a_scope_that_cannot_be_opened_is_refused_at_the_start(
    hint: Any, scope: Scope, says: str, is_shared: bool
) -> None:
    app = app_asking_for(hint, scope)
    if is_shared:
        own = app._definition._providers  # so that both ways have the same providers
        app = app_with(*app._definition._groups)
        container = make_async_container(
            SecurityProvider(),
            *own,
            *app.providers,
            lock_factory=lock_factory,
            skip_validation=True,
        )
        setup_dishka(container, app)
    with pytest.raises(ConfigurationError) as raised:
        async with TestClient(app):
            pass
    assert says in str(raised.value)
    assert "command 'run'" in str(raised.value)


@pytest.mark.parametrize(
    "hint, scope",
    [
        (NeedsMessage, Scope.REQUEST),
        (NeedsUser, Scope.REQUEST),
        (NeedsSocket, Scope.SESSION),
        (ScopeFactory[tuple[Box[Db], Keyed]], Scope.REQUEST),
        (NeedsSeveral, Scope.SESSION),
        (NeedsTwice, Scope.REQUEST),
        (ScopeFactory[ScopeFactory[Db]], Scope.REQUEST),
    ],
)
async def test_scopes_that_can_be_opened_are_accepted(hint: Any, scope: Scope) -> None:
    async with TestClient(app_asking_for(hint, scope)) as client:
        await client.call("run")


async def test_a_stream_may_open_scopes_with_what_it_cannot_have_itself() -> None:
    hint = ScopeFactory[tuple[Db, OnCommit]]
    async with TestClient(app_asking_for(hint, is_stream=True)) as client:
        assert [item.payload async for item in client.stream("run")] == [1]


async def test_a_hook_without_a_message_cannot_open_scopes_with_one() -> None:
    app = app_with(CommandGroup())

    @app.on_startup
    async def startup(new_scope: ScopeFactory[Message]) -> None: ...

    with pytest.raises(ConfigurationError, match=r"`ScopeFactory\[Message\]` -> `Message`: "):
        async with TestClient(app):
            pass


# Apps that an ASGI host has to start


class Pool: ...


class UsesPool:
    def __init__(self, pool: Pool) -> None: ...


class StartsTasks:
    def __init__(self, tasks: AppTasks) -> None: ...


async def pool() -> AsyncIterator[Pool]:
    yield Pool()


@pytest.mark.parametrize(
    "hint, needs", [(UsesPool, True), (StartsTasks, True), (tuple[Db, UsesPool], True), (Db, False)]
)
async def test_a_host_has_to_start_what_only_the_scopes_of_a_factory_need(
    hint: Any, needs: bool
) -> None:
    group = CommandGroup()

    async def run(socket: Socket, *, new_scope: Any) -> None: ...

    run.__annotations__["new_scope"] = ScopeFactory[hint]
    group.command("run")(run)
    app = app_with(group)
    things = Provider(scope=Scope.REQUEST)
    for thing in (Db, UsesPool, StartsTasks):
        things.provide(thing)
    things.provide(pool, scope=Scope.APP)
    container = make_async_container(
        SecurityProvider(), things, *app.providers, lock_factory=lock_factory
    )
    setup_dishka(container, app)
    assert app._definition.needs_lifespan(app._values(app._limits)) is needs
    await container.close()


# The user -----------------------------------------------------------------------------------------


@pytest.fixture
def users(journal: list[str]) -> WebSuckets:
    """An app with users, whose commands open scopes."""
    group = CommandGroup()
    things = Provider(scope=Scope.REQUEST)
    things.provide(Db)

    @group.command("login")
    async def login(socket: Socket, *, user: User) -> None:
        user.id, user.token = 7, "secret"

    @group.command("run", protected=True)
    async def run(
        socket: Socket, *, user: CurrentUser, new_scope: ScopeFactory[tuple[CurrentUser, Message]]
    ) -> bool:
        async with new_scope() as (same, message):
            return same is user and message.token == "secret"

    @group.command("run open")
    async def run_open(
        socket: Socket,
        *,
        new_scope: ScopeFactory[CurrentUser],
        maybe: ScopeFactory[CurrentUser | None],
    ) -> Any:
        async with maybe() as somebody:
            if somebody is None:
                return None
        async with new_scope() as user:
            return user.id

    @group.command("revoke", protected=True)
    async def revoke(
        socket: Socket, *, user: CurrentUser, session: Session, new_scope: ScopeFactory[Db]
    ) -> None:
        await session.revoke(user.id)
        with pytest.raises(NotAuthorized):
            async with new_scope():
                pass
        journal.append("refused")

    @group.command("logout", protected=True)
    async def logout(
        socket: Socket,
        *,
        user: CurrentUser,
        db: ScopeFactory[Db],
        again: ScopeFactory[CurrentUser],
    ) -> str:
        user.id = None
        async with db():  # to record the log-out
            pass
        with pytest.raises(NotAuthorized):
            async with again():
                pass
        return "logged out"

    return app_with(group, providers=[things])


async def test_a_scope_has_the_message_and_the_very_user_of_the_command(users: WebSuckets) -> None:
    async with TestClient(users, token="secret") as client:
        assert (await client.call("run open")).payload is None
        await client.call("login", token="")
        assert (await client.call("run")).payload is True
        assert (await client.call("run open")).payload == 7
        assert (await client.call("run open", token="")).payload is None


async def test_no_scope_is_opened_for_a_user_who_is_not_verified_any_more(
    users: WebSuckets, journal: list[str]
) -> None:
    async with TestClient(users, token="secret") as client:
        await client.call("login", token="")
        await client.send("revoke")
        await until(journal, "refused")
    async with TestClient(users, token="secret") as client:
        await client.call("login", token="")
        assert (await client.call("logout")).payload == "logged out"


async def test_an_object_of_a_connection_opens_scopes_with_the_user_of_its_handshake() -> None:
    async def authenticate() -> Identity:
        return Identity(7)

    of_connection = Provider(scope=Scope.SESSION)
    of_connection.provide(NeedsUser)
    group = CommandGroup()

    @group.command("run")
    async def run(socket: Socket, *, it: NeedsUser) -> int:
        async with it.new_scope() as user:
            assert user.socket is socket
            return int(user.id)

    providers = [of_connection, HandshakeSecurityProvider(authenticate)]
    async with TestClient(app_with(group, providers=providers, origins=[None])) as client:
        assert (await client.call("run")).payload == 7
