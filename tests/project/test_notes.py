"""The notes example, on each kind of database."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from argon2 import PasswordHasher
from harness import Client, load, talk
from held_hashing import held_hashing
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from timeouts import TIMEOUT
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup
from websuckets.exc import ClientError

ANN = {"login": "ann", "password": "correct horse"}
BOB = {"login": "bob", "password": "battery staple"}

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]

on_each_database = pytest.mark.usefixtures("database")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Make an empty database of the test's own, for the example to use."""
    if request.param == "sqlite":
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'notes.db'}")
        yield
    else:
        with request.getfixturevalue("postgres_server").database() as url:
            monkeypatch.setenv("DATABASE_URL", url)
            yield


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make argon2's hashes cheap: the strength of hashes is argon2's own matter."""
    quick = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr("argon2.PasswordHasher", quick)


async def register(client: Client, credentials: dict[str, str]) -> Any:
    return await client.call("user register", payload=credentials, id="register")


async def enter(client: Client, credentials: dict[str, str]) -> str:
    """Return the token of a registered user."""
    token: str = (await client.call("user enter", payload=credentials))["payload"]
    return token


@on_each_database
async def test_notes_are_added_listed_and_deleted() -> None:
    """One user can add, list and delete notes."""
    async with talk(load("notes").app) as client:
        registered = await register(client, ANN)
        assert registered == {"event": "user register", "payload": None, "id": "register"}
        token = await enter(client, ANN)
        milk = await client.call("note add", payload="Buy milk", token=token)
        assert milk == {"event": "note add", "payload": {"id": 1, "text": "Buy milk"}}
        eggs = await client.call("note add", payload="Buy eggs", token=token)
        listed = await client.call("note list", token=token)
        assert listed == {"event": "note list", "payload": [milk["payload"], eggs["payload"]]}
        deleted = await client.call("note delete", payload=1, token=token, id=7)
        assert deleted == {"event": "note delete", "payload": None, "id": 7}
        again = await client.call("note delete", payload=1, token=token)
        assert again == {"error": "no such note", "details": None}
        assert (await client.call("note list", token=token))["payload"] == [eggs["payload"]]


@on_each_database
async def test_users_are_counted_once_in_a_while() -> None:
    """A count is good for some seconds, for everybody."""
    notes = load("notes")
    async with talk(notes.app) as ann, ann.another() as bob:
        await register(ann, ANN)
        counted = {"event": "user count", "payload": 1}
        assert await ann.call("user count") == counted
        await register(bob, BOB)
        assert await bob.call("user count") == counted


@on_each_database
async def test_notes_are_for_who_has_entered() -> None:
    """Notes need a token, and a token needs the right password."""
    async with talk(load("notes").app) as client:
        assert await client.call("note list") == {"error": "not authorized", "details": None}
        await register(client, ANN)
        refused = {"error": "wrong login or password", "details": None}
        for wrong in {**ANN, "password": "battery staple"}, BOB:
            assert await client.call("user enter", payload=wrong) == refused
        token = await enter(client, ANN)
        assert (await client.call("note list", token=token))["payload"] == []
        assert (await client.call("note list", token="x" + token[1:]))["error"] == "not authorized"


@on_each_database
async def test_each_sees_only_their_own() -> None:
    """A note of another user is answered like one that does not exist."""
    async with talk(load("notes").app) as ann, ann.another() as bob:
        tokens = {}
        for client, credentials in (ann, ANN), (bob, BOB):
            await register(client, credentials)
            tokens[client] = await enter(client, credentials)
            text = f"I am {credentials['login']}"
            await client.call("note add", payload=text, token=tokens[client])
        (of_ann,) = (await ann.call("note list", token=tokens[ann]))["payload"]
        (of_bob,) = (await bob.call("note list", token=tokens[bob]))["payload"]
        assert (of_ann["text"], of_bob["text"]) == ("I am ann", "I am bob")
        deleted = await bob.call("note delete", payload=of_ann["id"], token=tokens[bob])
        assert deleted == {"error": "no such note", "details": None}
        assert (await ann.call("note list", token=tokens[ann]))["payload"] == [of_ann]


@on_each_database
async def test_a_login_is_registered_once() -> None:
    """Expect one of two clients that register a login at the same time to get the login."""
    async with talk(load("notes").app) as ann, ann.another() as other:
        taken = {"error": "login taken", "details": None, "id": "register"}
        for login in "ann", "bob", "eve":
            credentials = {"login": login, "password": "correct horse"}
            for client in ann, other:
                await client.send("user register", payload=credentials, id="register")
            replies = [await ann.receive(), await other.receive()]
            assert replies.count(taken) == 1
            assert await register(ann, credentials) == taken
            assert await enter(other, credentials)


@on_each_database
async def test_what_failed_is_rolled_back(caplog: pytest.LogCaptureFixture) -> None:
    """Earlier statements are rolled back, too, and the log has none of their values."""
    notes = load("notes")
    broken = CommandGroup("broken")

    @broken.command("statement")
    async def statement(socket: ServerConnection, *, session: AsyncSession) -> None:
        for _ in range(2):
            session.add(notes.Account(login="ann", password_hash="hash"))
            await session.flush()

    @broken.command("handler")
    async def handler(socket: ServerConnection, *, session: AsyncSession) -> None:
        session.add(notes.Account(login="ann", password_hash="hash"))
        await session.flush()
        raise ClientError("changed my mind")

    @broken.command("logins")
    async def logins(socket: ServerConnection, *, session: AsyncSession) -> list[str]:
        return list(await session.scalars(select(notes.Account.login)))

    notes.app.include_command_group(broken)
    async with talk(notes.app) as client:
        assert (await client.call("broken statement"))["error"] == "internal error"
        assert "IntegrityError" in caplog.text
        assert "'hash'" not in caplog.text
        assert (await client.call("broken handler"))["error"] == "changed my mind"
        assert (await client.call("broken logins"))["payload"] == []
        assert "error" not in await register(client, ANN)
        assert (await client.call("broken logins"))["payload"] == ["ann"]


@on_each_database
async def test_notes_survive_the_app() -> None:
    """Expect both this app and another one to find the notes again, but no tokens."""
    first = load("notes").app
    async with talk(first) as client:
        await register(client, ANN)
        token = await enter(client, ANN)
        added = (await client.call("note add", payload="Buy milk", token=token))["payload"]
    for app in first, load("notes").app:
        async with talk(app) as client:
            refused = await client.call("note list", token=token)
            assert refused["error"] == "not authorized"
            listed = await client.call("note list", token=await enter(client, ANN))
            assert listed["payload"] == [added]


@on_each_database
async def test_who_has_no_account_any_more_is_out() -> None:
    """A user whose account was deleted is refused with the next message, even with a token."""
    notes = load("notes")
    accounts = CommandGroup("accounts")

    @accounts.command("delete")
    async def delete_all(socket: ServerConnection, *, session: AsyncSession) -> None:
        await session.execute(delete(notes.Account))

    notes.app.include_command_group(accounts)
    async with talk(notes.app) as client:
        await register(client, ANN)
        token = await enter(client, ANN)
        await client.call("accounts delete", id=1)
        listed = await client.call("note list", token=token)
        assert listed == {"error": "not authorized", "details": None}


@on_each_database
async def test_passwords_are_kept_as_hashes() -> None:
    """Passwords are kept as argon2 hashes."""
    notes = load("notes")
    tables = CommandGroup("tables")

    @tables.command("dump")
    async def dump(socket: ServerConnection, *, session: AsyncSession) -> str:
        everything = [await session.execute(select(t)) for t in notes.Table.metadata.sorted_tables]
        return repr([result.all() for result in everything])

    notes.app.include_command_group(tables)
    async with talk(notes.app) as client:
        await register(client, ANN)
        await client.call("note add", payload="Buy milk", token=await enter(client, ANN))
        kept = (await client.call("tables dump"))["payload"]
        assert "ann" in kept and "Buy milk" in kept
        assert "$argon2id$" in kept
        assert ANN["password"] not in kept


@on_each_database
async def test_a_wrong_login_takes_as_long_as_a_wrong_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each refusal calls argon2 once, and never in the event loop."""
    calls: list[str] = []

    def watch(name: str) -> None:
        original = getattr(PasswordHasher, name)

        def watched(*arguments: Any) -> Any:
            assert threading.current_thread() is not threading.main_thread()
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(PasswordHasher, name, watched)

    async with talk(load("notes").app) as client:
        await register(client, ANN)
        watch("hash")
        watch("verify")
        for wrong in {**ANN, "password": "battery staple"}, BOB:
            reply = await client.call("user enter", payload=wrong)
            assert reply["error"] == "wrong login or password"
        assert calls == ["verify", "hash"]


@on_each_database
async def test_the_database_serves_others_while_a_password_is_hashed() -> None:
    """Expect a pool of one connection to have it for others, whoever waits for argon2."""
    notes = load("notes")
    engine = create_async_engine(notes.database_url(), pool_size=1, max_overflow=0)
    with notes.app.override(values={AsyncEngine: engine}):
        async with talk(notes.app) as client, client.another() as other:
            await register(client, ANN)
            token = await enter(client, ANN)
            for credentials in {**ANN, "password": "battery staple"}, BOB:
                with held_hashing() as began:
                    await other.send("user enter", payload=credentials)
                    with anyio.fail_after(TIMEOUT):
                        await began.wait()
                    assert (await client.call("note list", token=token))["payload"] == []
                assert (await other.receive())["error"] == "wrong login or password"
    await engine.dispose()


@on_each_database
async def test_what_no_database_keeps_is_no_valid_payload() -> None:
    """A value that a database cannot keep is a validation error, and not an internal error."""
    async with talk(load("notes").app) as client:
        for login in "", "a\0b", "a" * 65:
            reply = await register(client, {**ANN, "login": login})
            assert reply["error"] == "validation error"
        await register(client, {**ANN, "login": "ä" * 64})
        token = await enter(client, {**ANN, "login": "ä" * 64})
        for text in "", "a\0b":
            reply = await client.call("note add", payload=text, token=token)
            assert reply["error"] == "validation error"
        for id in 0, 2**31, "one":
            reply = await client.call("note delete", payload=id, token=token)
            assert reply["error"] == "validation error"
        reply = await client.call("note delete", payload=2**31 - 1, token=token)
        assert reply["error"] == "no such note"


def test_the_url_gets_an_asynchronous_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """An asynchronous driver is added to a URL that names none; everything else stays as given."""
    database_url = load("notes").database_url
    for given, used in {
        "sqlite:///other.db": "sqlite+aiosqlite:///other.db",
        "postgres://db/notes": "postgresql+psycopg://db/notes",
        "postgresql://ann:a%40b@db:5433/notes?sslmode=require": (
            "postgresql+psycopg://ann:a%40b@db:5433/notes?sslmode=require"
        ),
        "postgresql+asyncpg://db/notes": "postgresql+asyncpg://db/notes",
    }.items():
        monkeypatch.setenv("DATABASE_URL", given)
        assert database_url().render_as_string(hide_password=False) == used


async def test_notes_are_in_a_file_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database file is made at the start, in the working directory."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    async with talk(load("notes").app) as client:
        await register(client, ANN)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.db"]
