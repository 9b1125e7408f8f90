"""Tests of the options and limits of an app, and of those that go through to `websockets`."""

import gc
import socket as sockets
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
import websockets.trio.server
from echoing import echo_group
from harness import Client, app_with, connect, dial, on_trio, talk, unix_client
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from websuckets import CommandGroup, Limits

pytestmark = pytest.mark.anyio


async def test_an_app_may_be_served_over_tls() -> None:
    """Expect the option `ssl` to make the URL a wss one."""
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0, ssl=server_context) as server:
        assert server.urls == (f"wss://127.0.0.1:{server.port}",)
        async with dial(server, ssl=client_context) as client:
            assert (await client.call("echo", id=1))["id"] == 1


async def test_an_app_may_be_served_on_a_unix_socket(tmp_path: Path) -> None:
    """Expect a unix socket, and no port, for the option `path`."""
    path = str(tmp_path / "s")
    async with app_with(echo_group()).serve(path=path) as server:
        assert (server.port, server.urls) == (None, (f"unix:{path}",))
        async with await unix_client(path) as connection:
            client = Client(connection, server)
            assert (await client.call("echo", id=1))["id"] == 1


async def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    """Expect the URL to have the address in brackets."""
    async with app_with(echo_group()).serve("::1", 0) as server, dial(server) as client:
        assert client.server.urls == (f"ws://[::1]:{client.server.port}",)
        assert (await client.call("echo", id=1))["id"] == 1


async def test_handlers_see_the_subprotocol_that_was_agreed_on() -> None:
    """Expect the handler to see the subprotocol that the handshake agreed on."""
    app = app_with(echo_group())
    async with app.serve("127.0.0.1", 0, subprotocols=["chat"]) as server:
        async with dial(server, subprotocols=["other", "chat"]) as client:
            assert (await client.call("echo"))["payload"] == "chat"


async def test_other_options_go_through_to_websockets() -> None:
    """Expect `process_request` to refuse, and handlers to get what `create_connection` makes."""

    ours: Any = websockets.trio.server.ServerConnection if on_trio() else ServerConnection

    class MyConnection(ours):
        pass

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(404, "") if request.path == "/nothing" else None

    group = CommandGroup()

    @group.command("mine")
    async def mine(socket: MyConnection) -> bool:
        return isinstance(socket, MyConnection)

    app = app_with(group)
    options: dict[str, Any] = {"process_request": refuse, "create_connection": MyConnection}
    async with talk(app, **options) as client:
        assert (await client.call("mine"))["payload"] is True
        with pytest.raises(InvalidStatus):
            async with connect(client.server.urls[0] + "/nothing"):
                raise AssertionError("it was let in")


@pytest.mark.parametrize("how", ["class", "partial", "function", "none"])
async def test_create_connection_is_whatever_websockets_takes(how: str) -> None:
    """Expect handlers to get what `create_connection` makes, whatever its attributes."""
    ours: Any = websockets.trio.server.ServerConnection if on_trio() else ServerConnection

    class MyConnection(ours):
        def __init__(self, *arguments: Any, colour: str = "red", **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.path = self.colour = colour

    def create(*arguments: Any, **keywords: Any) -> Any:
        return MyConnection(*arguments, colour="blue", **keywords)

    ways = {
        "class": (MyConnection, "red"),
        "partial": (partial(MyConnection, colour="green"), "green"),
        "function": (create, "blue"),
        "none": (None, "no colour"),
    }
    created, colour = ways[how]
    group = CommandGroup()

    @group.command("colour")
    async def colour_of(socket: ServerConnection) -> str:
        await socket.ping(b"x")
        return getattr(socket, "colour", "no colour")

    app = app_with(group)
    async with app.serve("127.0.0.1", 0, create_connection=created) as server:
        for _ in range(2):
            async with dial(server) as client:
                for id in range(3):
                    assert (await client.call("colour", id=id))["payload"] == colour
                await client.close()


@pytest.mark.parametrize(
    ("frames", "code"), [([100], None), ([60, 60], None), ([101], 1009), ([60, 60, 60], 1009)]
)
async def test_messages_and_their_fragments_may_be_bounded(
    frames: list[int], code: int | None
) -> None:
    """Expect a pair to bound the whole message and each of its frames, as in `websockets`."""
    app = app_with(echo_group())
    async with talk(app, max_size=(150, 100)) as client:
        await client.connection.send(iter(["x" * size for size in frames]))
        if code is None:
            assert (await client.receive())["error"] == "invalid message"
        else:
            assert (await client.closed())[0] == code


async def test_an_unknown_option_is_an_error() -> None:
    """Expect the error of `websockets`; nothing keeps running, and no port stays open."""
    with pytest.raises(TypeError, match="nonsense"):
        async with app_with(echo_group()).serve("127.0.0.1", 0, nonsense=1):
            raise AssertionError("it started")
    gc.collect()  # a listening socket that was not closed would warn


@pytest.mark.parametrize(
    ("limits", "options", "compressed"),
    [
        (Limits(), {}, False),
        (Limits(compression="deflate"), {}, True),
        (Limits(), {"compression": "deflate"}, True),
        (Limits(compression="deflate"), {"compression": None}, False),
    ],
)
async def test_compression_is_off_unless_asked_for(
    limits: Limits, options: dict[str, Any], compressed: bool
) -> None:
    """Expect compression only if `Limits` or the option of `websockets` asks for it."""
    async with talk(app_with(echo_group(), limits=limits), **options) as client:
        assert bool(client.connection.protocol.extensions) == compressed
        assert (await client.call("echo", id=1))["id"] == 1


@pytest.mark.parametrize(
    ("limits", "options", "size", "accepted"),
    [
        (Limits(), {}, 64 * 1024, True),
        (Limits(), {}, 64 * 1024 + 1, False),
        (Limits(max_size=100), {}, 100, True),
        (Limits(max_size=100), {}, 101, False),
        (Limits(max_size=None), {}, 2**21, True),
        (Limits(max_size=100), {"max_size": 200}, 200, True),
    ],
)
async def test_the_size_of_a_message_is_bounded(
    limits: Limits, options: dict[str, Any], size: int, accepted: bool
) -> None:
    """Expect 1009 past `max_size`; the next client is served."""
    app = app_with(echo_group(), limits=limits)
    async with app.serve("127.0.0.1", 0, **options) as server:
        async with dial(server) as client:
            await client.connection.send('{"event":"echo","id":1}'.ljust(size))
            if accepted:
                assert (await client.receive())["id"] == 1
            else:
                assert (await client.closed())[0] == 1009
        async with dial(server) as client:
            assert (await client.call("echo", id=2))["id"] == 2


async def test_options_that_are_limits_are_the_limits_of_that_run() -> None:
    """Expect the injected `Limits` to be the enforced ones."""
    group = CommandGroup()

    @group.command("limits")
    async def limits(socket: ServerConnection, *, limits: Limits) -> list[Any]:
        return [limits.max_size, limits.compression]

    app = app_with(group)
    async with talk(app, max_size=200, compression="deflate") as client:
        assert (await client.call("limits"))["payload"] == [200, "deflate"]
    async with talk(app) as client:
        assert (await client.call("limits"))["payload"] == [64 * 1024, None]


async def test_a_port_that_is_taken_is_an_error() -> None:
    """Expect the app not to run, and to start elsewhere afterwards."""
    app = app_with(echo_group())
    with sockets.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match=r"(?i)address already in use"):
            async with app.serve("127.0.0.1", other.getsockname()[1]):
                raise AssertionError("it started")
    async with talk(app) as client:
        assert (await client.call("echo", id=1))["id"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_size": -1},
        {"max_size": (1, -1)},
        {"max_size": (1, 2, 3)},
        {"finalize_timeout": 0},
        {"drain_timeout": -1},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """Expect values to be checked; `None` turns a limit off."""
    with pytest.raises(ValueError, match="or None"):
        Limits(**wrong)


@pytest.mark.parametrize("timeout", [None, 0.05])
async def test_limits_may_be_off(timeout: float | None) -> None:
    """Expect everything to work without any timeout."""
    limits = Limits(finalize_timeout=timeout, drain_timeout=None, max_size=None)
    async with talk(app_with(echo_group(), limits=limits)) as client:
        assert (await client.call("echo", id=1))["id"] == 1
