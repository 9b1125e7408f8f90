"""The examples say what their first lines promise."""

import runpy
from typing import Any

import pytest
from harness import EXAMPLES, Client, load, talk

from websuckets import WebSuckets

pytestmark = pytest.mark.anyio


async def test_hello_greets() -> None:
    """A payload and a dependency make a reply."""
    async with talk(load("hello").app) as client:
        reply = await client.call("hello", payload={"name": "Ann"})
        assert reply["event"] == "greeting"
        assert reply["payload"] in ("Good morning, Ann!", "Good day, Ann!")


async def test_users_register_enter_and_are_listed() -> None:
    """Only who entered with the right password gets the list."""
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


async def join(client: Client, nickname: str) -> str:
    reply = await client.call("join", payload={"nickname": nickname})
    token: str = reply["payload"]["token"]
    return token


async def test_chat_delivers_direct_messages() -> None:
    """A message reaches the one that it is for, and nobody who is gone."""
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
    """Each watcher gets its own; who cancels one goes on with the other."""
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


@pytest.mark.parametrize("name", ["hello", "users", "chat", "notes", "ticker"])
def test_each_runs_as_a_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started as a program, an example serves on the address that it tells."""
    started: list[Any] = []
    monkeypatch.setattr(WebSuckets, "run", lambda app, *address: started.append(address))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert started == [("localhost", 9000)]
