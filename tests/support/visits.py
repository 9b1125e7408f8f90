"""Visits of clients that come and go, most of them badly, with the commands of `target`."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
from peers import PING, Gone, Peer, close, command, fragments, frame, handshake, tcp, text
from timeouts import TIMEOUT

HALF_A_COMMAND: Final = command("ping")[:-3]


async def visit(peer: Peer) -> None:
    await peer.open()
    await peer.call("ping")


async def leave_properly(peer: Peer) -> None:
    await visit(peer)
    await peer.write(close(1000))
    await peer.read_to_end()


async def leave_with_a_reset(peer: Peer) -> None:
    await visit(peer)
    peer.reset()


async def leave_with_a_command(peer: Peer) -> None:
    await visit(peer)
    await peer.write(command("sleep", payload=0.01) + command("push by a stream") + command("ping"))
    peer.reset()


async def leave_half_way(peer: Peer) -> None:
    await visit(peer)
    await peer.write(HALF_A_COMMAND)
    peer.finish()
    await peer.read_to_end()


async def break_the_protocol(peer: Peer) -> None:
    await visit(peer)
    await peer.write(frame(3))
    await peer.read_to_end()


async def say_half_a_handshake(peer: Peer) -> None:
    await peer.write(handshake()[:60])


async def reset_half_a_handshake(peer: Peer) -> None:
    await peer.write(handshake()[:60])
    peer.reset()


async def say_nothing(peer: Peer) -> None: ...


async def say_no_handshake(peer: Peer) -> None:
    await peer.write(b"\x00\r\n\r\n")


async def not_wait_for_the_answer(peer: Peer) -> None:
    await peer.write(handshake())


async def not_wait_for_the_answer_and_reset(peer: Peer) -> None:
    await peer.write(handshake() + command("ping"))
    peer.reset()


Visit = Callable[[Peer], Awaitable[None]]

VISITS: Final[list[Visit]] = [
    leave_properly,
    leave_with_a_reset,
    leave_with_a_command,
    leave_half_way,
    break_the_protocol,
    say_half_a_handshake,
    reset_half_a_handshake,
    say_nothing,
    say_no_handshake,
    not_wait_for_the_answer,
    not_wait_for_the_answer_and_reset,
]


async def read_slowly(peer: Peer) -> None:
    await visit(peer)
    await peer.write(command("push by a stream"))
    for _ in range(20):
        await peer.read()
        await anyio.sleep(0.02)


async def not_read(peer: Peer) -> None:
    await visit(peer)
    await peer.write(command("push by a stream"))
    await anyio.sleep(0.5)
    peer.reset()


async def not_read_until_aborted(peer: Peer) -> None:
    await visit(peer)
    await peer.write(command("push by a stream"))
    await anyio.sleep(3)
    with anyio.move_on_after(1):  # a server with much else to do may not have sent enough yet
        await peer.read_to_end()


async def flood_with_pings(peer: Peer) -> None:
    await visit(peer)
    with anyio.move_on_after(0.2):
        await peer.flood(frame(PING, b"p" * 125) * 50)


async def flood_with_commands(peer: Peer) -> None:
    await visit(peer)
    await peer.write(command("sleep", payload=0.001, id=1) * 300)
    await peer.read()
    peer.reset()


async def never_finish_a_message(peer: Peer) -> None:
    await visit(peer)
    await peer.write(fragments(100))


async def send_no_utf8(peer: Peer) -> None:
    await visit(peer)
    await peer.write(text(b"\xff"))
    await peer.read_to_end()


async def send_too_much(peer: Peer) -> None:
    await visit(peer)
    await peer.write(text(b"a", length=1 << 62))
    with anyio.move_on_after(0.5):  # under ASGI the server may wait for the client
        await peer.read_to_end()


async def drip_a_handshake(peer: Peer) -> None:
    await peer.drip(handshake()[:60], 0.01)


LONG_VISITS: Final[list[Visit]] = [
    read_slowly,
    not_read,
    not_read_until_aborted,
    flood_with_pings,
    flood_with_commands,
    never_finish_a_message,
    send_no_utf8,
    send_too_much,
    drip_a_handshake,
]
"""Visits that take some time."""


async def pay(port: int, visit: Visit, *, receive_buffer: int | None = None) -> None:
    """Make the visit, which must end in time, whatever the server does."""
    with anyio.fail_after(3 * TIMEOUT):  # the server may have much else to do
        async with tcp(port, receive_buffer=receive_buffer) as peer:
            with suppress(Gone):
                await visit(peer)
