"""Tests of guards, and of what is built for which user: every combination of protections."""

import itertools
import logging
from typing import Annotated, Any

import pytest
from dishka import AnyOf, FromComponent, Provider, Scope, provide
from harness import Client, app_with, dial, talk
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, Message
from websuckets.di import FromDishka
from websuckets.exc import ClientError, InvalidGuard, NotAuthorized
from websuckets.security import CurrentUser, SecurityProvider, Token
from websuckets.session import User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio
heavy = pytest.mark.heavy


class Editor: ...


class Admin: ...


class Service: ...


class Account: ...


class Building(Provider):
    """A provider that records what is built; the roles of a user are an attribute."""

    scope = Scope.REQUEST

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide
    def user(self, message: Message, user: User) -> CurrentUser:
        self.journal.append("user")
        return SecurityProvider().current_user(message, user)

    @provide
    def editor(self, user: CurrentUser) -> Editor:
        self.journal.append("editor")
        if "editor" not in user.roles:
            raise NotAuthorized
        return Editor()

    @provide
    def admin(self, user: CurrentUser) -> Admin:
        self.journal.append("admin")
        if "admin" not in user.roles:
            raise ClientError("admins only")
        return Admin()

    @provide
    def service(self) -> Service:
        self.journal.append("service")
        return Service()

    @provide
    def account(self, user: CurrentUser) -> Account:
        self.journal.append("account")
        return Account()


ABSENT = None
ASKS: dict[str, Any] = {
    "nothing": None,
    "Service": Service,
    "CurrentUser": CurrentUser,
    "FromDishka[CurrentUser]": FromDishka[CurrentUser],
    "CurrentUser | None": CurrentUser | None,
    "Account": Account,
}
# Protection of the group, protection of the command, and the guards that follow from both.
PROTECTIONS: list[tuple[Any, Any, str]] = [
    (ABSENT, ABSENT, ""),
    (ABSENT, True, "user"),
    (ABSENT, False, ""),
    (ABSENT, Admin, "user admin"),
    (False, ABSENT, ""),
    (False, True, "user"),
    (False, False, ""),
    (False, Admin, "user admin"),
    (True, ABSENT, "user"),
    (True, True, "user"),
    (True, False, ""),
    (True, Admin, "user admin"),
    (Editor, ABSENT, "user editor"),
    (Editor, True, "user editor"),
    (Editor, False, ""),
    (Editor, Admin, "user editor admin"),
    (Editor, Editor, "user editor"),
    (CurrentUser, CurrentUser, "user"),
]
# The users who may pass each guard.
CALLERS = {
    "stranger": set(),
    "user": {"user"},
    "editor": {"user", "editor"},
    "admin": {"user", "admin"},
    "chief": {"user", "editor", "admin"},
}
REFUSALS = {"user": "not authorized", "editor": "not authorized", "admin": "admins only"}


def command_group(journal: list[str], group: Any, command: Any, asked: Any) -> CommandGroup:
    commands = CommandGroup(protected=group)

    async def without(socket: ServerConnection) -> str:
        journal.append("handler")
        return "in"

    async def with_dependency(socket: ServerConnection, *, asked: Any) -> str:
        journal.append("handler")
        return "in"

    handler: Any = without
    if asked is not None:
        handler = with_dependency
        handler.__annotations__["asked"] = asked
    if command is ABSENT:
        commands.command("enter")(handler)
    else:
        commands.command("enter", protected=command)(handler)

    return commands


def login_group() -> CommandGroup:
    group = CommandGroup("login")

    @group.command("as")
    async def login(socket: ServerConnection, *, user: User, message: Message) -> None:
        user.id, user.token = 1, "secret"
        user.roles = str(message.token).split()

    return group


async def login(client: Client, caller: str) -> None:
    if caller != "stranger":
        await client.call("login as", token=" ".join(CALLERS[caller]), id=0)


def expected(guards: list[str], asked: str, caller: str) -> tuple[list[str], str]:
    """Return what is built, in order, and the answer."""
    if "CurrentUser" in asked and "None" not in asked and "user" not in guards:
        guards = ["user", *guards]
    built = []
    for guard in guards:
        built.append(guard)
        if guard not in CALLERS[caller]:
            return built, REFUSALS[guard]
    if asked == "Account" and "user" not in built:
        built.append("user")
        if caller == "stranger":
            return built, REFUSALS["user"]
    if asked == "CurrentUser | None" and "user" not in built:
        built.append("user")
    built += {"Service": ["service"], "Account": ["account"]}.get(asked, [])
    return [*built, "handler"], "in"


@pytest.mark.parametrize("anyio_backend", ["asyncio", pytest.param("trio", marks=heavy)])
@pytest.mark.parametrize(
    ("protection", "asked"),
    list(itertools.product(PROTECTIONS, ASKS)),
    ids=lambda value: str(value)[:60],
)
async def test_who_gets_in_and_what_is_built(
    journal: list[str], protection: tuple[Any, Any, str], asked: str
) -> None:
    """Expect guards first, in their order; nothing but guards is built for a refused user."""
    group, command, guards = protection
    if command is False and asked in ("CurrentUser", "FromDishka[CurrentUser]"):
        with pytest.raises(InvalidGuard, match="protected=False opens it"):
            command_group(journal, group, command, ASKS[asked])
        return
    app = app_with(
        command_group(journal, group, command, ASKS[asked]),
        login_group(),
        providers=[Building(journal)],
    )
    async with app.serve("127.0.0.1", 0) as server:
        for caller in CALLERS:
            async with dial(server) as client:
                await login(client, caller)
                journal.clear()
                built, answer = expected(guards.split(), asked, caller)
                reply = await client.call("enter", token="secret")
                assert (reply.get("error") or reply["payload"]) == answer, caller
                assert journal == built, caller


@pytest.mark.parametrize(
    ("user_id", "user_token", "sent", "verified"),
    [
        (1, "secret", "secret", True),
        (0, "secret", "secret", True),
        ("", "secret", "secret", True),
        (1, "ключ-ü", "ключ-ü", True),
        (1, "secret", "Secret", False),
        (1, "secret", "secre", False),
        (1, "secret", "", False),
        (1, "secret", None, False),
        (1, "", "", False),
        (1, None, "secret", False),
        (1, None, None, False),
        (1, None, "None", False),
        (None, "secret", "secret", False),
    ],
)
async def test_the_default_security(
    user_id: Any, user_token: str | None, sent: str | None, verified: bool
) -> None:
    """Expect a user with an id, whose token the message carries; every other user is refused."""
    group = CommandGroup()

    @group.command("be")
    async def be(socket: ServerConnection, *, user: User) -> None:
        user.id, user.token = user_id, user_token

    @group.command("enter", protected=True)
    async def enter(socket: ServerConnection) -> str:
        return "in"

    @group.command("who", protected=False)
    async def who(socket: ServerConnection, *, user: CurrentUser | None) -> bool:
        return user is not None

    async with talk(app_with(group)) as client:
        await client.call("be", id=0)
        reply = await client.call("enter", token=sent)
        assert reply.get("payload") == ("in" if verified else None)
        assert reply.get("error") == (None if verified else "not authorized")
        assert (await client.call("who", token=sent))["payload"] is verified


async def test_a_provider_of_current_user_replaces_the_security() -> None:
    """Expect any provider that builds CurrentUser to be the security."""
    group = CommandGroup(protected=True)

    @group.command("name")
    async def name(socket: ServerConnection, *, user: CurrentUser) -> str:
        return str(user.name)

    def by_magic_word(message: Message, user: User) -> CurrentUser:
        if message.token != "please":
            raise NotAuthorized
        user.name = "anybody"
        return CurrentUser(user)

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(by_magic_word)
    async with talk(app_with(group, providers=[provider])) as client:
        assert (await client.call("name"))["error"] == "not authorized"
        assert (await client.call("name", token="please"))["payload"] == "anybody"


async def test_the_user_may_stand_anywhere() -> None:
    """Expect guards to be built first, and the user to be passed where a parameter asks for it."""

    class First: ...

    class Last: ...

    group = CommandGroup()

    @group.command("be")
    async def be(socket: ServerConnection, *, user: User) -> None:
        user.id, user.token = 1, Token("secret")

    @group.command("order")
    async def order(
        socket: ServerConnection, *, first: First, user: CurrentUser, last: Last
    ) -> list[bool]:
        return [isinstance(first, First), isinstance(user, User), isinstance(last, Last)]

    provider = Provider(scope=Scope.REQUEST)
    provider.provide_all(First, Last)
    async with talk(app_with(group, providers=[SecurityProvider(), provider])) as client:
        await client.call("be", id=0)
        assert (await client.call("order", token="secret"))["payload"] == [True, True, True]


async def test_a_guard_may_stand_in_a_component_or_behind_an_alias(journal: list[str]) -> None:
    """Expect anything that dishka can resolve in a REQUEST scope to work as a guard."""

    class Billing: ...

    class Alias: ...

    group = CommandGroup()

    @group.command("component", protected=Annotated[Billing, FromComponent("billing")])
    async def component(socket: ServerConnection) -> str:
        return "in"

    @group.command("alias", protected=Alias)
    async def alias(socket: ServerConnection) -> str:
        return "in"

    def refuse() -> Billing:
        raise ClientError("no bill")

    def both() -> AnyOf[Alias, Service]:
        raise ClientError("no alias")

    billing = Provider(scope=Scope.REQUEST, component="billing")
    billing.provide(refuse)
    aliases = Provider(scope=Scope.REQUEST)
    aliases.provide(both)
    app = app_with(group, login_group(), providers=[billing, aliases])
    async with talk(app) as client:
        await login(client, "user")
        assert (await client.call("component", token="secret"))["error"] == "no bill"
        assert (await client.call("alias", token="secret"))["error"] == "no alias"


async def test_refusals_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Expect refusals in the log without tokens, and no other errors for clients."""
    caplog.set_level(logging.INFO, logger="websuckets")
    group = CommandGroup()

    @group.command("secret", protected=True)
    async def secret(socket: ServerConnection) -> None: ...

    @group.command("refuse")
    async def refuse(socket: ServerConnection) -> None:
        raise ClientError("refused")

    async with TestClient(app_with(group)) as client:
        for command in ("secret", "refuse"):
            await client.send(command, token="canary")
            with pytest.raises(CommandError):
                await client.receive()
        messages = [record.getMessage() for record in caplog.records]
        assert [message for message in messages if "authorized" in message] == [
            f"not authorized: 'secret' from {client.socket.id}"
        ]
    assert "canary" not in caplog.text
