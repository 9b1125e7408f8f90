"""Raw WebSocket peers over plain sockets, free to break every rule, on either event loop."""

import base64
import json
import os
import signal
import socket
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any, Final

import anyio
import trio
from anyio.abc import Process

TEXT: Final = 0x1
BINARY: Final = 0x2
CONTINUATION: Final = 0x0
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

DEFLATE: Final = {"Sec-WebSocket-Extensions": "permessage-deflate"}
"""Header that offers compression."""

SMALL: Final = 4096
"""Bytes of a receive buffer that is full at once."""

CHUNK: Final = 65536


def frame(
    opcode: int,
    data: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Return a frame as a client sends it.

    ``rsv`` are the three reserved bits, 4 being the first; ``length`` is the length that the header
    declares, if not the true one.
    """
    first = bytes([fin << 7 | rsv << 4 | opcode])
    header = first + _length(len(data) if length is None else length, masked)
    if not masked:
        return header + data
    key = os.urandom(4)
    return header + key + _xor(data, key)


def text(data: str | bytes, **options: Any) -> bytes:
    return frame(TEXT, data.encode() if isinstance(data, str) else data, **options)


def command(event: str, **fields: Any) -> bytes:
    return text(json.dumps({"event": event, **fields}))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def fragments(count: int, data: bytes = b"") -> bytes:
    """Return the beginning of a text message that is never finished, in this many frames."""
    return text(data, fin=False) + frame(CONTINUATION, data, fin=False) * (count - 1)


def compressed(data: bytes) -> bytes:
    """Return the payload of a frame with the first reserved bit set, under permessage-deflate."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def handshake(path: str = "/", headers: Mapping[str, str] | None = None) -> bytes:
    """Return the opening handshake; ``headers`` come last."""
    lines = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as the server sent it."""

    opcode: int
    data: bytes
    fin: bool
    rsv: int

    @property
    def close_code(self) -> int:
        """The close code; 1005 for a close frame without one."""
        return int(struct.unpack("!H", self.data[:2])[0]) if self.data else 1005

    @property
    def close_reason(self) -> str:
        return self.data[2:].decode()


class Gone(Exception):
    """Error of a TCP connection that the server has ended with FIN, or reset."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "ended")
        self.reset = reset


class Peer:
    """The client's end of one TCP connection, which does nothing by itself, not even read."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = bytearray()

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> "Peer":
        """Make a TCP connection alone; its receive buffer must be set before it is connected."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            with suppress(BlockingIOError):
                connection.connect(("127.0.0.1", port))
            await anyio.wait_writable(connection)
            if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    async def open(
        self,
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        *,
        pause: float | None = None,
    ) -> str:
        """Make the opening handshake, and return the head of the response.

        With a ``pause`` the request is sent byte by byte, with this many seconds in between.
        """
        request = handshake(path, headers)
        if pause is None:
            await self.write(request)
        else:
            await self.drip(request, pause)
        return await self.read_head()

    async def drip(self, data: bytes, pause: float) -> None:
        """Send byte by byte, with this many seconds in between."""
        for byte in data:
            await self.write(bytes([byte]))
            await anyio.sleep(pause)

    async def write(self, data: bytes) -> None:
        """Send the data. Raises `Gone` once the server takes no more."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self.socket)
            except OSError:
                raise Gone(reset=True) from None

    async def flood(self, data: bytes) -> None:
        """Send the data again and again until the connection is lost."""
        with suppress(Gone):
            while True:
                await self.write(data)
                await anyio.sleep(0)

    async def read(self) -> bytes:
        """Return bytes that have come, or that come next. Raises `Gone`."""
        while True:
            try:
                data = self.socket.recv(CHUNK)
            except BlockingIOError:
                await anyio.wait_readable(self.socket)
                continue
            except OSError:
                raise Gone(reset=True) from None
            if not data:
                raise Gone(reset=False)
            return data

    async def read_head(self) -> str:
        """Return the head of an HTTP response."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self.read()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    async def read_frame(self) -> Frame:
        """Return the next frame of any kind. Raises `Gone`."""
        first, second = await self._take(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._take(8))
        data = bytes(await self._take(length))
        return Frame(first & 0xF, data, fin=bool(first & 0x80), rsv=first >> 4 & 0x7)

    async def read_json(self) -> Any:
        """Return the next message, after answering pings. Raises `Gone`, also on a close."""
        while True:
            read = await self.read_frame()
            if read.opcode in (TEXT, BINARY):
                return json.loads(read.data)
            if read.opcode == PING:
                await self.write(frame(PONG, read.data))
            if read.opcode == CLOSE:
                raise Gone(reset=False)

    async def read_close(self) -> Frame | None:
        """Read until the close frame; return ``None`` if the connection ends without one."""
        with suppress(Gone):
            while True:
                read = await self.read_frame()
                if read.opcode == CLOSE:
                    return read
        return None

    async def read_to_end(self) -> int:
        """Read until the server ends the connection; return the number of bytes that came."""
        count = len(self._buffer)
        self._buffer.clear()
        with suppress(Gone):
            while True:
                count += len(await self.read())
        return count

    async def call(self, event: str, **fields: Any) -> Any:
        """Send a command; return the next message."""
        await self.write(command(event, **fields))
        return await self.read_json()

    def finish(self) -> None:
        """Send FIN: nothing will follow."""
        with suppress(OSError):  # the server has closed first
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST, as a crashed or impatient client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        if self.socket.fileno() != -1:
            _notify_closing(self.socket)
        self.socket.close()

    async def _take(self, count: int) -> bytearray:
        while len(self._buffer) < count:
            self._buffer += await self.read()
        taken = self._buffer[:count]
        del self._buffer[:count]
        return taken


@asynccontextmanager
async def tcp(port: int, *, receive_buffer: int | None = None) -> AsyncIterator[Peer]:
    """Yield a peer that has not sent anything yet."""
    peer = await Peer.connect(port, receive_buffer=receive_buffer)
    try:
        yield peer
    finally:
        peer.close()


@asynccontextmanager
async def opened(
    port: int,
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    receive_buffer: int | None = None,
) -> AsyncIterator[Peer]:
    """Yield a peer whose opening handshake the server has accepted."""
    async with tcp(port, receive_buffer=receive_buffer) as peer:
        head = await peer.open(path, headers)
        if " 101 " not in head.splitlines()[0]:
            raise ConnectionError(head)
        yield peer


CLIENT: Final = """
import sys
from websockets.sync.client import connect

url, *frames = sys.argv[1:]
with connect(url, proxy=None) as client:
    for frame in frames:
        client.send(frame)
    print("open", flush=True)
    for frame in client:
        print(frame, flush=True)
"""
"""Program of a well-behaved client."""


class ClientProcess:
    """A well-behaved client in a process of its own, which can be frozen."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._output = b""

    async def line(self) -> str:
        """Return the next line of output: first ``open``, then each received frame."""
        assert self._process.stdout is not None
        while b"\n" not in self._output:
            self._output += await self._process.stdout.receive()
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def freeze(self) -> None:
        """Stop the process: it does not read, write or end; its kernel still acknowledges data."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def client_process(port: int, *frames: str) -> AsyncIterator[ClientProcess]:
    """Yield a client that has connected, and sent these frames."""
    url = f"ws://127.0.0.1:{port}"
    async with await anyio.open_process(
        [sys.executable, "-c", CLIENT, url, *frames], stdin=None, stdout=PIPE, stderr=None
    ) as process:
        try:
            client = ClientProcess(process)
            await client.line()
            yield client
        finally:
            process.kill()


def _notify_closing(closing: socket.socket) -> None:
    """Wake the tasks that wait for the socket; the first versions of anyio cannot."""
    if trio.lowlevel.in_trio_run():
        trio.lowlevel.notify_closing(closing)
    elif hasattr(anyio, "notify_closing"):
        anyio.notify_closing(closing)


def _length(length: int, masked: bool) -> bytes:
    bit = masked << 7
    if length < 126:
        return bytes([bit | length])
    if length < 1 << 16:
        return bytes([bit | 126]) + struct.pack("!H", length)
    return bytes([bit | 127]) + struct.pack("!Q", length)


def _xor(data: bytes, key: bytes) -> bytes:
    size = len(data)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(keys)).to_bytes(size)
