"""Mistakes in starting an app, in mounting and testing it, and in its configuration."""

from typing import Final

from mistakes import Mistake

BEGIN: Final = """\
import asyncio, socket as sockets
from typing import Any
import anyio
from websuckets import ClientEvent, CommandGroup, Payload, Socket, WebSuckets
from websuckets.testing import TestClient

group = CommandGroup()

@group.command("run")
async def run(socket: Socket) -> int: return 1

app = WebSuckets()
app.include_command_group(group)

"""

MAIN: Final = "async def main() -> None:\n"
RUNS: Final = "anyio.run(main)\n"


def mistake(
    name: str,
    body: str,
    *says: str,
    mended: dict[str, str],
    place: str | None = "line",
    begin: str = BEGIN,
    is_heavy: bool = False,
) -> Mistake:
    return Mistake(name, begin + body, says, tuple(mended.items()), place, is_heavy)


def argument(name: str, given: str, *says: str, mended: str) -> Mistake:
    """Return a mistake in an argument of the app."""
    begin = BEGIN.replace("WebSuckets()", f"WebSuckets({given})  # here")
    return mistake(name, "talk(app)\n", *says, mended={given: mended}, begin=begin)


def redis(name: str, url: str, *says: str, mended: str) -> Mistake:
    """Return a mistake in the URL of a Redis."""
    return mistake(
        name,
        f"from websuckets.redis import RedisProvider\nRedisProvider({url!r})  # here\n",
        "RedisProvider(url)",
        *says,
        mended={repr(url): repr(mended)},
    )


STARTING: Final = (
    mistake(
        "the app is run where an event loop runs",
        MAIN + "    app.run('localhost', 0)  # here\n" + RUNS,
        "app.run() starts an event loop, and one runs already",
        'await app("localhost", 9000)',
        mended={"app.run('localhost', 0)": "async with app.serve('localhost', 0): ..."},
    ),
    mistake(
        "the result of serve is awaited",
        MAIN + "    await app.serve('localhost', 0)  # here\n" + RUNS,
        "app.serve() is a context",
        'async with app.serve("localhost", 9000) as server',
        mended={
            "await app.serve('localhost', 0)": "async with app.serve('localhost', 0): ...",
        },
    ),
    mistake(
        "a port that is in use",
        "taken = sockets.create_server(('127.0.0.1', 0))\n"
        "port = taken.getsockname()[1]\n"
        + MAIN
        + "    async with app.serve('127.0.0.1', port): ...  # here\n"
        "with taken: anyio.run(main)\n",
        "address already in use",
        "127.0.0.1, port ",
        "stop it, or take another port (0 picks a free one)",
        mended={"'127.0.0.1', port": "'127.0.0.1', 0"},
    ),
    mistake(
        "an app that runs in a port that is in use",
        "taken = sockets.create_server(('127.0.0.1', 0))\n"
        "with taken: app.run('127.0.0.1', taken.getsockname()[1])  # here\n",
        "OSError",
        "address already in use",
        "stop it, or take another port",
        mended={"app.run('127.0.0.1', taken.getsockname()[1])": "talk(app)"},
    ),
    mistake(
        "an app that runs nowhere",
        "app.run()  # here\n",
        'where? app("localhost", 9000) serves there',
        mended={"app.run()": "talk(app)"},
    ),
    mistake(
        "an app that serves without a port",
        MAIN + "    async with app.serve('localhost'): ...  # here\n" + RUNS,
        'where? app("localhost", 9000) serves there, port 0 picks a free one',
        mended={"'localhost'": "'localhost', 0"},
    ),
    mistake(
        "an app that runs twice at once",
        MAIN + "    async with app.serve('localhost', 0):\n"
        "        async with app.serve('localhost', 0): ...  # here\n" + RUNS,
        "the app runs already: one app runs once at a time",
        mended={"        async with app.serve('localhost', 0): ...  # here\n": "        ...\n"},
    ),
    mistake(
        "a test of an app that runs",
        MAIN + "    async with TestClient(app):\n"
        "        async with TestClient(app): ...  # here\n" + RUNS,
        "the app runs already: one app runs once at a time",
        "client.connect()",
        mended={
            "TestClient(app):\n        async with TestClient(app)": "TestClient(app) as client:\n"
            "        async with client.connect()"
        },
    ),
    mistake(
        "options that the server does not have",
        MAIN + "    async with app.serve('localhost', 0, reload=True): ...  # here\n" + RUNS,
        "reload",
        "the options of app.serve(), app.run() and app() are those of serve() of websockets",
        mended={", reload=True": ""},
    ),
    mistake(
        "a command line without its extra",
        "import builtins, websuckets.cli, sys\n"
        "known = builtins.__import__\n"
        "def without(name: str, *rest: Any) -> Any:\n"
        "    if name.startswith('websuckets.cli.program'):\n"
        "        raise ModuleNotFoundError('no', name='typer')\n"
        "    return known(name, *rest)\n"
        "builtins.__import__ = without\n"
        "try:\n    websuckets.cli.main()  # here\n"
        "except SystemExit as end: raise RuntimeError(end)\n"
        "finally: builtins.__import__ = known\n",
        "websuckets: typer is missing, which the command line needs",
        'pip install ".[cli]"',
        mended={"    websuckets.cli.main()": "    pass"},
    ),
    mistake(
        "many nodes without their extra",
        "import importlib.util, sys\n"
        "loaded = {name: sys.modules.pop(name) for name in list(sys.modules)\n"
        "          if name.startswith('websuckets.redis')}\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None\n"
        "try: import websuckets.redis  # here\n"
        "finally:\n    importlib.util.find_spec = found\n    sys.modules.update(loaded)\n",
        'websuckets.redis needs coredis: install websuckets with its extra "redis"',
        'pip install ".[redis]"',
        mended={"= lambda name, *rest: None": "= found"},
    ),
    mistake(
        "a backend that there is not",
        "app.run('localhost', 0, backend='uvloop')  # here\n",
        "backend='uvloop'",
        "it is asyncio or trio",
        mended={"app.run('localhost', 0, backend='uvloop')": "talk(app)"},
    ),
    mistake(
        "trio without its extra",
        "import sys\nloaded = sys.modules.get('trio')\nsys.modules['trio'] = None\n"
        "try: app.run('localhost', 0, backend='trio')  # here\n"
        "finally: sys.modules['trio'] = loaded\n",
        "backend='trio'",
        'install websuckets with its extra "trio"',
        'pip install ".[trio]"',
        mended={"app.run('localhost', 0, backend='trio')": "talk(app)"},
    ),
)
"""Mistakes in starting an app."""

MOUNTING: Final = (
    mistake(
        "an app that is mounted without its lifespan",
        "from fastapi import FastAPI\nfrom starlette.testclient import TestClient as Client\n"
        "@app.on_startup\nasync def begin() -> None: ...\n"
        "host = FastAPI()\nhost.mount('/ws', app.asgi)\n"
        "with Client(host) as http:\n"
        "    with http.websocket_connect('/ws/'): ...  # here\n",
        "the app has not started",
        "async with app.lifespan()",
        mended={"FastAPI()": "FastAPI(lifespan=app.lifespan)"},
    ),
    mistake(
        "a scope that is not one",
        MAIN + "    await app.asgi({'type': 'mqtt'}, None, None)  # here\n" + RUNS,
        "websuckets serves WebSocket, and knows nothing of 'mqtt'",
        mended={"await app.asgi({'type': 'mqtt'}, None, None)": "..."},
    ),
    mistake(
        "an ASGI server that calls the app without arguments",
        "app()  # here\n",
        'where? app("localhost", 9000) serves there',
        mended={"app()": "talk(app)"},
    ),
    mistake(
        "an ordinary request to the path of the WebSocket",
        "from starlette.testclient import TestClient as Client\n"
        "with Client(app) as http:\n"
        "    answer = http.get('/')\n"
        "    assert answer.status_code == 200, answer.text  # here\n",
        "This address serves WebSocket; connect with a WebSocket client.",
        mended={"'/')": "'/health')"},
    ),
    mistake(
        "a page whose origin is not allowed",
        MAIN + "    async with TestClient(app, headers={'Origin': 'https://a.org'}): ...\n" + RUNS,
        "refused ",
        "HTTP 403, the origin is not among WebSuckets(origins=[...]); its origin: 'https://a.org'",
        mended={"['https://b.org']": "['https://b.org', 'https://a.org']"},
        begin=BEGIN.replace("WebSuckets()", "WebSuckets(origins=['https://b.org'])"),
        place=None,
    ),
    mistake(
        "a path that is not the app's",
        MAIN + "    async with TestClient(app, '/sw'): ...\n" + RUNS,
        "HTTP 404, the path is not that of WebSuckets(path=...)",
        mended={"'/sw'": "'/ws'"},
        begin=BEGIN.replace("WebSuckets()", "WebSuckets(path='/ws')"),
        place=None,
    ),
)
"""Mistakes in serving by an ASGI server, and of clients that connect."""

TESTING: Final = (
    mistake(
        "a call that is not awaited",
        MAIN + "    async with TestClient(app) as client: client.call('run')\n" + RUNS,
        "coroutine 'TestClient.call' was never awaited",
        mended={"client.call": "await client.call"},
        place=None,
    ),
    mistake(
        "a client that is not entered",
        MAIN + "    await TestClient(app).call('run')  # here\n" + RUNS,
        "it is not connected yet: async with TestClient(app) as client",
        mended={
            "    await TestClient(app).call('run')": "    async with TestClient(app) as client: "
            "await client.call('run')"
        },
    ),
    mistake(
        "a client that is called after its end",
        MAIN + "    async with TestClient(app) as client: ...\n"
        "    await client.call('run')  # here\n" + RUNS,
        "this TestClient has been left; call it within its `async with`",
        mended={"client: ...\n    await client.call('run')": "client: await client.call('run')"},
    ),
    mistake(
        "a client that is entered twice",
        MAIN + "    client = TestClient(app)\n    async with client: ...\n"
        "    async with client: ...  # here\n" + RUNS,
        "a TestClient is entered once; make another, or client.connect()",
        mended={"    async with client: ...  # here": "    async with TestClient(app): ..."},
    ),
    mistake(
        "a client of another framework's app",
        "from fastapi import FastAPI\nTestClient(FastAPI())  # here\n",
        "TestClient takes the WebSuckets, not a FastAPI",
        "of an app that was mounted, pass the app itself",
        mended={"FastAPI()": "app"},
    ),
    mistake(
        "an override while the app runs",
        "from dishka import Provider\n" + MAIN + "    async with TestClient(app):\n"
        "        with app.override(Provider()): ...  # here\n" + RUNS,
        "the app runs already: override providers before it starts",
        mended={
            "    async with TestClient(app):\n": "    with app.override(Provider()):\n",
            "        with app.override(Provider())": "        async with TestClient(app)",
        },
    ),
    mistake(
        "an override that replaces nothing",
        "class Db: ...\nclass Clock: ...\n" + MAIN + "    with app.override(values={Db: Db()}):\n"
        "        async with TestClient(app): ...  # here\n" + RUNS,
        "override(values=...): nothing provides or asks for Db, so its value replaces nothing",
        "name the type by which others ask for it",
        mended={"{Db: Db()}": "{}"},
    ),
    mistake(
        "values of an override that are not a mapping",
        "class Db: ...\n" + MAIN + "    with app.override(values=Db()): ...  # here\n" + RUNS,
        "override(values=",
        "write {Type: object}",
        mended={"values=Db()": "values={}"},
    ),
    mistake(
        "a client in another event loop",
        "client = TestClient(app)\n" + MAIN + "    await client.__aenter__()\n"
        "async def other() -> None:\n    await client.call('run')  # here\n"
        "async def both() -> None:\n"
        "    await main()\n"
        "    try: await anyio.to_thread.run_sync(lambda: anyio.run(other))\n"
        "    finally: await client.__aexit__(None, None, None)\n"
        "import anyio.to_thread\nanyio.run(both)\n",
        "this TestClient was entered in another event loop",
        "let a fixture and its tests have the same",
        mended={"await anyio.to_thread.run_sync(lambda: anyio.run(other))": "await other()"},
    ),
    mistake(
        "a command that does not stream",
        MAIN + "    async with TestClient(app) as client:\n"
        "        async for _ in client.stream('run'): ...  # here\n" + RUNS,
        "'run' is not a stream; call() returns its reply",
        mended={"async for _ in client.stream('run'): ...": "await client.call('run')"},
    ),
    mistake(
        "an event that does not come",
        MAIN + "    async with TestClient(app) as client:\n"
        "        await client.receive(0.05)  # here\n" + RUNS,
        "no event within 0.05 seconds",
        mended={"await client.receive(0.05)": "await client.send('run'); await client.receive()"},
    ),
)
"""Mistakes in tests of an app."""

CONFIGURING: Final = (
    argument(
        "an origin with a path",
        "origins=['https://example.org/chat']",
        'write "https://example.org"',
        mended="origins=['https://example.org', None]",
    ),
    argument(
        "an origin that is a pattern",
        "origins=['https://*.example.org']",
        "patterns are not supported: list every origin",
        mended="origins=['https://a.example.org', None]",
    ),
    argument(
        "every origin",
        "origins=['*']",
        "to let every page connect, leave out origins=",
        mended="",
    ),
    argument(
        "origins that are not in a list",
        "origins='https://example.org'",
        "write a list, ['https://example.org']",
        mended="origins=['https://example.org', None]",
    ),
    argument(
        "a path without a slash",
        "path='ws'",
        'a path begins with a "/"',
        "write '/ws'",
        mended="path='/'",
    ),
    argument(
        "a proxy that everybody is",
        "trusted_proxies=['0.0.0.0/0']",
        "where everybody is a proxy, nobody is a client",
        "write addresses, networks",
        mended="trusted_proxies=['10.0.0.0/8']",
    ),
    argument(
        "a subprotocol with a blank",
        "subprotocols=['chat v1']",
        "a subprotocol is a token of RFC 9110",
        "without blanks and commas",
        mended="subprotocols=['chat.v1']",
    ),
    redis(
        "a URL of a Redis without its scheme",
        "localhost:6379",
        "write",
        mended="redis://localhost:6379",
    ),
    redis(
        "a password that is not quoted",
        "redis://:a@b/c@localhost",
        "urllib.parse.quote",
        mended="redis://:a%40b%2Fc@localhost",
    ),
    redis(
        "a database that is a word",
        "redis://localhost/main",
        "the number of a database: redis://localhost:6379/0",
        mended="redis://localhost/0",
    ),
    redis(
        "an option of TLS without TLS",
        "redis://localhost?ssl_cert_reqs=none",
        "the option ssl_cert_reqs is for TLS: write rediss://",
        mended="rediss://localhost?ssl_cert_reqs=none",
    ),
    redis(
        "an option that there is not",
        "redis://localhost?databse=1",
        "it has the unknown option 'databse'",
        mended="redis://localhost?db=1",
    ),
)
"""Mistakes in what an app is given."""
