"""Check that our connections keep to RFC 6455 and RFC 7692 as well as those of ``websockets``.

The fuzzing client of the Autobahn|Testsuite talks to three echoes: one over ``websockets`` itself
on asyncio, and one over our connections on asyncio and on trio each. The verdicts of the client are
compared case by case. Some depend on timing, so cases in which one of our echoes is worse are
repeated until it is not. The exit code is 1 if one of ours is always worse in a case, or if a
connection does not end. The run takes too long for pytest::

    python tests/support/autobahn.py
    python tests/support/autobahn.py --cases "7.*" "12.1.*"

The test suite needs Python 2.7 and, to be installed into a cache by the first run, a C compiler.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
from anyio.from_thread import start_blocking_portal
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed

from websuckets.limits import Limits
from websuckets.protocol.transport import HttpResponse, TransportConnection
from websuckets.runtime.clock import Clock
from websuckets.transports import running_transport

TEST_SUITE: Final = "autobahntestsuite==25.10.1"
VIRTUALENV: Final = "virtualenv<20.22"
"""Version of virtualenv: the last one that makes environments of Python 2.7."""

LIST_CASES: Final = """
import autobahntestsuite.case, json
names = [case.__name__ for case in autobahntestsuite.case.Cases]
print(json.dumps([name[len("Case"):].replace("_", ".") for name in names]))
"""
COMPRESSED: Final = ("12.", "13.")
"""Prefixes of the numbers of cases that need compression; other cases are run without it."""

HOST: Final = "127.0.0.1"
ROUNDS: Final = 10
STOP_TIMEOUT: Final = 20
"""Seconds, more than ``websockets`` gives a client to answer a close."""

KINDS: Final = {"behavior": "cases", "behaviorClose": "closings"}
"""Kinds of verdicts on each case: on what the server did, and on how it closed the connection."""
RANKS: Final = {"OK": 0, "INFORMATIONAL": 0, "NON-STRICT": 1, "UNIMPLEMENTED": 2}
"""Ranks of verdicts; any other verdict is a failure."""

Verdicts: TypeAlias = dict[str, list[str]]
"""Verdicts of each kind, by the number of the case."""


@asynccontextmanager
async def theirs(compression: str | None) -> AsyncIterator[int]:
    """Yield the port of an echo over ``websockets`` itself."""
    async with serve(echo, HOST, 0, compression=compression, max_size=None) as server:
        yield server.sockets[0].getsockname()[1]


async def echo(connection: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            await connection.send(await connection.recv())


@asynccontextmanager
async def ours(compression: str | None) -> AsyncIterator[int | None]:
    """Yield the port of an echo over our connections, on the event loop that runs this function."""
    limits = Limits(max_size=None, compression=compression)
    listen = running_transport().listen
    async with listen(OpenAcceptor(), stop, HOST, 0, limits, Clock(), {}) as listener:
        yield listener.port


class OpenAcceptor:
    """An acceptor that accepts every client."""

    def address_of(self, peer: Any, headers: Headers) -> Any:
        return peer

    def accept(self, transport: TransportConnection) -> "Echo":
        return Echo(transport)

    has_subprotocols = False

    def subprotocol(self, offered: Iterable[str]) -> None: ...

    async def answer(self, path: str) -> HttpResponse:
        return HttpResponse(426, "")


@dataclass
class Echo:
    """A connection handler that the transport drives for each client, in place of the app's."""

    transport: TransportConnection

    async def opening(self) -> None:
        """Accept every client."""

    async def serve(self) -> None:
        with suppress(*self.transport.closed_errors):
            while True:
                await self.transport.socket.send(await self.transport.receive())

    def cancel(self) -> None: ...

    def disconnected(self) -> None: ...

    async def not_opened(self) -> None: ...


stuck: list[str] = []
"""Names of the transports of which connections did not end."""


async def stop(wait_closed: Callable[[], Awaitable[None]], hand_over: object = None) -> None:
    """Wait for the connections to end; every client has left already."""
    with anyio.move_on_after(STOP_TIMEOUT) as waiting:
        await wait_closed()
    if waiting.cancelled_caught:
        stuck.append(running_transport().__name__)


REFERENCE: Final = "websockets"
SERVERS: Final[dict[str, tuple[str, Callable[[str | None], Any]]]] = {
    REFERENCE: ("asyncio", theirs),
    "ours on asyncio": ("asyncio", ours),
    "ours on trio": ("trio", ours),
}
"""Servers, each run in a thread of its own."""


def fuzz(
    environment: Path, cases: list[str], compression: str | None, reports: Path
) -> dict[str, Verdicts]:
    """Return the verdicts on each server."""
    reports.mkdir(parents=True)
    with ExitStack() as stack, open(reports / "log.txt", "w") as log:
        servers = []
        for name, (backend, server) in SERVERS.items():
            portal = stack.enter_context(start_blocking_portal(backend))
            context = portal.wrap_async_context_manager(server(compression))
            port = stack.enter_context(context)
            servers.append({"agent": name, "url": f"ws://{HOST}:{port}"})
        spec = reports / "spec.json"
        spec.write_text(json.dumps({"servers": servers, "cases": cases, "outdir": str(reports)}))
        run(environment / "bin/wstest", "-m", "fuzzingclient", "-s", spec, stdout=log)
    index = json.loads((reports / "index.json").read_text())
    return {name: verdicts(index.get(name, {}), cases) for name in SERVERS}


def verdicts(report: dict[str, dict[str, str]], cases: list[str]) -> Verdicts:
    return {case: [report.get(case, {}).get(kind, "MISSING") for kind in KINDS] for case in cases}


def choose(environment: Path, patterns: Sequence[str]) -> list[str]:
    """Return the numbers of the cases that match one of the patterns."""
    cases = json.loads(run(environment / "bin/python", "-c", LIST_CASES, stdout=subprocess.PIPE))
    return [case for case in cases if any(fnmatchcase(case, pattern) for pattern in patterns)]


def install(python2: str, cache: Path) -> Path:
    """Return the environment of the test suite, which is made if there is none yet."""
    environment, tool = cache / "environment", cache / "virtualenv"
    if not (environment / "bin/wstest").exists():  # made last
        print(f"installing {TEST_SUITE} into {cache}", flush=True)
        pip = ("-m", "pip", "install", "-qq")
        run(sys.executable, *pip, "--upgrade", "--target", tool, VIRTUALENV)
        virtualenv = ("-m", "virtualenv", "-qq", "--app-data", tool / "seeds")
        run(sys.executable, *virtualenv, "-p", python2, environment, PYTHONPATH=str(tool))
        run(environment / "bin/python", *pip, TEST_SUITE)
    return environment


def run(*command: str | Path, stdout: Any = None, **variables: str) -> bytes:
    environment = os.environ | variables
    return subprocess.run(command, check=True, stdout=stdout, env=environment).stdout


def find_python2(given: str | None) -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    found = ["python2.7", *map(str, sorted(pyenv.glob("versions/2.7*/bin/python2.7")))]
    return next(filter(is_python2, [given] if given else found), None)


def is_python2(command: str) -> bool:
    """Return whether the command runs Python 2.7: a command that pyenv puts on the path may not."""
    check = "import sys; sys.exit(sys.version_info[:2] != (2, 7))"
    try:
        return subprocess.run([command, "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


def fuzz_all(environment: Path, cases: list[str], reports: Path) -> dict[str, Verdicts]:
    """Return the verdicts on each server, of all cases with the compression that they need."""
    compressed = [case for case in cases if case.startswith(COMPRESSED)]
    plain = [case for case in cases if case not in compressed]
    found: dict[str, Verdicts] = {name: {} for name in SERVERS}
    for chosen, compression in (plain, None), (compressed, "deflate"):
        if chosen:
            judged = fuzz(environment, chosen, compression, reports / f"compression-{compression}")
            for name in SERVERS:
                found[name] |= judged[name]
    return found


def tell_counts(found: dict[str, Verdicts]) -> None:
    for name, of_server in found.items():
        for kind, given in zip(KINDS.values(), zip(*of_server.values(), strict=True), strict=True):
            counts = [f"{count} {verdict}" for verdict, count in Counter(given).most_common()]
            print(f"{name:16} {len(given):4} {kind:9} {', '.join(counts)}")


def tell_worse(found: dict[str, Verdicts]) -> set[tuple[str, str]]:
    """Print and return which of our servers are worse, with the cases."""
    worse = set()
    for case, reference in found[REFERENCE].items():
        for name, of_server in found.items():
            if is_worse(of_server[case], reference):
                print(f"{case:8} {name}: {of_server[case]}, {REFERENCE}: {reference}")
                worse.add((name, case))
    return worse


def is_worse(verdict: list[str], reference: list[str]) -> bool:
    ranks = [[RANKS.get(each, len(RANKS)) for each in given] for given in (verdict, reference)]
    return any(ours > theirs for ours, theirs in zip(*ranks, strict=True))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["*"], help='"9.*", for instance; else all')
    parser.add_argument("--python2", help="a Python 2.7; else one on the path or of pyenv")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/websuckets-autobahn"))
    return parser.parse_args()


def main() -> int:
    given = arguments()
    python2 = find_python2(given.python2)
    if python2 is None:
        print("skipped: there is no Python 2.7, which the Autobahn|Testsuite needs")
        return 0
    environment = install(python2, given.cache.expanduser().absolute())
    cases = choose(environment, given.cases)
    if not cases:
        sys.exit("no case matches")
    reports = Path(tempfile.mkdtemp(prefix="websuckets-autobahn-"))
    print(f"reports: {reports}", flush=True)
    found = fuzz_all(environment, cases, reports / "round-1")
    tell_counts(found)
    worse = tell_worse(found)
    for number in range(2, ROUNDS + 1):
        if worse:
            print(f"round {number} of at most {ROUNDS}", flush=True)
            cases = [case for _, case in worse]
            worse &= tell_worse(fuzz_all(environment, cases, reports / f"round-{number}"))
    for name, case in sorted(worse):
        print(f"{name} is always worse in {case}")
    for name in stuck:
        print(f"a connection of {name} did not end")
    return int(bool(worse or stuck))


if __name__ == "__main__":
    sys.exit(main())
