"""Attacks by frames and messages, for reliability.py: each returns its measurements."""

import json
from collections import Counter
from contextlib import suppress
from typing import Final

import anyio
import anyio.to_process
from peers import (
    CLOSE,
    CONTINUATION,
    DEFLATE,
    TEXT,
    Gone,
    Peer,
    command,
    compressed,
    frame,
    opened,
    tcp,
    text,
)
from reliability_observers import (
    KIB,
    LONG_TIMEOUT,
    Departure,
    Facts,
    Victim,
    bystander,
    errors,
    grown,
    milliseconds,
    quiet,
    running,
    until_online,
)
from target import MIB
from violations import PLAIN

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
