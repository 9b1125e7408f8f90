"""The board example, on each kind of database."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from harness import load

from websuckets import WebSuckets
from websuckets.testing import CommandError, ReceivedEvent, TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio, pytest.mark.usefixtures("database")]

CHANNEL = "board/plans"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Make an empty database of the test's own, for the example to use."""
    if request.param == "sqlite":
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'board.db'}")
        yield
    else:
        with request.getfixturevalue("postgres_server").database() as url:
            monkeypatch.setenv("DATABASE_URL", url)
            yield


@pytest.fixture
def app() -> WebSuckets:
    app: WebSuckets = load("board").app
    return app


class Screen:
    """A client as the example describes it, which outlives its connections."""

    def __init__(self) -> None:
        self.version = 0
        self.notes: dict[str, Any] = {}
        self.since: dict[str, tuple[str, int]] | None = None
        self.recovered: bool | None = None

    async def watch(self, client: TestClient) -> None:
        """Watch the board by a connection, from the last position on."""
        reply = await client.call("board watch", "plans", since=self.since)
        position = reply.subscribed[CHANNEL]
        self.recovered = position.get("recovered")
        if not self.recovered:
            self.version = reply.payload["version"]
            self.notes = {note["id"]: note for note in reply.payload["notes"]}
            self.since = {CHANNEL: (position["epoch"], position["offset"])}

    def apply(self, event: ReceivedEvent) -> None:
        assert self.since is not None
        assert event.channel == CHANNEL
        assert event.offset is not None
        epoch, offset = self.since[CHANNEL]
        assert event.offset == offset + 1
        self.since = {CHANNEL: (epoch, event.offset)}
        payload = event.payload
        if payload["version"] <= self.version:
            return
        self.version = payload["version"]
        if event.event == "note added":
            self.notes[payload["note"]["id"]] = payload["note"]
        elif event.event == "note moved":
            self.notes[payload["id"]] |= {"x": payload["x"], "y": payload["y"]}
        else:
            assert event.event == "note removed"
            del self.notes[payload["id"]]

    async def follow(self, client: TestClient, version: int) -> None:
        """Apply events until the board has this version."""
        while self.version < version:
            self.apply(await client.receive())


def note(text: str) -> dict[str, Any]:
    return {"board": "plans", "text": text, "x": 1, "y": 2}


async def state_of(client: TestClient) -> tuple[int, dict[str, Any]]:
    """Return the board as a new client sees it."""
    async with client.connect() as another:
        screen = Screen()
        await screen.watch(another)
        return screen.version, screen.notes


async def test_a_client_that_was_away_shows_what_others_show(app: WebSuckets) -> None:
    ann, bob = Screen(), Screen()
    async with TestClient(app) as anns:
        await anns.call("board create", "plans", key="k0")
        await ann.watch(anns)
        async with anns.connect() as bobs:
            await bob.watch(bobs)
            milk = (await anns.call("note add", note("milk"), key="k1")).payload
            bread = (await bobs.call("note add", note("bread"), key="k2")).payload
            await bob.follow(bobs, 2)
        await anns.call("note move", {**note("milk"), "id": milk["id"], "x": 7}, key="k3")
        await anns.call("note remove", {"board": "plans", "id": bread["id"]}, key="k4")
        await anns.call("note add", note("tea"), key="k5")
        await ann.follow(anns, 5)
        async with anns.connect() as bobs:
            await bob.watch(bobs)
            assert bob.recovered
            assert bob.version == 2
            await bob.follow(bobs, 5)
        assert [n["text"] for n in bob.notes.values()] == ["milk", "tea"]
        assert bob.notes[milk["id"]]["x"] == 7
        assert bob.notes == ann.notes
        assert await state_of(anns) == (5, bob.notes)


async def test_an_event_that_the_state_has_already_changes_nothing(app: WebSuckets) -> None:
    """Expect that of all events, behind a position before the state."""
    async with TestClient(app) as client:
        await client.call("board create", "plans", key="k0")
        screen = Screen()
        await screen.watch(client)
        since = screen.since
        milk = (await client.call("note add", note("milk"), key="k1")).payload
        await client.call("note remove", {"board": "plans", "id": milk["id"]}, key="k2")
        await client.call("note add", note("tea"), key="k3")
        await screen.follow(client, 3)
        seen = dict(screen.notes)
        async with client.connect() as again:
            screen.since = since
            await screen.watch(again)
            assert screen.recovered
            for _ in range(3):
                screen.apply(await again.receive())
        assert (screen.version, screen.notes) == (3, seen)


async def test_a_change_that_is_sent_again_is_one_change(app: WebSuckets) -> None:
    """Expect the first reply, no second event, and the same for a change that moves a note."""
    async with TestClient(app) as client:
        screen = Screen()
        for _ in range(2):
            await client.call("board create", "plans", key="k0")
        await screen.watch(client)
        added = []
        for _ in range(3):
            async with client.connect() as another:
                added.append((await another.call("note add", note("milk"), key="k1")).payload)
        assert added[0] == added[1] == added[2]
        to = {"board": "plans", "id": added[0]["id"], "x": 3, "y": 4}
        for _ in range(2):
            await client.call("note move", to, key="k2")
        await client.call("note add", note("tea"), key="k3")
        await screen.follow(client, 3)
        assert screen.since is not None
        assert screen.since[CHANNEL][1] == 3
        assert await state_of(client) == (3, screen.notes)


async def test_a_board_goes_on_after_a_restart() -> None:
    screen = Screen()
    async with TestClient(load("board").app) as client:
        await client.call("board create", "plans", key="k0")
        await screen.watch(client)
        await client.call("note add", note("milk"), key="k1")
    async with TestClient(load("board").app) as client:
        await client.call("note add", note("milk"), key="k1")
        await client.call("note add", note("tea"), key="k2")
        await screen.watch(client)
        assert screen.recovered
        await screen.follow(client, 2)
        assert await state_of(client) == (2, screen.notes)


class Device:
    """A screen with a connection, which may be lost at any time, also before a reply."""

    def __init__(self, app_client: TestClient) -> None:
        self.screen = Screen()
        self._app_client = app_client
        self._stack = AsyncExitStack()

    async def connect(self) -> None:
        self.client = await self._stack.enter_async_context(self._app_client.connect())
        await self.screen.watch(self.client)

    async def disconnect(self) -> None:
        await self.client.abort()
        await self._stack.aclose()

    async def change(self, event: str, payload: Any, key: str, *, is_cut: bool) -> None:
        """Send a change until its reply comes, where ``is_cut`` on two connections."""
        if is_cut:
            await self.client.send(event, payload, key=key)
            await self.disconnect()
            await self.connect()
        try:
            await self.client.call(event, payload, key=key)
        except CommandError as error:  # somebody else has removed the note
            assert error.error == "no such note"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_all_screens_show_the_same_whatever_happens(app: WebSuckets, seed: int) -> None:
    """Expect it after changes by all, with connections that are lost with and without a change."""
    chance = Random(seed)
    async with TestClient(app) as client:
        await client.call("board create", "plans", key="k")
        devices = [Device(client) for _ in range(3)]
        for device in devices:
            await device.connect()
        for step in range(40):
            device = chance.choice(devices)
            ids = sorted(device.screen.notes)  # as its user sees the board
            where = {"board": "plans", "x": step, "y": step}
            match chance.choice(["add", "move", "remove", "look", "lose"]):
                case "move" if ids:
                    change = "note move", {**where, "id": chance.choice(ids)}
                case "remove" if ids:
                    change = "note remove", {"board": "plans", "id": chance.choice(ids)}
                case "look":
                    await device.screen.follow(device.client, (await state_of(client))[0])
                    continue
                case "lose":
                    await device.disconnect()
                    await device.connect()
                    continue
                case _:
                    change = "note add", {**where, "text": f"note {step}"}
            await device.change(*change, f"key {step}", is_cut=chance.random() < 0.4)
        version, notes = await state_of(client)
        for device in devices:
            await device.screen.follow(device.client, version)
            assert device.screen.notes == notes
            await device.disconnect()
        assert len(notes) > 1


async def test_a_change_that_fails_leaves_nothing(app: WebSuckets) -> None:
    """Expect neither a version nor an event, and its client not to be subscribed."""
    async with TestClient(app) as client:
        with pytest.raises(CommandError, match="no such board"):
            await client.call("board watch", "plans")
        with pytest.raises(CommandError, match="no such board"):
            await client.call("note add", note("milk"), key="k1")
        await client.call("board create", "plans", key="k0")
        gone = {"board": "plans", "id": "00000000-0000-4000-8000-000000000000"}
        with pytest.raises(CommandError, match="no such note"):
            await client.call("note remove", gone, key="k2")
        with pytest.raises(CommandError, match="no such note"):
            await client.call("note move", {**gone, "x": 1, "y": 1}, key="k3")
        screen = Screen()
        await screen.watch(client)
        await client.call("note add", note("milk"), key="k1")
        await screen.follow(client, 1)
        assert screen.since is not None
        assert screen.since[CHANNEL][1] == 1
