"""Tests of what a command may do as its authorised user, and of what ends with that user."""

import copy
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope
from harness import Gate, app_with, dial, until
from serving import Serving
from websockets.http11 import Request

from websuckets import ClientEvent, CommandGroup, Limits, Message, Payload, Socket, WebSuckets
from websuckets.channels import Channels
from websuckets.exc import NotAuthorized, Unavailable
from websuckets.resuming import ResumeProvider
from websuckets.runtime.revocations import REMEMBERED, Revocations
from websuckets.security import CurrentUser, HandshakeSecurityProvider, Identity, resumed_user
from websuckets.session import Session, User
from websuckets.store import MemorySessionStore, Record, key_of
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Commands(CommandGroup):
    """An app's commands, and a record of what they did."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.gate = Gate()
        self.journal = journal
        self.seen: list[Any] = []
        self.command("enter")(self.enter)
        self.command("leave", protected=True)(self.leave)
        self.command("whoami", protected=True)(self.whoami)
        self.command("feed", protected=True)(self.feed)
        self.command("public feed")(self.public_feed)
        self.command("slow login")(self.slow_login)
        self.command("log in here alone")(self.log_in_here_alone)
        self.command("slow", protected=True)(self.slow)
        self.command("revoke")(self.revoke)
        self.command("forget", protected=True)(self.forget)
        self.command("join")(self.join)
        self.command("join slowly", protected=True)(self.join_slowly)
        self.command("members")(self.members)
        self.command("publish")(self.publish)

    async def enter(self, socket: Socket, name: Payload[str | None], user: User) -> None:
        user.id = name
        user.token = None if name is None else f"secret of {name}"

    async def leave(self, socket: Socket, *, user: CurrentUser) -> None:
        user.id = None

    async def whoami(self, socket: Socket, *, user: CurrentUser) -> Any:
        return user.id

    async def feed(self, socket: Socket, *, user: CurrentUser) -> AsyncIterator[Any]:
        try:
            yield user.id
            await anyio.sleep_forever()
        finally:
            self.journal.append("left")

    async def public_feed(self, socket: Socket) -> AsyncIterator[int]:
        yield 1
        await self.gate()
        yield 2

    async def slow_login(self, socket: Socket, name: Payload[str], user: User) -> str:
        await self.gate()
        user.id = name
        return "entered"

    async def log_in_here_alone(
        self, socket: Socket, name: Payload[str], user: User, session: Session
    ) -> None:
        await session.revoke(name)
        user.id = name
        user.token = f"secret of {name}"

    async def slow(self, socket: Socket, *, user: CurrentUser) -> list[Any]:
        await self.gate()
        self.seen.append(user)
        return [user.id, user.token]

    async def revoke(self, socket: Socket, name: Payload[str], session: Session) -> None:
        await session.revoke(name)

    async def forget(self, socket: Socket, *, user: CurrentUser, session: Session) -> None:
        await session.forget(user)

    async def join(
        self, socket: Socket, what: Payload[tuple[str, bool]], channels: Channels
    ) -> None:
        await channels.subscribe(socket, what[0], public=what[1])

    async def join_slowly(
        self, socket: Socket, channel: Payload[str], channels: Channels, user: CurrentUser
    ) -> None:
        await self.gate()
        await channels.subscribe(socket, channel)

    async def members(self, socket: Socket, channel: Payload[str], channels: Channels) -> list[str]:
        return sorted(map(str, await channels.members(channel)))

    async def publish(self, socket: Socket, channel: Payload[str], channels: Channels) -> None:
        await channels.publish(channel, ClientEvent("published", channel))


@pytest.fixture
def commands(journal: list[str]) -> Commands:
    return Commands(journal)


@pytest.fixture
def app(commands: Commands) -> WebSuckets:
    return app_with(commands)


async def ann_of(client: TestClient, name: str = "ann") -> None:
    await client.call("enter", name)


REFUSED = {"error": "not authorized", "details": None, "id": "f"}


@pytest.mark.parametrize("how", ["leaves", "another enters"])
async def test_a_protected_stream_ends_when_its_user_is_not_verified_any_more(
    serving: Serving, app: WebSuckets, journal: list[str], how: str
) -> None:
    """Expect an error as the last reply, and the handler finalised; the connection goes on."""
    async with serving(app) as server, dial(server) as client:
        await client.call("enter", payload="ann", id=1)
        await client.send("feed", token="secret of ann", id="f")
        assert (await client.receive())["payload"] == "ann"
        if how == "leaves":
            await client.send("leave", token="secret of ann", id=2)
        else:
            await client.send("enter", payload="bob", id=2)
        replies = [await client.receive(), await client.receive()]
        assert REFUSED in replies
        await until(journal, "left")
        assert (await client.call("enter", payload="ann", id=3))["id"] == 3


async def test_a_stream_without_an_id_is_told_too(app: WebSuckets) -> None:
    """Expect the error with and without an id."""
    async with TestClient(app) as client:
        await ann_of(client)
        await client.send("feed", token="secret of ann")
        assert (await client.receive()).payload == "ann"
        await client.call("leave", token="secret of ann")
        with pytest.raises(CommandError, match="not authorized"):
            await client.receive()


async def test_a_stream_ends_when_the_time_of_its_user_is_over(
    serving: Serving, app: WebSuckets, commands: Commands, journal: list[str]
) -> None:
    """Expect the end also while a command runs, for which closing the connection waits."""

    @commands.command("expire soon")
    async def expire_soon(socket: Socket, *, user: User) -> None:
        user.expires_at = time.time() + 0.05

    @commands.command("wait")
    async def wait(socket: Socket) -> str:
        await commands.gate()
        return "waited"

    async with serving(app) as server, dial(server) as client:
        await client.call("enter", payload="ann", id=1)
        await client.send("feed", token="secret of ann", id="f")
        await client.receive()
        await client.call("expire soon", id=2)
        await client.send("wait", id=3)
        assert await client.receive() == REFUSED
        await until(journal, "left")
        commands.gate.opened.set()
        assert (await client.receive())["payload"] == "waited"
        assert (await client.closed())[0] == 4401


async def test_a_stream_that_needs_no_user_goes_on(app: WebSuckets, commands: Commands) -> None:
    """Log out the user of the connection while the stream runs."""
    async with TestClient(app) as client:
        await ann_of(client)
        await client.send("public feed", id="p")
        assert (await client.receive()).payload == 1
        await client.call("leave", token="secret of ann")
        commands.gate.opened.set()
        assert (await client.receive()).payload == 2


async def test_a_command_goes_on_as_the_user_that_it_was_authorised_as(commands: Commands) -> None:
    """Expect the command to keep its user when another user is verified on the connection."""
    app = app_with(commands, limits=Limits(concurrency=2))
    async with TestClient(app) as client:
        await ann_of(client)
        await client.send("slow", token="secret of ann", id=1)
        await commands.gate.reached.wait()
        await ann_of(client, "bob")
        commands.gate.opened.set()
        assert (await client.receive()).payload == ["ann", "secret of ann"]
        (user,) = commands.seen
        with pytest.raises(NotAuthorized):
            user.id = "carl"
        with pytest.raises(NotAuthorized):
            user.token = "another"
        with pytest.raises(NotAuthorized):
            user.expires_at = 1
        user.id = None  # the verification is over already: bob stays
        assert user.id is None
        assert (await client.call("whoami", token="secret of bob")).payload == "bob"


class Checked:
    """A guard that takes some time."""


@pytest.mark.parametrize("event", ["checked", "checked feed"])
async def test_a_user_who_changes_while_guards_are_checked_is_refused(event: str) -> None:
    """Expect the handler not to begin: a guard that passed before is not valid any more."""
    gate, ran = Gate(), list[str]()

    async def checked(user: CurrentUser) -> Checked:
        await gate()
        return Checked()

    guards = Provider(scope=Scope.REQUEST)
    guards.provide(checked)
    commands = Commands([])

    @commands.command("checked", protected=Checked)
    async def command(socket: Socket) -> None:
        ran.append("command")

    @commands.command("checked feed", protected=Checked)
    async def feed(socket: Socket) -> AsyncIterator[int]:
        ran.append("feed")
        yield 1

    app = app_with(commands, providers=[guards], limits=Limits(concurrency=2))
    async with TestClient(app) as client:
        await ann_of(client)
        await client.send(event, token="secret of ann", id=1)
        await gate.reached.wait()
        user = app._session.online[client.socket.id]
        user.id = "bob"
        gate.opened.set()
        with pytest.raises(CommandError, match="not authorized"):
            await client.receive()
    assert ran == []


async def test_a_revoked_users_command_goes_on_but_can_save_nothing(journal: list[str]) -> None:
    """Expect the command, authorised when it began, to go on; the token stays revoked."""
    commands = Commands(journal)
    app = app_with(commands, providers=[ResumeProvider()])
    async with TestClient(app) as client, client.connect() as admin:
        await ann_of(client)
        await client.send("slow", token="secret of ann", id=1)
        await commands.gate.reached.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(admin.call, "revoke", "ann")
            await client.wait_closed()
            commands.gate.opened.set()
        while not commands.seen:
            await anyio.sleep(0.001)
        (user,) = commands.seen
        assert user.id == "ann"
        with pytest.raises(NotAuthorized):
            await app._session.save(user)


async def test_the_current_user_is_the_connections_user(app: WebSuckets) -> None:
    """Expect both to be equal, and attributes set on one to be there on the other."""
    async with TestClient(app) as client:
        record = app._session.online[client.socket.id]
        record.id, record.token, record.login = "ann", "old", "Ann"
        user = CurrentUser(record)
        assert CurrentUser(user) == user == record == user
        assert {record} == {user}
        assert user != object()
        assert repr(user) == f"CurrentUser(socket={client.socket.id}, id='ann')"
        assert (user.id, user.token, user.expires_at, user.login) == ("ann", "old", None, "Ann")
        user.token, user.expires_at, user.login = "new", 4e9, "Anna"
        assert (record.token, record.expires_at, record.login) == ("new", 4e9, "Anna")
        assert (user.token, user.expires_at, user.has_expired) == ("new", 4e9, False)
        del user.login
        with pytest.raises(AttributeError, match="login"):
            _ = user.login
        user.id = "bob"
        assert (record.id, user.id, user.token) == ("bob", "bob", None)
        user.token = "bob's"
        assert record.token == "bob's"


async def test_a_current_user_can_be_made_of_another_and_copied(app: WebSuckets) -> None:
    """Expect the values to stay those of the time when each was made."""
    async with TestClient(app) as client:
        record = app._session.online[client.socket.id]
        record.id, record.token = "ann", "token"
        first = CurrentUser(record)
        second = await resumed_user(Message("event", token="token"), first, app._session)
        third = copy.copy(second)
        assert {first} == {second} == {third} == {record}
        second.id = "bob"
        assert (first.id, second.id, third.id, record.id) == ("ann", "bob", "ann", "bob")
        assert (first.token, third.token, record.token) == ("token", "token", None)


class Slotted:
    __slots__ = ("kept",)


class NamedUser(CurrentUser, Slotted):
    """A user of a program, who has a place for a value of its own."""


async def test_a_current_user_may_have_another_base(app: WebSuckets) -> None:
    async with TestClient(app) as client:
        record = app._session.online[client.socket.id]
        record.id = "ann"
        assert NamedUser(record).id == "ann"


async def test_subscriptions_end_with_their_user(app: WebSuckets) -> None:
    """Expect public subscriptions, and those made while nobody was verified, to stay."""
    async with TestClient(app) as client, client.connect() as other:
        await client.call("join", ["before", False])
        await ann_of(client)
        for channel, public in (("private", False), ("public", True), ("made public", False)):
            await client.call("join", [channel, public])
        await client.call("join", ["made public", True])
        await client.call("join", ["before", False])
        assert (await other.call("members", "private")).payload == ["ann"]
        await ann_of(client, "bob")
        for channel in ("private", "before", "public", "made public"):
            await other.call("publish", channel)
        received = [(await client.receive()).payload for _ in range(3)]
        assert received == ["before", "public", "made public"]
        assert (await other.call("members", "private")).payload == []
        assert (await other.call("members", "public")).payload == ["bob"]
        assert repr(app._channels) == "Channels(3)"


async def test_a_command_whose_user_is_gone_cannot_subscribe(commands: Commands) -> None:
    """Expect an error: the next user of the connection must not get data of the first."""
    app = app_with(commands, limits=Limits(concurrency=2))
    async with TestClient(app) as client:
        await ann_of(client)
        await client.send("join slowly", "private", token="secret of ann", id=1)
        await commands.gate.reached.wait()
        await ann_of(client, "bob")
        commands.gate.opened.set()
        with pytest.raises(CommandError, match="not authorized"):
            await client.receive()
        await client.call("join", ["open", False])
        assert (await client.call("members", "open")).payload == ["bob"]
        await client.call("join slowly", "private", token="secret of bob")
        assert (await client.call("members", "private")).payload == ["bob"]


async def test_a_login_that_began_before_a_revocation_does_not_undo_it(
    app: WebSuckets, commands: Commands
) -> None:
    """Refuse it, for its data may be older; accept a login that begins afterwards."""
    async with TestClient(app) as client, client.connect() as admin:
        await client.send("slow login", "ann", id=1)
        await commands.gate.reached.wait()
        await admin.call("revoke", "ann")
        commands.gate.opened.set()
        with pytest.raises(CommandError, match="not authorized"):
            await client.receive()
        assert app._session.verified == {}
        assert (await client.call("slow login", "ann")).payload == "entered"


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_login_beside_what_runs_for_long_is_not_taken_for_older(
    journal: list[str], concurrency: int
) -> None:
    """Expect a login that began after the revocation to pass, and one that began before to fail."""
    commands = Commands(journal)
    app = app_with(commands, limits=Limits(concurrency=concurrency))
    async with TestClient(app) as client, client.connect() as admin:
        await client.send("public feed", id="p")
        assert (await client.receive()).payload == 1
        if concurrency > 1:
            await client.send("slow login", "ann", id=1)
            await commands.gate.reached.wait()
        await admin.call("revoke", "ann")
        await client.call("enter", "ann")
        assert (await client.call("whoami", token="secret of ann")).payload == "ann"
        await client.call("leave", token="secret of ann")
        commands.gate.opened.set()
        if concurrency > 1:
            with pytest.raises(CommandError, match="not authorized"):
                while (await client.receive()).id == "p":
                    pass


async def test_a_login_may_revoke_what_was_before(app: WebSuckets) -> None:
    """Expect the user to be verified here, and demoted on every other connection."""
    async with TestClient(app) as client, client.connect() as elsewhere:
        await ann_of(elsewhere)
        await client.call("log in here alone", "ann")
        assert elsewhere.close_code == 4401
        assert (await client.call("whoami", token="secret of ann")).payload == "ann"


async def test_a_connection_that_waits_may_be_verified_by_another(app: WebSuckets) -> None:
    """Expect the verification to pass: no data on this connection is older than the revocation."""
    async with TestClient(app) as client, client.connect() as admin:
        await admin.call("revoke", "ann")
        user = app._session.online[client.socket.id]
        user.id, user.token = "ann", "secret"
        assert (await client.call("whoami", token="secret")).payload == "ann"


@pytest.mark.parametrize("by", ["identity", "hook"])
async def test_who_is_revoked_during_the_handshake_enters_unverified(
    serving: Serving, commands: Commands, by: str
) -> None:
    """Expect nobody to be verified by an identity found before; a program's hook gets the error."""
    refusals: list[str] = []

    async def authenticate(request: Request) -> Identity | None:
        if request.headers.get("X-User") is None:
            return None
        await commands.gate()
        return Identity("ann")

    provider = HandshakeSecurityProvider(authenticate)
    app = app_with(commands, providers=[provider] if by == "identity" else [], origins=[None])

    @app.on_handshake
    async def verify(request: Request, user: User) -> None:
        if by == "hook" and request.headers.get("X-User") is not None:
            await commands.gate()
            try:
                user.id = "ann"
            except NotAuthorized:
                refusals.append("refused")

    async with serving(app) as server, dial(server) as admin:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(revoke_when_reached, commands.gate, admin)
            async with dial(server, additional_headers={"X-User": "ann"}) as client:
                assert (await client.call("whoami", id=1))["error"] == "not authorized"
    assert refusals == ([] if by == "identity" else ["refused"])


async def revoke_when_reached(gate: Gate, admin: Any) -> None:
    await gate.reached.wait()
    await admin.call("revoke", payload="ann", id=1)
    gate.opened.set()


class SlowStore(MemorySessionStore):
    """A store that waits before each removal, or is away."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.is_away = False

    async def _pass(self) -> None:
        if self.is_away:
            raise Unavailable
        await self.gate()

    async def revoke(self, user_id: str | int) -> None:
        await self._pass()
        await super().revoke(user_id)

    async def delete(self, key: str, user_id: str | int) -> None:
        await self._pass()
        await super().delete(key, user_id)


ANN = "secret of ann"


@pytest.mark.parametrize("command", ["revoke", "forget"])
async def test_a_slow_store_delays_no_revocation(commands: Commands, command: str) -> None:
    """Expect the token to be invalid from the call on, here and on a new connection."""
    store = SlowStore()
    app = app_with(commands, providers=[ResumeProvider(store)])
    async with TestClient(app) as client, client.connect() as other:
        for token in (ANN, "another"):
            await store.save(key_of(token), Record("ann" if token == ANN else "bob"))
        assert (await client.call("whoami", token=ANN)).payload == "ann"
        if command == "forget":
            assert (await other.call("whoami", token=ANN)).payload == "ann"
        async with anyio.create_task_group() as tasks:
            if command == "forget":
                tasks.start_soon(client.call, "forget", None, ANN)
            else:
                tasks.start_soon(other.call, "revoke", "ann")
            await store.gate.reached.wait()
            async with client.connect() as again:
                with pytest.raises(CommandError, match="not authorized"):
                    await again.call("whoami", token=ANN)
                assert (await again.call("whoami", token="another")).payload == "bob"
            if command == "forget":
                with pytest.raises(CommandError, match="not authorized"):
                    await other.call("whoami", token=ANN)
            store.gate.opened.set()
        async with client.connect() as again:
            with pytest.raises(CommandError, match="not authorized"):
                await again.call("whoami", token=ANN)


@pytest.mark.parametrize("command", ["revoke", "forget"])
async def test_what_an_absent_store_could_not_remove_is_removed_later(
    commands: Commands, command: str
) -> None:
    """Expect an error for the caller, no resuming here, and the removal once the store is back."""
    store = SlowStore()
    app = app_with(commands, providers=[ResumeProvider(store)], limits=Limits(revocation_lag=0.2))
    async with TestClient(app) as admin, admin.connect() as client:
        await store.save(key_of(ANN), Record("ann"))
        assert (await client.call("whoami", token=ANN)).payload == "ann"
        store.is_away = True
        user = app._session.online[client.socket.id]
        with pytest.raises(Unavailable):
            await (app._session.forget(user) if command == "forget" else app._session.revoke("ann"))
        async with admin.connect() as again:
            with pytest.raises(CommandError, match="not authorized"):
                await again.call("whoami", token=ANN)
        store.is_away = False
        store.gate.opened.set()
        with anyio.fail_after(10):
            while await store.load(key_of(ANN)) is not None:
                await anyio.sleep(0.001)


async def test_a_token_that_is_forgotten_while_its_record_is_read_is_not_good(
    commands: Commands,
) -> None:
    """Expect the token to be refused, though its record was read before."""
    loading = Gate()

    class SlowToLoad(MemorySessionStore):
        async def load(self, key: str) -> Record | None:
            record = await super().load(key)
            if not loading.opened.is_set():
                await loading()
            return record

    store = SlowToLoad()
    app = app_with(commands, providers=[ResumeProvider(store)])
    async with TestClient(app) as client, client.connect() as other:
        await store.save(key_of(ANN), Record("ann"))
        user = app._session.online[client.socket.id]
        user.id, user.token = "ann", ANN
        await other.send("whoami", token=ANN, id=1)
        await loading.reached.wait()
        await client.call("forget", token=ANN)
        loading.opened.set()
        with pytest.raises(CommandError, match="not authorized"):
            await other.receive()


def test_revocations_that_are_not_remembered_are_taken_for_later() -> None:
    """Expect a user whose revocation is not remembered to be refused: memory is bounded."""
    revocations = Revocations()
    revocations.add("ann")
    since = revocations.count
    assert not revocations.came_after(since, "ann")
    assert not revocations.came_after(since, "bob")
    revocations.add("ann")
    assert revocations.came_after(since, "ann")
    for number in range(REMEMBERED + 1):
        revocations.add(number)
    assert revocations.came_after(since, "bob")
    assert not revocations.came_after(revocations.count, "bob")
