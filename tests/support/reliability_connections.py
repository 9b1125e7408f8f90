"""Attacks by clients that do not read, are slow, leave, or connect in bad ways, for reliability.py.

Each attack returns its measurements, in a few words.
"""

import json
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

import anyio
import websockets.asyncio.client
from peers import (
    CLOSE,
    PING,
    SMALL,
    Gone,
    Peer,
    client_process,
    command,
    frame,
    handshake,
    opened,
    tcp,
)
from reliability_observers import (
    KIB,
    LONG_TIMEOUT,
    Departure,
    Facts,
    bystander,
    grown,
    listener,
    milliseconds,
    running,
    until_online,
)
from reliability_servers import HOST, KEY, QUERY
from websockets.exceptions import ConnectionClosed


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
