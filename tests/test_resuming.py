"""Saved users resume with their tokens on any node until they are revoked."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import rooms
from harness import Gate, dial, errors
from redis_server import RedisServer
from serving import Serving
from stores import Stores
from timeouts import TIMEOUT

from websuckets import Limits
from websuckets.exc import NotAuthorized, Unavailable
from websuckets.redis import RedisProvider
from websuckets.resuming import ResumeProvider
from websuckets.session import User
from websuckets.store import MemorySessionStore, Record, key_of
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio

ANN = "secret of ann"


@asynccontextmanager
async def two_nodes(stores: Stores) -> AsyncIterator[tuple[TestClient, TestClient]]:
    one, two = (rooms.app(providers=stores.providers()) for _ in range(2))
    async with TestClient(one) as ann, TestClient(two) as other:
        yield ann, other


async def refused(client: TestClient, token: str, error: str = "not authorized") -> None:
    with pytest.raises(CommandError, match=error):
        await client.call("who am i", token=token)


async def test_a_saved_user_goes_on_with_its_token(stores: Stores) -> None:
    """A saved user resumes on another node, too, with its data; a user that was not saved does
    not."""
    async with two_nodes(stores) as (ann, other):
        await ann.call("enter", "ann")
        await refused(other, ANN)
        await ann.call("keep", {"role": "editor"})
        await ann.call("keep", {"rooms": [1]})
        assert (await ann.call("who am i", token=ANN)).payload == ["ann", "editor"]
        assert (await other.call("who am i", token=ANN)).payload == ["ann", "editor"]
        await refused(other, "another")
        async with ann.connect() as again:
            assert (await again.call("who am i", token=ANN)).payload == ["ann", "editor"]
            await again.call("keep", {"role": "reader"})
        async with other.connect() as again:
            assert (await again.call("who am i", token=ANN)).payload == ["ann", "reader"]


async def test_a_revoked_user_is_refused_everywhere(stores: Stores) -> None:
    """The user's connections on all nodes are closed, and its token is refused."""
    async with two_nodes(stores) as (first, other):
        async with first.connect() as ann, other.connect() as again, other.connect() as unsaved:
            await ann.call("enter", "ann")
            await ann.call("keep", {})
            await again.call("who am i", token=ANN)
            await unsaved.call("enter", "ann")
            await first.call("revoke", "ann")
            for client in (ann, again, unsaved):
                await client.wait_closed()
                assert (client.close_code, client.close_reason) == (4401, "revoked")
        for client in (first, other):
            await refused(client, ANN)
        await first.call("enter", "ann")
        await first.call("keep", {})
        assert await other.call("who am i", token=ANN)  # it may come back


async def test_who_leaves_for_good_is_forgotten(stores: Stores) -> None:
    """A token is refused everywhere after the program has forgotten it."""
    async with two_nodes(stores) as (ann, other):
        await ann.call("forget")  # the user has no id
        await ann.call("enter", "ann")
        await ann.call("keep", {})
        await ann.call("forget")
        for client in (ann, other):
            await refused(client, ANN)


async def test_a_forgotten_token_is_good_for_no_connection(stores: Stores) -> None:
    """Connections with the token are refused on every node, and the token is not saved again."""
    async with two_nodes(stores) as (ann, elsewhere), ann.connect() as beside:
        await ann.call("enter", "ann")
        await ann.call("keep", {})
        for client in (beside, elsewhere):
            await client.call("who am i", token=ANN)
        await ann.call("forget")
        await refused(beside, ANN)
        with anyio.fail_after(TIMEOUT):
            while await is_verified(elsewhere):
                await anyio.sleep(0.01)
        await refused(elsewhere, ANN)
        async with ann.connect() as newcomer:
            await refused(newcomer, ANN)


async def test_another_token_of_the_same_user_stays_good(stores: Stores) -> None:
    """Log out on one device, and go on with the others."""
    app = rooms.app(providers=stores.providers())
    async with TestClient(app) as phone, phone.connect() as laptop:
        for client, token in ((phone, "of the phone"), (laptop, ANN)):
            await client.call("enter", "ann")
            app._session.online[client.socket.id].token = token
            await client.call("keep", {})
        await phone.call("forget")
        await refused(phone, "of the phone")
        assert await is_verified(laptop)


async def is_verified(client: TestClient) -> bool:
    try:
        await client.call("who am i", token=ANN)
    except CommandError:
        return False
    return True


async def test_who_did_not_hear_that_its_token_is_forgotten_cannot_be_saved_again() -> None:
    """Nodes that are connected by the store alone find out on saving, and close the connection."""
    store = MemorySessionStore()
    one, two = (rooms.app(providers=[ResumeProvider(store)]) for _ in range(2))
    async with TestClient(one) as ann, TestClient(two) as unheard, unheard.connect() as newcomer:
        await ann.call("enter", "ann")
        await ann.call("keep", {})
        await unheard.call("who am i", token=ANN)
        await ann.call("forget")
        with pytest.raises(CommandError, match="not authorized"):
            await unheard.call("keep", {"role": "editor"})
        await unheard.wait_closed()
        assert (unheard.close_code, unheard.close_reason) == (4401, "revoked")
        await refused(newcomer, ANN)


@pytest.mark.parametrize("name", ["id", "socket", "_session", "has_expired", "token"])
async def test_only_what_a_user_can_be_given_is_saved(name: str) -> None:
    """A user's own attributes cannot be saved as data, and a user without an id or a token not at
    all."""
    app = rooms.app(providers=[ResumeProvider()])
    async with TestClient(app) as client:
        user = app._session.online[client.socket.id]
        with pytest.raises(ValueError, match="no id or no token"):
            await app._session.save(user)
        await client.call("enter", "ann")
        with pytest.raises(ValueError, match="of its own"):
            await app._session.save(user, **{name: 1})


async def test_attributes_that_a_user_has_itself_are_not_read_from_a_store() -> None:
    """A user's own attributes are ignored in a record, whoever wrote the record."""
    store = MemorySessionStore()
    await store.save(key_of(ANN), Record("ann", data={"socket": 1, "_id": 2, "role": "editor"}))
    async with TestClient(rooms.app(providers=[ResumeProvider(store)])) as client:
        assert (await client.call("who am i", token=ANN)).payload == ["ann", "editor"]


async def test_a_token_is_one_users() -> None:
    """A user is not saved under the token of another user."""
    app = rooms.app(providers=[ResumeProvider()])
    async with TestClient(app) as client:
        user = app._session.online[client.socket.id]
        for name in ("ann", "bob"):
            user.id = name
            user.token = ANN
            if name == "ann":
                await app._session.save(user)
        with pytest.raises(ValueError, match="another user"):
            await app._session.save(user)


async def test_an_app_without_a_store_keeps_nobody() -> None:
    """The error of an app without a store says what to write."""
    app = rooms.app()
    async with TestClient(app) as client:
        await client.call("enter", "ann")
        user = app._session.online[client.socket.id]
        for use in (app._session.save(user), app._session.forget(user)):
            with pytest.raises(RuntimeError, match="ResumeProvider"):
                await use
        with pytest.raises(RuntimeError, match="ResumeProvider"):
            await app._session.resume(user, ANN)


async def test_unknown_tokens_are_rate_limited(stores: Stores) -> None:
    """Count per address, over all connections; known users of the address go on."""
    limits = Limits(unknown_tokens=3)
    async with TestClient(rooms.app(providers=stores.providers(), limits=limits)) as client:
        await client.call("enter", "ann")
        await client.call("keep", {})
        for number in range(3):
            async with client.connect() as other:
                await refused(other, f"guess {number}")
        async with client.connect() as other:
            for number in range(3, 8):
                with pytest.raises(CommandError, match="rate limited") as caught:
                    await other.call("who am i", token=f"guess {number}")
                assert 1 <= caught.value.details["retry_after"] <= 60
            assert (await other.call("who am i", token=ANN)).payload == ["ann", None]


async def test_a_known_token_passes_on_every_transport_whoever_guesses(serving: Serving) -> None:
    """All clients have one address behind a proxy that is not declared."""
    limits = Limits(unknown_tokens=1)
    app = rooms.app(providers=[ResumeProvider()], limits=limits)
    async with serving(app) as server, dial(server) as ann:
        await ann.call("enter", payload="ann", id=1)
        await ann.call("keep", payload={}, id=1)
        async with dial(server) as guessing:
            told = [(await guessing.call("who am i", token=str(n)))["error"] for n in range(3)]
            assert told == ["not authorized", "rate limited", "rate limited"]
        async with dial(server) as again:
            assert (await again.call("who am i", token=ANN))["payload"] == ["ann", None]


async def test_who_guesses_on_is_closed() -> None:
    """The limit `auth_failures` holds for each connection, with the limit of tokens or past it."""
    limits = Limits(unknown_tokens=1, auth_failures=3)
    async with TestClient(rooms.app(providers=[ResumeProvider()], limits=limits)) as client:
        for number in range(3):
            with pytest.raises(CommandError):
                await client.call("who am i", token=str(number))
        await client.wait_closed()
        assert client.close_code == 4401


async def test_past_the_limit_tokens_are_looked_for_one_after_the_other() -> None:
    """A known token has its turn, and the store has no more than one load at once."""

    class Counting(MemorySessionStore):
        looking = most = 0

        async def load(self, key: str) -> Record | None:
            self.looking += 1
            self.most = max(self.most, self.looking)
            await anyio.sleep(0.001)
            self.looking -= 1
            return await super().load(key)

    store = Counting()
    await store.save(key_of(ANN), Record("ann"))
    app = rooms.app(providers=[ResumeProvider(store)], limits=Limits(unknown_tokens=0))

    async def call(client: TestClient, token: str, told: list[str]) -> None:
        async with client.connect() as other:
            try:
                told.append((await other.call("who am i", token=token)).payload[0])
            except CommandError as error:
                told.append(error.error)

    told: list[str] = []
    async with TestClient(app) as client, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(call, client, ANN if number == 5 else str(number), told)
    assert sorted(told) == ["ann"] + ["rate limited"] * 9
    assert store.most == 1


async def test_they_may_be_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown tokens may be tried again after a minute, or at any time without the limit."""
    monkeypatch.setattr("websuckets.resuming.MINUTE", 0.0)
    for limits in (Limits(unknown_tokens=1), Limits(unknown_tokens=None)):
        async with TestClient(rooms.app(providers=[ResumeProvider()], limits=limits)) as client:
            for number in range(5):
                await refused(client, f"guess {number}")


class Slow(MemorySessionStore):
    """A store that a test can stop in the middle of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate | None = None

    async def load(self, key: str) -> Record | None:
        record = await super().load(key)
        await self._pass()
        return record

    async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
        done = await super().save(key, record, again=again)
        await self._pass()
        return done

    async def _pass(self) -> None:
        if self.gate is not None:
            gate, self.gate = self.gate, None
            await gate()


async def test_who_is_revoked_while_its_record_is_read_does_not_go_on() -> None:
    """A revoked user is refused even if its record was read before the revocation."""
    store = Slow()
    async with TestClient(rooms.app(providers=[ResumeProvider(store)])) as client:
        await store.save(key_of(ANN), Record("ann"))
        gate = store.gate = Gate()
        async with client.connect() as ann, anyio.create_task_group() as tasks:
            tasks.start_soon(refused, ann, ANN)
            await gate.reached.wait()
            await client.call("revoke", "ann")
            gate.opened.set()


@pytest.mark.parametrize("before", [True, False])
async def test_who_is_revoked_while_it_is_saved_is_not(before: bool) -> None:
    """A user that is revoked while it is saved cannot resume, whether it had been saved before or
    not."""
    store = Slow()
    app = rooms.app(providers=[ResumeProvider(store)])
    async with TestClient(app) as client, client.connect() as ann:
        await ann.call("enter", "ann")
        user = app._session.online[ann.socket.id]
        if before:
            await app._session.save(user)
        gate = store.gate = Gate()

        async def save() -> None:
            with pytest.raises(NotAuthorized):
                await app._session.save(user, role="editor")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save)
            await gate.reached.wait()
            await client.call("revoke", "ann")
            gate.opened.set()
        await refused(client, ANN)


async def test_of_two_changes_at_once_none_is_lost() -> None:
    """The slower change is tried again, and adds to the other one."""
    store = Slow()
    app = rooms.app(providers=[ResumeProvider(store)])
    async with TestClient(app) as client:
        await client.call("enter", "ann")
        user = app._session.online[client.socket.id]
        gate = store.gate = Gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save_role, app._session, user)
            await gate.reached.wait()
            await app._session.save(user, rooms=[1])
            gate.opened.set()
        record = await store.load(key_of(ANN))
        assert record is not None
        assert record.data == {"role": "editor", "rooms": [1]}


async def save_role(session: Any, user: User) -> None:
    await session.save(user, role="editor")


async def test_two_messages_may_resume_at_once() -> None:
    """Two concurrent messages resume the same user."""
    store = Slow()
    await store.save(key_of(ANN), Record("ann"))
    limits = Limits(concurrency=2)
    app = rooms.app(providers=[ResumeProvider(store)], limits=limits)
    async with TestClient(app) as client:
        gate = store.gate = Gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, "who am i", None, ANN)
            await gate.reached.wait()
            assert (await client.call("who am i", token=ANN)).payload == ["ann", None]
            gate.opened.set()


async def test_a_verified_time_is_kept() -> None:
    """A resumed user expires at the time that was saved."""
    until = time.time() + 1000
    store = MemorySessionStore()
    await store.save(key_of(ANN), Record("ann", until))
    app = rooms.app(providers=[ResumeProvider(store)])
    async with TestClient(app) as client:
        await client.call("who am i", token=ANN)
        assert app._session.online[client.socket.id].expires_at == until


async def test_a_revocation_of_which_nobody_was_told_is_found() -> None:
    """A revocation that no node announced is found within the lag."""
    looks: list[int] = []

    class Watched(MemorySessionStore):
        async def revocations(self) -> int:
            looks.append(await super().revocations())
            return looks[-1]

    store = Watched()
    app = rooms.app(providers=[ResumeProvider(store)], limits=Limits(revocation_lag=0.2))
    async with TestClient(app) as client, client.connect() as bob:
        await client.call("enter", "ann")
        await client.call("keep", {})
        await bob.call("enter", "bob")
        await bob.call("keep", {})
        with anyio.fail_after(TIMEOUT):
            while len(looks) < 3:
                await anyio.sleep(0.01)
        await store.revoke("ann")
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4401, "revoked")
        assert await bob.call("who am i", token="secret of bob")


class Failing(MemorySessionStore):
    """A store that fails on demand."""

    error: Callable[[], Exception] | None = None

    async def revocations(self) -> int:
        if self.error is not None:
            raise self.error()
        return await super().revocations()


@pytest.mark.parametrize("error", [Unavailable, TimeoutError, OSError])
async def test_who_cannot_be_known_to_be_verified_has_to_go(
    error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """A saved user is closed after the lag, with a code that says to reconnect."""
    store = Failing()
    app = rooms.app(providers=[ResumeProvider(store)], limits=Limits(revocation_lag=0.2))
    async with TestClient(app) as client, client.connect() as unsaved:
        await client.call("enter", "ann")
        await client.call("keep", {})
        await unsaved.call("enter", "bob")
        store.error = error
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (1013, "sessions unavailable")
        assert (await unsaved.call("who am i", token="secret of bob")).payload == ["bob", None]
    assert bool(errors(caplog)) == (error is OSError)


async def test_who_was_revoked_while_its_node_was_cut_off_is_not_saved_again() -> None:
    """Saving a revoked user is refused, as it would hide the revocation from other connections."""
    store = MemorySessionStore()
    app = rooms.app(providers=[ResumeProvider(store)])
    async with TestClient(app) as ann, ann.connect() as other:
        await ann.call("enter", "ann")
        await ann.call("keep", {})
        await store.revoke("ann")  # by a node that could not tell this one
        with pytest.raises(CommandError, match="not authorized"):
            await ann.call("keep", {"role": "editor"})
        await ann.wait_closed()
        assert (ann.close_code, ann.close_reason) == (4401, "revoked")
        await refused(other, ANN)


async def test_guesses_at_once_are_bounded_too() -> None:
    """Concurrent guesses are limited like consecutive ones."""
    guesses = 20

    class Slow(MemorySessionStore):
        async def load(self, key: str) -> Record | None:
            await anyio.sleep(0.01)
            return await super().load(key)

    app = rooms.app(providers=[ResumeProvider(Slow())], limits=Limits(unknown_tokens=5))
    told: Counter[str] = Counter()

    async def guess(client: TestClient, number: int) -> None:
        async with client.connect() as other:
            with pytest.raises(CommandError) as caught:
                await other.call("who am i", token=str(number))
            told[caught.value.error] += 1

    async with TestClient(app) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(guesses):
                tasks.start_soon(guess, client, number)
    assert told == {"not authorized": 5, "rate limited": guesses - 5}


async def test_who_cannot_be_saved_has_not_entered() -> None:
    """A user whose saving fails is not verified, as its client gets an error.

    A user that had been saved before stays verified.
    """

    class Away(MemorySessionStore):
        is_away = True

        async def save(self, key: str, record: Record, *, again: bool = False) -> bool:
            if self.is_away:
                raise Unavailable
            return await super().save(key, record, again=again)

    store = Away()
    app = rooms.app(providers=[ResumeProvider(store)])
    async with TestClient(app) as client:
        await client.call("enter", "ann")
        with pytest.raises(CommandError, match="unavailable"):
            await client.call("keep", {})
        await refused(client, ANN)
        assert not app._session.verified
        store.is_away = False
        await client.call("enter", "ann")
        await client.call("keep", {})
        store.is_away = True
        with pytest.raises(CommandError, match="unavailable"):
            await client.call("keep", {"role": "editor"})
        assert (await client.call("who am i", token=ANN)).payload == ["ann", None]


async def test_without_redis_unknown_tokens_are_no_wrong_ones(own_redis: RedisServer) -> None:
    """Without Redis, verified connections stay, and commands that need the store are
    unavailable."""
    provider = RedisProvider(own_redis.url, resume=True, heartbeat=0.5)
    app = rooms.app(providers=[provider])
    async with TestClient(app) as ann, ann.connect() as other:
        await ann.call("enter", "ann")
        await ann.call("keep", {})
        own_redis.kill()
        with anyio.fail_after(TIMEOUT):
            await refused(other, ANN, "unavailable")
        assert (await ann.call("who am i", token=ANN)).payload == ["ann", None]
        for event, payload in (("keep", {}), ("revoke", "ann")):
            with pytest.raises(CommandError, match="unavailable"):
                await other.call("enter", "bob")
                await other.call(event, payload)
        await ann.wait_closed()
        assert ann.close_code == 4401
        own_redis.start()
