"""The page about production is true: servers beside FastAPI, on shared ports, and their log."""

import json
import logging
import re
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx2
import pages
import pytest
from harness import connect
from recipes import FILES, LINES, PROBE, Recipe, line, replies_of
from run_command import LONG, ask
from websockets.exceptions import InvalidStatus

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.on_asyncio,  # as uvicorn and the clients
    pytest.mark.skipif(sys.platform == "win32", reason="its lines are for a shell of Unix"),
]

MOUNTED = """
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from main import app

api = FastAPI(lifespan=app.lifespan, routes=[WebSocketRoute("/ws", app.asgi)])
"""

RUN_HERE = {
    *("main.py", "api.py", "server.py", "log.json"),
    *("desk.conf",),  # by test_production_nginx.py
    *("database.py", "notes.py", "migrations/env.py", "pod.yaml"),  # by test_production_database.py
}


def test_each_file_and_each_line_of_the_page_is_run_by_a_test() -> None:
    assert set(FILES) == RUN_HERE
    kinds = [kind for kind, _ in pages.blocks(pages.PRODUCTION)]
    assert sorted(set(kinds)) == ["json", "nginx", "python", "sh", "text", "yaml"]
    assert len(kinds) == len(FILES) + len(LINES) + kinds.count("text")
    tests = "".join(each.read_text() for each in Path(__file__).parent.glob("test_production*.py"))
    for each in LINES:
        assert any(each.startswith(start) for start in re.findall(r'\bline\("(.+?)"\)', tests)), (
            each
        )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = Recipe(tmp_path, "api.py", "server.py", "log.json")
    recipe.write("main.py", FILES["main.py"] + PROBE)
    return recipe


@pytest.mark.slow
async def test_the_first_program_makes_a_report(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    recipe.write("main.py", FILES["main.py"].replace("sleep(2)", "sleep(0)"))
    async with recipe.running("websuckets run --port 8001"):
        await recipe.until_health(200)
        async with connect(recipe.url) as client:
            assert await ask(client, "report make") == "a report for 127.0.0.1"
        with pytest.raises(InvalidStatus):
            async with connect(recipe.url.removesuffix("/ws")):
                pytest.fail("it is open")


# Beside FastAPI


@pytest.mark.parametrize("workers", [1, 2])
async def test_commands_beside_fastapi_are_answered_after_sigterm(
    recipe: Recipe, workers: int
) -> None:
    options = f" --workers {workers}" if workers > 1 else ""
    async with recipe.running(line("uvicorn api:api --port 8000 --timeout") + options) as program:
        await program.until("Application startup complete", times=workers)
        await program.until("Uvicorn running on")
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
            answer = await http.get(f"http://127.0.0.1:{recipe.http}/")
        assert answer.json() == "Connect to /ws"
        async with recipe.in_flight(8, recipe.url) as clients:
            program.signal(signal.SIGTERM)
            await program.until("Waiting for application shutdown", times=workers)
            await recipe.until_health(503)
            assert await refusal(recipe.url) == 503
            recipe.open_gate()
            assert await replies_of(clients) == (8, {1012})
        status = await program.ended()
        await program.until("Application shutdown complete", times=workers)
    assert status == (-signal.SIGTERM if workers == 1 else 0)
    assert "ERROR" not in program.log


async def refusal(url: str) -> int:
    """Connect until a client is refused, and return the status: two workers stop one by one."""
    with anyio.fail_after(LONG):
        while True:
            try:
                async with connect(url):
                    pass
            except InvalidStatus as refused:
                return refused.response.status_code


async def test_commands_of_an_app_that_is_mounted_are_not_answered_after_sigterm(
    recipe: Recipe,
) -> None:
    recipe.write("api.py", MOUNTED)
    async with recipe.running(line("uvicorn api:api --port 8000 --timeout")) as program:
        await program.until("Uvicorn running on")
        async with recipe.in_flight(8, f"ws://127.0.0.1:{recipe.http}/ws") as clients:
            program.signal(signal.SIGTERM)
            assert await replies_of(clients) == (0, {1012})
            recipe.open_gate()
        assert await program.ended() == -signal.SIGTERM


@pytest.mark.slow
async def test_a_server_beside_fastapi_shares_the_container_of_its_page(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path)
    text = "\n\n".join(
        text for kind, text in pages.blocks(pages.ROOT / "docs/fastapi.md") if kind == "python"
    )
    for mounted, beside in (
        ("sockets.lifespan()", 'sockets.serve("127.0.0.1", 8001)'),
        (', routes=[WebSocketRoute("/ws", sockets.asgi)]', ""),
    ):
        assert text.count(mounted) == 1
        text = text.replace(mounted, beside)
    recipe.write("api.py", text)
    async with recipe.running(line("uvicorn api:api --port 8000 --timeout")) as program:
        await program.until("Uvicorn running on")
        async with connect(recipe.url) as client:
            assert await ask(client, "count me") == {"my messages": 1, "visitors": 1}
            async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
                answer = await http.get(f"http://127.0.0.1:{recipe.http}/visitors")
            assert answer.json() == {"visitors": 1, "online": 1}
        program.signal(signal.SIGTERM)
        assert await program.ended() == -signal.SIGTERM


# Several processes


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux spreads the clients")
async def test_processes_on_one_port_stop_by_themselves_with_their_replies(recipe: Recipe) -> None:
    commands = [part.strip() for part in line("python server.py").split("&") if part.strip()]
    assert len(commands) == 2
    async with AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(recipe.running(each)) for each in commands]
        for program in programs:
            await program.url()
        clients = await until_each_has_a_client(recipe, stack, {each.pid for each in programs})
        one, other = programs
        await clients[one.pid].send('{"event": "wait"}')
        with anyio.fail_after(LONG):
            while not list(recipe.directory.glob("begun-*")):
                await anyio.sleep(0.01)
        one.signal(signal.SIGTERM)
        await one.until("stopping")
        await until_both_are_seen(recipe, other.pid)
        recipe.open_gate()
        assert await replies_of([clients[one.pid]]) == (1, {1012})
        assert await one.ended() == 0
        for _ in range(16):
            async with connect(recipe.url) as client:
                assert await ask(client, "process") == other.pid


async def until_each_has_a_client(
    recipe: Recipe, stack: AsyncExitStack, pids: set[int]
) -> dict[int, object]:
    """Connect until each process has a client; return a client of each."""
    clients: dict[int, object] = {}
    with anyio.fail_after(LONG):
        while set(clients) != pids:
            client = await stack.enter_async_context(connect(recipe.url))
            clients[await ask(client, "process")] = client
    return clients


async def until_both_are_seen(recipe: Recipe, pid: int) -> None:
    """Connect until one client got HTTP 503, and another one the process with this number."""
    seen: set[int] = set()
    with anyio.fail_after(LONG):
        while seen != {503, pid}:
            try:
                async with connect(recipe.url) as client:
                    seen.add(await ask(client, "process"))
            except InvalidStatus as refused:
                seen.add(refused.response.status_code)


# The log


FAILING = """

@probe.command("fail")
async def fail(socket: Socket) -> None:
    raise RuntimeError("a bug")
"""


async def log_of(recipe: Recipe, command: str, port: int) -> str:
    """Run a program, let one of its commands fail, and return its log."""
    recipe.write("main.py", FILES["main.py"] + PROBE.replace("\n\napp.in", FAILING + "\n\napp.in"))
    async with recipe.running(command) as program:
        with anyio.fail_after(LONG):
            while True:
                try:
                    async with connect(f"ws://127.0.0.1:{port}/ws") as client:
                        await client.send('{"event": "fail"}')
                        assert "internal error" in str(await client.recv())
                    break
                except OSError:
                    await anyio.sleep(0.01)
        program.signal(signal.SIGTERM)
        await program.ended()
    return program.log


LINE = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[\d+\] "
"""Beginning of a line of the log in the form of the page."""


async def test_uvicorn_alone_shows_errors_without_a_time_and_no_other_lines(
    recipe: Recipe,
) -> None:
    log = await log_of(recipe, "uvicorn api:api --port 8000", recipe.port)
    assert "Application startup complete" in log
    assert "listening on" not in log
    assert "RuntimeError: a bug" in log
    assert re.search(r"^'fail' failed, incident \w+$", log, re.M)


async def test_a_configuration_shows_the_log_of_both_under_uvicorn(recipe: Recipe) -> None:
    log = await log_of(recipe, line("uvicorn api:api --port 8000 --log-config"), recipe.port)
    shown = [text for kind, text in pages.blocks(pages.PRODUCTION) if kind == "text"]
    for each in "".join(shown).splitlines():
        end = recipe.with_ports(re.sub(LINE, "", each)).replace("commands: 1", "commands: 5")
        assert re.search(LINE + re.escape(end), log, re.M), log
    assert re.search(LINE + "ERROR websuckets: .*incident", log, re.M), log
    assert re.search(LINE + "INFO uvicorn.error: Finished server process", log, re.M), log
    assert "websockets.server" not in log
    assert "websuckets.access" not in log


async def test_the_configuration_may_add_a_line_for_each_command(recipe: Recipe) -> None:
    addition = '"websuckets.access": {"level": "DEBUG"}'
    assert f"`{addition}`" in pages.prose(pages.PRODUCTION)
    loggers = '"loggers": {'
    assert FILES["log.json"].count(loggers) == 1
    recipe.write("log.json", FILES["log.json"].replace(loggers, f"{loggers}{addition}, "))
    log = await log_of(recipe, line("uvicorn api:api --port 8000 --log-config"), recipe.port)
    assert re.search(LINE + "DEBUG websuckets.access: 'fail' internal error ", log, re.M), log


async def test_the_same_configuration_serves_the_command_line(recipe: Recipe) -> None:
    command = "websuckets run main:app --port 8001 --log-config log.json"
    assert command.partition(" main:app --port 8001")[0] in (page := pages.prose(pages.PRODUCTION))
    assert "websuckets run --log-config log.json" in page
    log = await log_of(recipe, command, recipe.port)
    assert re.search(LINE + "INFO websuckets: listening on", log, re.M), log
    assert re.search(LINE + "ERROR websuckets: .*incident", log, re.M), log


@pytest.mark.parametrize("keeps", [True, False])
async def test_loggers_that_exist_are_kept_where_the_configuration_says_so(
    recipe: Recipe, keeps: bool
) -> None:
    configuration = json.loads(FILES["log.json"])
    if not keeps:
        del configuration["disable_existing_loggers"]
    configure = f"\nimport logging.config\nlogging.config.dictConfig({configuration})\n"
    recipe.write("api.py", FILES["api.py"] + configure)
    log = await log_of(recipe, "uvicorn api:api --port 8000 --log-level critical", recipe.port)
    assert bool(re.search(LINE + "ERROR websuckets: .*incident", log, re.M)) is keeps, log
    assert logging.getLogger("websuckets").disabled is False
