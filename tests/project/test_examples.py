"""Tests that the examples do what their first lines say."""

import hashlib
import runpy
import threading
from typing import Any

import anyio
import pytest
from harness import Client, load, talk
from redis_server import RedisServer
from repository import EXAMPLES
from timeouts import TIMEOUT

from websuckets import WebSuckets

pytestmark = pytest.mark.anyio


async def test_hello_greets_with_a_dependency() -> None:
    """Expect a reply made of a payload and a dependency."""
    async with talk(load("hello").app) as client:
        reply = await client.call("hello", payload={"name": "Ann"})
        assert reply["event"] == "greeting"
        assert reply["payload"] in ("Good morning, Ann!", "Good day, Ann!")


async def test_users_register_enter_and_are_listed() -> None:
    """Expect only users who entered the right password to get the list."""
    ann = {"login": "ann", "password": "correct horse"}
    async with talk(load("users").app) as client:
        assert await client.call("user list") == {"error": "not authorized", "details": None}
        registered = await client.call("user register", payload=ann, id=1)
        assert registered == {"event": "user register", "payload": None, "id": 1}
        assert (await client.call("user register", payload=ann))["error"] == "login taken"
        wrong = {"login": "ann", "password": "battery staple"}
        refused = {"error": "wrong login or password", "details": None}
        assert await client.call("user enter", payload=wrong) == refused
        assert await client.call("user enter", payload={**ann, "login": "bob"}) == refused
        token = (await client.call("user enter", payload=ann))["payload"]
        listed = await client.call("user list", token=token)
        assert listed == {"event": "user list", "payload": ["ann"]}
        assert (await client.call("user list", token="x" + token[1:]))["error"] == "not authorized"


async def test_passwords_of_users_are_hashed_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the event loop to serve others while a password is hashed."""
    scrypt, threads = hashlib.scrypt, []

    def watched(password: bytes, **options: Any) -> bytes:
        threads.append(threading.current_thread())
        return scrypt(password, **options)

    monkeypatch.setattr(hashlib, "scrypt", watched)
    ann = {"login": "ann", "password": "correct horse"}
    async with talk(load("users").app) as client:
        await client.call("user register", payload=ann, id=1)
        assert await client.call("user enter", payload=ann)
    assert len(threads) == 2 and threading.main_thread() not in threads


async def join(client: Client, nickname: str) -> str:
    reply = await client.call("join", payload={"nickname": nickname})
    token: str = reply["payload"]["token"]
    return token


async def test_chat_delivers_direct_messages() -> None:
    """Expect a message to reach its recipient, and an error for a client who has left."""
    async with talk(load("chat").app) as ann:
        token = await join(ann, "ann")
        async with ann.another() as bob:
            assert (await bob.call("join", payload={"nickname": "ann"}))[
                "error"
            ] == "nickname taken"
            await join(bob, "bob")
            who = await ann.call("who", token=token)
            assert who["payload"] == ["ann", "bob"]
            message = {"to": "bob", "text": "hi"}
            sent = await ann.call("say", token=token, payload=message, id=7)
            assert sent == {"event": "say", "payload": None, "id": 7}
            said = {"event": "said", "payload": {"from": "ann", "text": "hi"}}
            assert await bob.receive() == said
        gone = await ann.call("say", token=token, payload=message)
        assert gone == {"error": "not here", "details": {"nickname": "bob"}}


async def test_ticker_streams_prices_until_it_is_told_to_stop() -> None:
    """Expect prices for each stream; a client that cancels one continues with the other."""
    async with talk(load("ticker").app) as client:
        prices = (await client.call("price list"))["payload"]
        assert set(prices) == {"GOLD", "SILVER"}
        for name in prices:
            await client.send("price watch", payload=name, id=name)
        items = [await client.receive() for _ in range(4)]
        assert sorted(item["id"] for item in items) == ["GOLD", "GOLD", "SILVER", "SILVER"]
        assert items[0]["payload"] == prices[items[0]["id"]]
        await client.connection.send('{"cancel": "GOLD"}')
        while "more" in (reply := await client.receive()):
            pass
        assert reply == {"event": "price watch", "payload": None, "id": "GOLD"}
        assert (await client.receive())["id"] == "SILVER"
        await client.send("price watch", payload="LEAD", id="LEAD")
        while (reply := await client.receive())["id"] == "SILVER":
            pass
        assert reply == {"error": "no such price", "details": None, "id": "LEAD"}


async def test_chat_rooms_are_those_of_all_nodes(shared_redis: RedisServer) -> None:
    """Test rooms, members, private messages, and reconnecting on either node."""
    rooms = load("chat_rooms")
    one, two = (rooms.make_app(shared_redis.url) for _ in range(2))
    async with talk(one) as ann, talk(two) as bob:
        await hold_a_conversation(ann, bob)


async def test_chat_rooms_need_one_process_alone() -> None:
    """Test chat rooms without Redis."""
    async with talk(load("chat_rooms").make_app()) as ann, ann.another() as bob:
        await hold_a_conversation(ann, bob)


async def hold_a_conversation(ann: Client, bob: Client) -> None:
    tokens = {}
    for name, client in (("ann", ann), ("bob", bob)):
        entered = await client.call("enter", payload={"nickname": name})
        tokens[name] = entered["payload"]["token"]
        await client.call("room join", payload="kitchen", token=tokens[name], id=1)
    joined = {"event": "joined", "payload": {"room": "kitchen", "who": "bob"}}
    assert await ann.receive() == joined
    with anyio.fail_after(TIMEOUT):  # each node hears of the other's users in its own time
        for client, name in ((ann, "ann"), (bob, "bob")):
            who = {"payload": "kitchen", "token": tokens[name]}
            while (await client.call("room who", **who))["payload"] != ["ann", "bob"]:
                await anyio.sleep(0.01)
    async with ann.another() as third:
        taken = await third.call("enter", payload={"nickname": "bob"})
        assert taken["error"] == "nickname taken"
        line = {"room": "kitchen", "text": "me, too"}
        denied = await third.call("room say", payload=line, token="nobody's")
        assert denied["error"] == "not authorized"
    line = {"room": "kitchen", "text": "tea?"}
    await ann.send("room say", payload=line, token=tokens["ann"])
    for client in (ann, bob):
        said = {"room": "kitchen", "from": "ann", "text": "tea?"}
        assert await client.receive() == {"event": "said", "payload": said}
    hi = {"to": "ann", "text": "hi"}
    await bob.call("whisper", payload=hi, token=tokens["bob"], id=2)
    whispered = {"from": "bob", "text": "hi"}
    assert await ann.receive() == {"event": "whispered", "payload": whispered}
    nobody = {"to": "nobody", "text": "hi"}
    answer = await bob.call("whisper", payload=nobody, token=tokens["bob"])
    assert answer["error"] == "not here"
    await bob.call("room leave", payload="kitchen", token=tokens["bob"], id=3)
    left = {"event": "left", "payload": {"room": "kitchen", "who": "bob"}}
    assert await ann.receive() == left
    answer = await bob.call("room say", payload=line, token=tokens["bob"])
    assert answer["error"] == "not in this room"
    async with bob.another() as again:  # ann continues there
        who = await again.call("room who", payload="kitchen", token=tokens["ann"])
        assert who["payload"] == ["ann"]


PROGRAMS = [
    "hello",
    "users",
    "chat",
    "chat_rooms",
    "notes",
    "orders",
    "board",
    "answer",
    "ticker",
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_runs_as_a_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started as a program, an example serves on the address that it tells."""
    started: list[Any] = []
    monkeypatch.setattr("sys.argv", [name])
    monkeypatch.setattr(WebSuckets, "run", lambda app, *address: started.append(address))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert started == [("localhost", 9000)]
