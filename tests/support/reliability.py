"""Attack several servers in the same ways, for the table of docs/reliability.md.

``python tests/support/reliability.py`` prints the table; ``--output docs/reliability.md`` writes
the table into that file, between its markers. ``--help`` tells how to choose attacks, servers and
the length.
Every attack has a server of its own, in a process of its own, on loopback; the attacker runs on the
same machine. Pytest does not collect this module, which measures without passing or failing.

The servers are in reliability_servers.py, their observers in reliability_observers.py.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_process
import websockets.asyncio.client
from peers import (
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PING,
    SMALL,
    TEXT,
    Gone,
    Peer,
    client_process,
    command,
    compressed,
    frame,
    handshake,
    opened,
    tcp,
    text,
)
from reliability_observers import (
    LONG_TIMEOUT,
    Bystander,
    Departure,
    Slowest,
    Victim,
    bystander,
    listener,
    quiet,
    running,
)
from reliability_servers import HOST, KEY, LEFT_OUT, QUERY, SERVERS
from target import MIB
from violations import PLAIN
from websockets.exceptions import ConnectionClosed

BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"


# The attacks: each returns its measurements, in a few words.

Facts = list[str]


def grown(victim: Victim) -> str:
    return f"+{max(victim.growth, 0) / MIB:.0f} MiB"


def milliseconds(wait: Slowest) -> str:
    return f"{wait.seconds * 1000:.0f} ms"


async def stalled_reader(server: str, seconds: float, how: str) -> Facts:
    async with (
        running(server) as victim,
        bystander(victim) as client,
        listener(victim) as gap,
        opened(victim.port, receive_buffer=SMALL) as stalled,
    ):
        await stalled.call("listen", id=1)
        await until_online(client, 3)
        departure = Departure(victim, client)
        await stalled.write(command("push", payload=[how, seconds], id=1))
        await departure.wait(seconds - 0.5, beyond=seconds)
        waited = f"another listener waited {gap.seconds:.1f} s"
        return [grown(victim), str(departure), waited]


async def until_online(client: Bystander, count: int) -> None:
    while client.online != count:
        await anyio.sleep(0.01)


async def pushed_at_once(server: str, seconds: float) -> Facts:
    return await stalled_reader(server, seconds, "at once")


async def pushed_in_turn(server: str, seconds: float) -> Facts:
    return await stalled_reader(server, seconds, "in turn")


async def ping_flood(server: str, seconds: float) -> Facts:
    async with (
        running(server) as victim,
        bystander(victim) as client,
        opened(victim.port, receive_buffer=SMALL) as peer,
        anyio.create_task_group() as tasks,
    ):
        await until_online(client, 2)
        departure = Departure(victim, client)
        tasks.start_soon(peer.flood, frame(PING, b"p" * 125) * 500)
        await departure.wait(seconds)
        tasks.cancel_scope.cancel()
        return [grown(victim), str(departure), f"others waited {milliseconds(client.wait)}"]


COMMANDS: Final = 300


async def slow_handler(server: str, seconds: float) -> Facts:
    async with running(server, ping_interval=1, ping_timeout=1) as victim:
        url = f"ws://{HOST}:{victim.port}"
        connect = websockets.asyncio.client.connect
        async with connect(url, ping_interval=None, proxy=None) as client:
            began = time.monotonic()
            answered = await answers(client)
            took = time.monotonic() - began
            end = "open" if client.close_code is None else f"closed with {client.close_code}"
            return [f"{answered} of {COMMANDS} answered", f"{end} after {took:.0f} s"]


async def answers(client: Any) -> int:
    """Return the number of answers; all commands that the server takes are sent first."""
    count = 0

    async def send() -> None:
        with suppress(ConnectionClosed):
            for id in range(COMMANDS):
                await client.send(json.dumps({"event": "sleep", "payload": 0.2, "id": id}))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        with suppress(ConnectionClosed), anyio.move_on_after(COMMANDS * 0.2 + LONG_TIMEOUT):
            while count < COMMANDS:
                await client.recv()
                count += 1
        tasks.cancel_scope.cancel()
    return count


async def frozen(server: str, seconds: float) -> Facts:
    async with running(server) as victim, bystander(victim) as client:
        async with client_process(victim.port) as peer:
            await until_online(client, 2)
            peer.freeze()
            departure = Departure(victim, client)
            await departure.wait(70)
            return [str(departure)]


IN_FLIGHT: Final = 100


async def stopped(server: str, seconds: float) -> Facts:
    ends = Counter[str]()

    async def read(peer: Peer) -> None:
        replied, end = await read_to_end(peer)
        peer.close()
        ends.update({"replies": replied, end: 1})

    async with running(server) as victim:
        peers = [await Peer.connect(victim.port) for _ in range(IN_FLIGHT)]
        for peer in peers:
            await peer.open()
            await peer.write(command("sleep", payload=1, id=1))
        await anyio.sleep(0.3)
        victim.process.terminate()
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for peer in peers:
                tasks.start_soon(read, peer)
            with anyio.move_on_after(LONG_TIMEOUT):
                await victim.process.wait()
        took = time.monotonic() - began
    replied = ends.pop("replies", 0)
    return [
        f"{replied} of {IN_FLIGHT} replies arrived",
        *(f"{count} clients saw {end}" for end, count in ends.items()),
        f"exit status {victim.process.returncode} after {took:.1f} s",
    ]


async def read_to_end(peer: Peer) -> tuple[int, str]:
    """Return the number of messages and the end of the connection; answer a close frame."""
    replied = 0
    try:
        while True:
            read = await peer.read_frame()
            if read.opcode == CLOSE:
                with suppress(Gone):
                    await peer.write(frame(CLOSE, read.data))
                await peer.read_to_end()
                return replied, str(read.close_code)
            replied += 1
    except Gone:
        return replied, "no close frame"


HANDSHAKES: Final = 200


async def slow_handshakes(server: str, seconds: float) -> Facts:
    ends: list[float] = []

    async def drip() -> None:
        async with tcp(victim.port) as peer, anyio.create_task_group() as tasks:
            began = time.monotonic()
            tasks.start_soon(until_gone, peer)
            await peer.read_to_end()
            ends.append(time.monotonic() - began)
            tasks.cancel_scope.cancel()

    async with (
        running(server) as victim,
        bystander(victim) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(HANDSHAKES):
            tasks.start_soon(drip)
        with anyio.move_on_after(seconds):
            while len(ends) < HANDSHAKES:
                await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
        aborted = f"{len(ends)} of {HANDSHAKES} aborted"
        when = f"after {max(ends):.1f} s" if ends else f"in {seconds:.0f} s"
        return [f"{aborted} {when}", f"others waited {milliseconds(client.wait)}"]


async def until_gone(peer: Peer) -> None:
    with suppress(Gone):
        await peer.drip(handshake(), 0.5)


MALFORMED: Final = [case for name, case in PLAIN.items() if not name.startswith("too long")]
"""Malformed frames, but for too long ones: lengths that one server refuses, another allows."""


async def malformed(server: str, seconds: float) -> Facts:
    ends = Counter[str]()
    async with running(server) as victim:
        for data, code in MALFORMED:
            end = await end_of(victim, data)
            ends["as in RFC 6455" if end == str(code) else end] += 1
        await quiet(victim)
        return [
            *(f"{count} of {len(MALFORMED)}: {end}" for end, count in ends.most_common()),
            grown(victim),
            await errors(victim),
        ]


async def errors(victim: Victim) -> str:
    return f"ERROR lines: {(await victim.seen())['errors']}"


ANSWERED_WITHIN: Final = 5


async def end_of(victim: Victim, data: bytes, **headers: str) -> str:
    """Return what becomes of a client that sends this data."""
    end = f"not closed in {ANSWERED_WITHIN} s"
    async with opened(victim.port, headers=headers) as peer, anyio.create_task_group() as tasks:
        await anyio.sleep(0.05)  # the server is done with the handshake
        tasks.start_soon(write, peer, data)
        with anyio.move_on_after(ANSWERED_WITHIN):
            end = await answer_to(peer)
        tasks.cancel_scope.cancel()
    return end


async def answer_to(peer: Peer) -> str:
    try:
        while True:
            read = await peer.read_frame()
            if read.opcode in (TEXT, CLOSE):
                return str(read.close_code) if read.opcode == CLOSE else "accepted"
    except Gone:
        return "no close frame"


async def write(peer: Peer, data: bytes) -> None:
    with suppress(Gone):
        await peer.write(data)


async def end_and_growth(server: str, data: bytes, **headers: str) -> Facts:
    async with running(server) as victim:
        end = await end_of(victim, data, **headers)
        with suppress(Gone, TimeoutError), anyio.fail_after(LONG_TIMEOUT):
            await quiet(victim)
        return [end, grown(victim), await errors(victim)]


SIZE: Final = 15 * MIB
"""Bytes of a message, a little less than uvicorn allows by default."""


async def long_message(server: str, seconds: float) -> Facts:
    return await end_and_growth(server, text(json.dumps({"event": "x", "payload": "a" * SIZE})))


async def bomb(server: str, seconds: float) -> Facts:
    packed = text(compressed(json.dumps({"event": "x", "payload": "a" * SIZE}).encode()), rsv=4)
    return await end_and_growth(server, packed, **DEFLATE)


async def fragments_without_end(server: str, seconds: float) -> Facts:
    async with (
        running(server) as victim,
        bystander(victim) as client,
        opened(victim.port) as peer,
        anyio.create_task_group() as tasks,
    ):
        await until_online(client, 2)
        await peer.write(text(b"", fin=False))
        departure = Departure(victim, client)
        tasks.start_soon(peer.flood, frame(CONTINUATION, b"a", fin=False) * 10_000)
        await departure.wait(seconds)
        tasks.cancel_scope.cancel()
        return [grown(victim), str(departure), f"others waited {milliseconds(client.wait)}"]


async def message_flood(server: str, seconds: float) -> Facts:
    async with running(server) as victim, bystander(victim) as client:
        flooded = await anyio.to_process.run_sync(flood_with_commands, victim.port, seconds)
        got = [f"{name} {count}" for name, count in flooded.items()]
        return [f"others waited {milliseconds(client.wait)}", *got, grown(victim)]


def flood_with_commands(port: int, seconds: float) -> dict[str, int]:
    """Return the counts of a flooder, which takes a whole processor in a process of its own."""
    return anyio.run(flood_again_and_again, port, seconds)


async def flood_again_and_again(port: int, seconds: float) -> dict[str, int]:
    """Connect again each time that the server closes the connection."""
    counts = Counter[str](connections=0, answers=0, refusals=0)
    with anyio.move_on_after(seconds):
        while True:
            async with tcp(port) as peer, anyio.create_task_group() as tasks:
                await peer.open()
                counts["connections"] += 1
                tasks.start_soon(peer.flood, command("online", id=1) * 1000)
                await read_replies(peer, counts)
                tasks.cancel_scope.cancel()
    return dict(counts)


async def read_replies(peer: Peer, counts: Counter[str]) -> None:
    with suppress(Gone):
        while True:
            read = await peer.read_frame()
            if read.opcode == CLOSE:
                counts[f"closed with {read.close_code}:"] += 1
                return
            counts["refusals" if b'"error"' in read.data else "answers"] += 1


VANISHING: Final = 20


async def vanished(server: str, seconds: float) -> Facts:
    async with running(server) as victim:
        for _ in range(VANISHING):
            async with opened(victim.port) as peer:
                await peer.write(command("transact", payload=0.5, id=1))
                await anyio.sleep(0.05)
                peer.reset()
        await anyio.sleep(1)
        seen = await victim.seen()
        return [
            f"{seen['committed']} of {VANISHING} committed",
            f"{seen['rolled_back']} rolled back",
            f"ERROR lines: {seen['errors']}",
        ]


KIB: Final = 1024
LONGEST: Final = 64 * KIB
"""Bytes of the longest message that websuckets takes by default."""


async def many_problems(server: str, seconds: float) -> Facts:
    async with (
        running(server) as victim,
        bystander(victim) as client,
        opened(victim.port) as peer,
    ):
        await until_online(client, 2)
        await peer.write(text(order_of_empty_items()))
        reply = await size_of_reply(peer)
        return [reply, f"others waited {milliseconds(client.wait)}", grown(victim)]


def order_of_empty_items() -> str:
    """Return the longest command that lacks every field of each of its items."""
    begin, end = '{"event": "order", "id": 1, "payload": [{}', "]}"
    return begin + ",{}" * ((LONGEST - len(begin + end)) // 3) + end


async def size_of_reply(peer: Peer) -> str:
    """Return the size of the next message, or else how the connection ended."""
    try:
        with anyio.fail_after(LONG_TIMEOUT):
            while True:
                read = await peer.read_frame()
                if read.opcode == CLOSE:
                    return f"closed with {read.close_code}"
                if read.opcode == TEXT:
                    return f"a reply of {in_bytes(len(read.data))}"
    except TimeoutError:
        return f"no reply in {LONG_TIMEOUT} s"
    except Gone:
        return "no close frame"


def in_bytes(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size >= MIB else f"{size / KIB:.1f} KiB"


FORWARDED: Final = 20
"""Number of handshakes that come through a proxy."""
CLIENT: Final = "192.0.2.7"
"""Address that the proxy adds to the header."""


def forwarded_handshake() -> bytes:
    """Return an opening handshake with 32 KiB of addresses in lines of 8 KiB.

    Most of the addresses are invented by the client.
    """
    name, end = b"X-Forwarded-For: ", CLIENT.encode() + b"\r\n"
    line = name + b"1," * ((8 * KIB - len(name + end)) // 2) + end
    return handshake().removesuffix(b"\r\n") + line * 4 + b"\r\n"


async def forwarded_handshakes(server: str, seconds: float) -> Facts:
    ends = Counter[str]()

    async def connect() -> None:
        async with tcp(victim.port) as peer:
            ends[await end_of_handshake(peer, forwarded_handshake())] += 1

    async with running(server) as victim, bystander(victim) as client:
        with anyio.move_on_after(LONG_TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for _ in range(FORWARDED):
                    tasks.start_soon(connect)
        if unanswered := FORWARDED - ends.total():
            ends[f"not answered in {LONG_TIMEOUT} s"] = unanswered
        waited = f"others waited {milliseconds(client.wait)}"
        return [waited, *(f"{count} of {FORWARDED} {end}" for end, count in ends.items())]


async def end_of_handshake(peer: Peer, request: bytes) -> str:
    """Return how a handshake through the proxy ends.

    The result names the address that the server takes for the client's, if that is another one.
    """
    try:
        await peer.write(request)
        status = status_of(await peer.read_head())
        if status != SWITCHING_PROTOCOLS:
            return f"refused with HTTP {status}"
        address: str = (await peer.call("address", id=1))["payload"]
    except Gone:
        return "closed without an answer"
    return "accepted" if address == CLIENT else f"accepted as {address}"


SWITCHING_PROTOCOLS: Final = 101


def status_of(head: str) -> int:
    """Return the status of an HTTP response."""
    return int(head.split(maxsplit=2)[1])


ANN: Final = {KEY: "key of ann"}
"""Header of a client who identifies itself in the opening handshake."""
NOTES: Final = 40
BETWEEN_NOTES: Final = 0.05


async def ignored_close(server: str, seconds: float) -> Facts:
    async with (
        running(server) as victim,
        opened(victim.port, headers=ANN) as peer,
        opened(victim.port) as other,
    ):
        await peer.call("address", id=1)  # the program knows the connection now
        await other.write(command("close", payload="ann", id=1))
        with anyio.fail_after(LONG_TIMEOUT):
            end = await peer.read_close()
        with suppress(Gone):
            for _ in range(NOTES):
                await peer.write(command("note"))
                await anyio.sleep(BETWEEN_NOTES)
        with anyio.move_on_after(LONG_TIMEOUT):
            await peer.read_to_end()  # nothing runs after this
        notes = (await victim.seen())["notes"]
        code = "no close frame" if end is None else f"closed with {end.close_code}"
        return [code, f"{notes} of {NOTES} commands run"]


async def revoked_in_its_handshake(server: str, seconds: float) -> Facts:
    async with running(server) as victim, opened(victim.port) as other, tcp(victim.port) as peer:
        began = time.monotonic()
        await peer.write(handshake(headers=ANN))
        while (await other.call("seen", id=1))["payload"]["queries"] == 0:
            await anyio.sleep(0.01)
        await other.call("revoke", payload="ann", id=2)
        if time.monotonic() - began > QUERY:
            raise RuntimeError("the handshake may have been over before the revocation")
        return await service_of(peer)


async def service_of(peer: Peer) -> Facts:
    """Return what a client gets that has sent its opening handshake."""
    try:
        status = status_of(await peer.read_head())
        if status != SWITCHING_PROTOCOLS:
            return [f"handshake refused with HTTP {status}"]
        reply = await peer.call("secret", id=1)
    except Gone:
        return ["connection closed"]
    return ["handshake accepted", f"command {'refused' if 'error' in reply else 'served'}"]


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

T = TypeVar("T")
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
        ["What the client does", *servers],
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
