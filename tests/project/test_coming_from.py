"""The programs of docs/coming-from.md run, and do the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pages
import pytest
from harness import Client, connect, talk
from serving import uvicorn_running
from timeouts import TIMEOUT

PROGRAMS = {
    text.partition("\n")[0].removeprefix("# "): text
    for language, text in pages.blocks(pages.ROOT / "docs" / "coming-from.md")
    if language == "python"
}
"""Programs of the page, by the comment with which each begins."""

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]

WRONG = {"name": "ann", "password": "wrong"}
RIGHT = {"name": "ann", "password": "correct horse"}
SAID = {"by": "ann", "text": "tea?"}


def program(name: str) -> Any:
    """Return the app of the program that is marked with this name."""
    module = ModuleType(f"{name}_program")
    exec(compile(PROGRAMS[name], f"{name}.py", "exec"), vars(module))
    return module.app


def test_every_program_is_run() -> None:
    """The page has the programs that are tested here, and no others."""
    assert list(PROGRAMS) == ["websuckets", "fastapi", "socketio", "channels"]


async def test_who_has_entered_is_heard_by_everybody() -> None:
    """Only who has entered may say something, and everybody hears it."""
    async with talk(program("websuckets")) as ann, ann.another() as bob:
        assert await ann.call("say", payload="tea?") == {"error": "not authorized", "details": None}
        wrong = await ann.call("enter", payload=WRONG)
        assert wrong == {"error": "wrong password", "details": None}
        token = (await ann.call("enter", payload=RIGHT))["payload"]
        await ann.send("say", payload="tea?", token=token)
        for client in (ann, bob):
            assert await client.receive() == {"event": "said", "payload": SAID}


@pytest.mark.parametrize("name", ["fastapi", "channels"])
async def test_plain_websocket_programs_do_the_same(name: str) -> None:
    """The programs for FastAPI and for Channels do the same, under uvicorn."""
    if name == "channels":
        configure_channels()
    async with uvicorn_running(program(name), lifespan="off") as server:
        async with connect(server.urls[0]) as first, connect(server.urls[0]) as second:
            ann, bob = Client(first, server), Client(second, server)
            # An answer says that the server will send to this client, too.
            assert await bob.call("other") == {"error": "unknown command"}
            assert await ann.call("say", payload="tea?") == {"error": "not authorized"}
            assert await ann.call("enter", payload=WRONG) == {"error": "wrong password"}
            assert await ann.call("enter", payload=RIGHT) == {"event": "enter"}
            await ann.send("say", payload="tea?")
            for client in (ann, bob):
                assert await client.receive() == {"event": "said", "payload": SAID}


def configure_channels() -> None:
    """Give Django the settings that Channels reads."""
    # Not `channels.testing`: its import needs the server daphne.
    pytest.importorskip("channels")
    from django.conf import settings

    if not settings.configured:
        layer = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
        settings.configure(CHANNEL_LAYERS={"default": layer})


async def test_python_socketio_does_the_same() -> None:
    """The program for python-socketio does the same, under uvicorn and with its own client."""
    pytest.importorskip("socketio")
    pytest.importorskip("aiohttp")
    async with uvicorn_running(program("socketio"), lifespan="off") as server:
        async with socketio_client(server.port) as (ann, heard):
            async with socketio_client(server.port) as (_, heard_by_bob):
                assert await ann.call("say", "tea?") == {"error": "not authorized"}
                assert await ann.call("enter", WRONG) == {"error": "wrong password"}
                assert await ann.call("enter", RIGHT) == {"event": "enter"}
                await ann.emit("say", "tea?")
                for queue in (heard, heard_by_bob):
                    assert await asyncio.wait_for(queue.get(), TIMEOUT) == SAID


@asynccontextmanager
async def socketio_client(port: int) -> AsyncIterator[tuple[Any, "asyncio.Queue[Any]"]]:
    """Return a connected client, and what it has heard."""
    import socketio

    heard: asyncio.Queue[Any] = asyncio.Queue()
    client = socketio.AsyncClient(reconnection=False)
    client.on("said", heard.put)
    await client.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
    try:
        yield client, heard
    finally:
        await client.disconnect()
