"""Tests of the addresses that an app listens on: ports, listeners and unix sockets."""

import socket as sockets
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from harness import Client, app_with, connect, dial, on_trio, talk, unix_client
from ports import free_port
from programs import hello_group


@pytest.mark.anyio
@pytest.mark.parametrize("host", [None, "", ["127.0.0.1", "::1"], ["localhost", "::1"]])
async def test_port_0_is_one_port_on_every_address(host: Any) -> None:
    """Port 0 is one port on all addresses, so that `server.port` holds for each."""
    async with app_with(hello_group()).serve(host, 0) as server:
        assert len(server.urls) == 2
        assert {url.rpartition(":")[2] for url in server.urls} == {str(server.port)}
        for address in ("127.0.0.1", "[::1]"):
            async with connect(f"ws://{address}:{server.port}") as connection:
                assert (await Client(connection, server).call("hello"))["payload"] == "hello"


@pytest.mark.anyio
async def test_port_0_is_chosen_again_if_it_is_taken_on_another_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refuse the port at first, as if it were taken on the second address."""
    from websuckets.transports import listener

    tries: list[int] = []
    bind = listener._bind

    def taken_at_first(addresses: Any, port: int, options: Any) -> int:
        tries.append(port)
        if len(tries) < listener.TRIES:
            raise OSError("taken")
        return bind(addresses, port, options)

    monkeypatch.setattr(listener, "_bind", taken_at_first)
    async with app_with(hello_group()).serve(["127.0.0.1", "::1"], 0) as server:
        assert server.port
    assert len(tries) == listener.TRIES


@pytest.mark.anyio
async def test_a_port_that_is_taken_is_told_before_anything_starts(journal: list[str]) -> None:
    """The error is raised before hooks run, so there is nothing to undo."""
    app = app_with(hello_group())

    @app.on_startup
    async def startup() -> None:
        journal.append("started")

    with sockets.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match=r"(?i)address already in use"):
            async with app.serve("127.0.0.1", other.getsockname()[1]):
                pytest.fail("it started")
    assert journal == []


@pytest.mark.anyio
async def test_a_port_that_is_taken_meanwhile_is_told_when_it_is_opened() -> None:
    """An app whose port a hook takes has not started, and may be served again."""
    app = app_with(hello_group())
    others: list[Any] = []

    @app.on_startup
    async def startup() -> None:
        if not others:
            others.append(sockets.create_server(("127.0.0.1", port)))

    port = free_port()
    with pytest.raises(OSError, match=r"(?i)address already in use"):
        async with app.serve("127.0.0.1", port):
            pytest.fail("it started")
    others[0].close()
    async with talk(app) as client:
        assert (await client.call("hello"))["payload"] == "hello"


@pytest.mark.anyio
async def test_several_apps_may_share_a_port_that_ask_for_it() -> None:
    """`reuse_port` is an option of asyncio."""
    if on_trio():
        pytest.skip("trio has no such option")
    one, two = app_with(hello_group()), app_with(hello_group())
    options = {"reuse_port": True, "reuse_address": False}
    async with one.serve("127.0.0.1", 0, **options) as server:
        async with two.serve("127.0.0.1", server.port, **options) as same:
            assert same.port == server.port


@pytest.mark.anyio
async def test_an_address_that_this_machine_does_not_have_is_told_by_who_listens() -> None:
    """A port of a foreign address is neither free nor taken, so listening raises the error."""
    # asyncio of Python 3.13 has a text of its own.
    with pytest.raises(OSError, match=r"(?i)assign requested address|could not bind on any"):
        async with app_with(hello_group()).serve("192.0.2.1", 9000):
            pytest.fail("it started")


@pytest.mark.anyio
async def test_a_trio_server_takes_listeners() -> None:
    """`listeners` is an option of `websockets`, instead of host and port."""
    if not on_trio():
        pytest.skip("it is an option on trio")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    app = app_with(hello_group())
    with pytest.raises(ValueError, match="incompatible with listeners"):
        async with app.serve("127.0.0.1", 0, listeners=listeners):
            pytest.fail("it started")
    async with app.serve(listeners=listeners) as server, dial(server) as client:
        assert (await client.call("hello"))["payload"] == "hello"


@pytest.mark.anyio
@pytest.mark.on_asyncio
async def test_an_asyncio_server_may_begin_to_serve_later() -> None:
    """`start_serving` is an option of asyncio."""
    with sockets.socket() as own:
        own.bind(("127.0.0.1", 0))
        async with app_with(hello_group()).serve(sock=own, start_serving=False) as server:
            with pytest.raises(ConnectionRefusedError):
                async with dial(server):
                    pytest.fail("it is open")


@pytest.mark.anyio
async def test_a_unix_socket_that_a_server_left_is_taken_over(tmp_path: Path) -> None:
    """The socket of a stopped or killed server is replaced; a file that is not a socket is kept."""
    path = tmp_path / "s"
    with sockets.socket(sockets.AF_UNIX) as killed:
        killed.bind(str(path))
    app = app_with(hello_group())
    for _ in range(2):
        async with app.serve(path=path) as server:
            async with await unix_client(str(path)) as connection:
                assert (await Client(connection, server).call("hello"))["payload"] == "hello"
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError, match=r"(?i)already in use"):
        async with app.serve(path=file, backlog=5):
            pytest.fail("it started")
    assert file.read_text() == "precious"


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_start_that_is_cancelled_leaves_no_port_open() -> None:
    """No port stays open, whenever the start is cancelled."""
    app = app_with(hello_group())
    port = free_port()
    for checkpoints in range(30):
        async with anyio.create_task_group() as tasks:
            start = anyio.CancelScope()

            async def cancel(start: anyio.CancelScope = start, n: int = checkpoints) -> None:
                for _ in range(n):
                    await anyio.lowlevel.checkpoint()
                start.cancel()

            tasks.start_soon(cancel)
            with start:
                async with app.serve(["127.0.0.1", "::1"], port):
                    await anyio.sleep_forever()
        for host in ("127.0.0.1", "::1"):
            family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
            sockets.create_server((host, port), family=family).close()
    async with talk(app) as client:
        assert (await client.call("hello"))["payload"] == "hello"
