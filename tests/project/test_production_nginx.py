"""The site of nginx on the page about production: TLS, addresses, and new versions behind it."""

import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Any

import anyio
import httpx2
import nginx
import pages
import pytest
import trustme
from harness import connect
from load import Load, ran
from ports import free_port
from recipes import FILES, PROBE, Recipe, line, replies_of
from run_command import LONG, ask
from websockets.exceptions import InvalidHandshake

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.on_asyncio,
    pytest.mark.skipif(sys.platform == "win32", reason="its lines are for a shell of Unix"),
]

HOST = "desk.example.org"
SERVER = "    server 127.0.0.1:8001;\n"
"""Line of the site that names a process of the app."""


class Site:
    """The site of the page, on a free port."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.program = nginx.program()
        self.port = free_port()
        authority = trustme.CA()
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        certificate = authority.issue_cert(HOST)
        directory = recipe.directory
        certificate.private_key_pem.write_to_path(directory / "desk.key")
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(directory / "desk.pem", append=True)

    @asynccontextmanager
    async def running(self, *ports: int, events: str = "") -> AsyncIterator[None]:
        """Run nginx in front of the processes with these ports."""
        text = FILES["desk.conf"]
        for ours, theirs in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("/etc/ssl/", f"{self.recipe.directory}/"),
            (SERVER, "".join(SERVER.replace("8001", str(port)) for port in ports)),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        path = nginx.configure(self.recipe.directory, self.recipe.with_ports(text), events)
        command = f"{self.program} -p {self.recipe.directory} -c {path}"
        async with self.recipe.running(command) as server:
            await server.until(nginx.STARTED)
            yield
            server.signal(SIGTERM)
            await server.ended()

    def connect(self, **options: Any) -> Any:
        """Return a client that comes to the site by its name; a context manager."""
        return connect(f"wss://{HOST}/ws", **self.options, **options)

    @property
    def options(self) -> dict[str, Any]:
        return {"ssl": self.trust, "host": "127.0.0.1", "port": self.port}

    async def get(self, path: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, verify=self.trust) as http:
            return await http.get(
                f"https://127.0.0.1:{self.port}{path}",
                headers={"Host": HOST},
                extensions={"sni_hostname": HOST},
            )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = Recipe(tmp_path, "api.py", "server.py")
    recipe.write("main.py", FILES["main.py"] + PROBE)
    return recipe


@pytest.fixture
def site(recipe: Recipe) -> Site:
    return Site(recipe)


async def test_nginx_brings_both_protocols_with_tls_and_the_address_of_the_client(
    recipe: Recipe, site: Site
) -> None:
    recipe.write("main.py", FILES["main.py"].replace("sleep(2)", "sleep(0)"))
    async with (
        recipe.running(line("uvicorn api:api --port 8000 --timeout")) as program,
        site.running(recipe.port),
    ):
        await program.until("Uvicorn running on")
        made_up = {"X-Forwarded-For": "192.0.2.1"}
        local = {"local_addr": ("127.0.0.2", 0)}
        async with site.connect(**local, additional_headers=made_up) as client:
            assert await ask(client, "report make") == "a report for 127.0.0.2"
        assert (await site.get("/")).json() == "Connect to /ws"
        assert (await site.get("/health")).status_code == 404  # FastAPI's answer
        assert (await site.get("/ws")).status_code == 426


async def test_without_trusted_proxies_all_clients_have_the_address_of_nginx(
    recipe: Recipe, site: Site
) -> None:
    text = FILES["main.py"].replace("sleep(2)", "sleep(0)")
    recipe.write("main.py", text.replace(', trusted_proxies=["127.0.0.1"]', ""))
    async with recipe.running("python server.py") as program, site.running(recipe.port):
        await program.url()
        async with site.connect(local_addr=("127.0.0.2", 0)) as client:
            assert await ask(client, "report make") == "a report for 127.0.0.1"


def test_nginx_waits_for_longer_than_a_ping_and_its_pong() -> None:
    timeouts = dict(re.findall(r"proxy_(read|send)_timeout (\d+)s;", FILES["desk.conf"]))
    assert set(timeouts) == {"read", "send"}
    ping_interval, ping_timeout = 20, 20  # the defaults of websockets
    assert min(map(int, timeouts.values())) > ping_interval + ping_timeout


async def test_nginx_sends_new_clients_past_a_process_that_stops(
    recipe: Recipe, site: Site
) -> None:
    other_port = free_port()
    recipe.write("other.py", FILES["server.py"].replace("8001", str(other_port)))
    async with (
        recipe.running("python server.py") as one,
        recipe.running("python other.py") as other,
        site.running(recipe.port, other_port),
        AsyncExitStack() as stack,
    ):
        await one.url()
        await other.url()
        clients = [await stack.enter_async_context(site.connect()) for _ in range(4)]
        reached = [await ask(client, "process") for client in clients]
        assert sorted(reached) == sorted([one.pid, other.pid] * 2)
        async with recipe.in_flight(1, recipe.url) as waiting:
            one.signal(SIGTERM)
            await recipe.until_health(503)
            for _ in range(8):
                async with site.connect() as client:
                    assert await ask(client, "process") == other.pid
            recipe.open_gate()
            assert await replies_of(waiting) == (1, {1012})
        assert await one.ended() == 0
        for _ in range(8):
            async with site.connect() as client:
                assert await ask(client, "process") == other.pid


async def test_a_client_takes_two_connections_of_nginx(recipe: Recipe, site: Site) -> None:
    async with (
        recipe.running("python server.py") as program,
        site.running(recipe.port, events="worker_connections 20;"),
        AsyncExitStack() as stack,
    ):
        await program.url()
        accepted = 0
        with pytest.raises((OSError, EOFError, InvalidHandshake)):
            while accepted < 20:
                await stack.enter_async_context(site.connect())
                accepted += 1
        assert 5 <= accepted < 10


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as the tests of deployments")
async def test_a_new_version_behind_nginx_refuses_no_client_and_loses_no_reply(
    recipe: Recipe, site: Site
) -> None:
    command = "websuckets run main:app --port 8001 --workers 2"
    assert f"`{command}`" in pages.prose(pages.PRODUCTION)
    async with recipe.running(command) as program, site.running(recipe.port):
        await program.until("workers: 2")
        load = Load(f"wss://{HOST}/ws", **site.options)
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(load.talk)
            for _ in range(2):
                tasks.start_soon(load.visit)
            with anyio.fail_after(LONG):
                while load.connections < 12:
                    await anyio.sleep(0.01)
            program.signal(SIGHUP)
            await program.until("SIGHUP: replaced each worker")
            load.stops = True
        assert load.refused == []
        assert set(load.codes) == {1012}, load.codes
        assert set(ran(program)) == load.answered
        program.signal(SIGTERM)
        assert await program.ended() == 0
