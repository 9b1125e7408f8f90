"""Attack several servers in the same ways, for the table of docs/reliability.md.

``python tests/support/reliability.py`` prints the table; ``--output docs/reliability.md`` writes
the table into that file, between its markers. ``--help`` tells how to choose attacks, servers and
the length.
Every attack has a server of its own, in a process of its own, on loopback; the attacker runs on the
same machine. Pytest does not collect this module, which measures without passing or failing.

The attacks are in reliability_connections.py and reliability_frames.py, the servers in
reliability_servers.py, their observers in reliability_observers.py.
"""

import argparse
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import anyio
from reliability_connections import (
    COMMANDS,
    FORWARDED,
    HANDSHAKES,
    IN_FLIGHT,
    NOTES,
    VANISHING,
    forwarded_handshakes,
    frozen,
    ignored_close,
    ping_flood,
    pushed_at_once,
    pushed_in_turn,
    revoked_in_its_handshake,
    slow_handler,
    slow_handshakes,
    stopped,
    vanished,
)
from reliability_frames import (
    LONGEST,
    MALFORMED,
    SIZE,
    bomb,
    fragments_without_end,
    long_message,
    malformed,
    many_problems,
    message_flood,
)
from reliability_observers import KIB, Facts
from reliability_servers import LEFT_OUT, SERVERS
from target import MIB

BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"


@dataclass(frozen=True, slots=True)
class Attack:
    title: str
    run: Callable[[str, float], Awaitable[Facts]]
    is_idle: bool = False
    """True for an attack that measures no work, and so may run against all servers at once."""


ATTACKS: Final[dict[str, Attack]] = {
    "push": Attack("Reads nothing, and is pushed to by a task for each message", pushed_at_once),
    "loop": Attack("Reads nothing, and is pushed to in turn with others", pushed_in_turn),
    "pings": Attack("Floods with pings, and reads no pongs", ping_flood),
    "slow": Attack(f"{COMMANDS} commands at once, of 0.2 s each", slow_handler, is_idle=True),
    "frozen": Attack("Is frozen (SIGSTOP)", frozen, is_idle=True),
    "sigterm": Attack(f"Nothing: SIGTERM, with {IN_FLIGHT} commands of 1 s in flight", stopped),
    "handshakes": Attack(f"{HANDSHAKES} handshakes, byte by byte", slow_handshakes),
    "malformed": Attack(f"{len(MALFORMED)} kinds of malformed frames", malformed),
    "long": Attack(f"A message of {SIZE // MIB} MiB", long_message),
    "bomb": Attack(f"A message that unpacks to {SIZE // MIB} MiB", bomb),
    "fragments": Attack("Fragments of one byte without end", fragments_without_end),
    "flood": Attack("Floods with commands, and connects again when closed", message_flood),
    "reset": Attack(f"{VANISHING} clients send RST in the middle of a command", vanished),
    "validation": Attack(
        f"A message of {LONGEST // KIB} KiB, each of whose items lacks 6 fields", many_problems
    ),
    "headers": Attack(
        f"{FORWARDED} handshakes with 32 KiB of `X-Forwarded-For` each", forwarded_handshakes
    ),
    "after": Attack(f"Ignores a close frame, and sends {NOTES} commands in 2 s", ignored_close),
    "revoked": Attack("Is revoked while its handshake is authenticated", revoked_in_its_handshake),
}


# The table.

Results = dict[tuple[str, str], str]


async def measure(attacks: Sequence[str], servers: Sequence[str], seconds: float) -> Results:
    results: Results = {}

    async def cell(attack: str, server: str) -> None:
        facts = await tried(ATTACKS[attack].run(server, seconds))
        results[attack, server] = "; ".join(facts)

    for attack in attacks:
        async with anyio.create_task_group() as tasks:
            for server in servers:
                if ATTACKS[attack].is_idle:
                    tasks.start_soon(cell, attack, server)
                else:
                    await cell(attack, server)
    return results


async def tried(attack: Awaitable[Facts]) -> Facts:
    try:
        with anyio.fail_after(180):
            return await attack
    except Exception as error:
        return [f"the measurement failed: {error!r}"]


def table(attacks: Sequence[str], servers: Sequence[str], results: Results) -> str:
    rows = [
        ["Behaviour of the client", *servers],
        ["---"] * (len(servers) + 1),
        *(
            [ATTACKS[name].title, *(results[name, server] for server in servers)]
            for name in attacks
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def versions() -> str:
    names = ["websockets", "uvicorn", "fastapi", "starlette", "anyio", "trio"]
    installed = ", ".join(f"{name} {version(name)}" for name in names)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {installed}; {platform.system()}, {os.cpu_count()} processors\n"


def put(page: Path, measured: str) -> None:
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page} has no {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{measured}{END}{after}", "utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    usual = [name for name in SERVERS if name not in LEFT_OUT]
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=usual)
    parser.add_argument("--seconds", type=float, default=15, help="how long most attacks take")
    parser.add_argument("--output", type=Path, help="a page with the markers, to write to")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    results = anyio.run(measure, options.attacks, options.servers, options.seconds)
    measured = f"{table(options.attacks, options.servers, results)}\n{versions()}"
    if options.output is None:
        sys.stdout.write(measured)
    else:
        put(options.output, measured)


if __name__ == "__main__":
    main()
