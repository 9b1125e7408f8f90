"""One client of the load generator, with the part of RFC 6455 that it needs."""

import base64
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Final

from benchmarks.dialects import Dialect
from benchmarks.job import HOST

__all__ = ["TEXT", "TIMEOUT", "Peer", "Unexpected", "connected", "masked"]

TIMEOUT: Final = 20.0
"""Seconds without any answer, after which a server has failed."""
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


class Unexpected(Exception):
    """Error of a server that does not do the job."""


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame, masked."""
    size = len(payload)
    if size < 126:
        header = struct.pack("!BB", opcode, 0x80 | size)
    elif size < 1 << 16:
        header = struct.pack("!BBH", opcode, 0x80 | 126, size)
    else:
        header = struct.pack("!BBQ", opcode, 0x80 | 127, size)
    mask = b"\x35\xa7\x1e\xc4"
    key = int.from_bytes(mask * (size // 4 + 1), "big") >> 8 * (4 - size % 4)
    return header + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


class Peer:
    """One client."""

    __slots__ = ("received", "sent_at", "socket", "unsent")

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.unsent = b""
        self.sent_at: deque[float] = deque()
        self._shake_hands(port, path)

    def _shake_hands(self, port: int, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.received:
            self._read_more()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Unexpected(f"the handshake was answered with {head!r}")

    def ask(self, text: str | None) -> str:
        """Send the text, unless it is ``None``, and return the next message."""
        if text is not None:
            self.socket.sendall(masked(TEXT, text.encode()))
        while not (frames := list(self.frames())):
            self._read_more()
        (frame,) = frames
        return frame.decode()

    def frames(self) -> Iterator[bytes]:
        """Yield the messages that have arrived completely, and answer pings."""
        data, at = self.received, 0
        while (found := _frame_at(data, at)) is not None:
            opcode, start, end = found
            at = end
            if opcode in (TEXT, BINARY):
                yield data[start:end]
            elif opcode == PING:
                self.socket.sendall(masked(PONG, data[start:end]))
            elif opcode != PONG:
                raise Unexpected(f"an unexpected frame: {data[start - 2 : end]!r}")
        self.received = data[at:]

    def _read_more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise Unexpected("the server has closed the connection")
        self.received += data


def connected(port: int, dialect: Dialect) -> Peer:
    """Return a client that has sent what the dialect requires before the first command."""
    peer = Peer(port, dialect.path)
    for text, beginning in dialect.opening:
        if not (answer := peer.ask(text)).startswith(beginning):
            raise Unexpected(f"{answer!r} where {beginning}... was expected")
    return peer


def _frame_at(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return a frame's first byte, and the bounds of its payload, or ``None`` if it is
    incomplete."""
    if len(data) < at + 2:
        return None
    size, start = data[at + 1], at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        start += width
        if len(data) < start:
            return None
        size = int.from_bytes(data[start - width : start], "big")
    return None if len(data) < start + size else (data[at], start, start + size)
