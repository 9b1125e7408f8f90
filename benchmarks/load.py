"""The load generator: many clients in one thread, each with several messages on their way.

The load generator has to cost less than the servers that it measures, so it has no event loop and
no library: frames are masked once, and of the server's frames only headers are parsed. Nothing is
compressed.
"""

import gc
import select
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.dialects import Dialect
from benchmarks.job import Job
from benchmarks.news import NEWS, SUBSCRIBE
from benchmarks.peer import TEXT, TIMEOUT, Peer, Unexpected, connected, masked

__all__ = ["Load", "Sample", "Unexpected", "no_garbage_collection"]


@dataclass(frozen=True)
class Sample:
    """The measurements of one turn or several."""

    messages: int
    seconds: float
    cpu: float
    """Seconds of the server's processor."""
    latencies: "array[float]"
    """Latencies of every message, sorted, in seconds."""

    @classmethod
    def joined(cls, samples: "Sequence[Sample]") -> "Sample":
        """Join the samples of several turns into one."""
        return cls(
            sum(sample.messages for sample in samples),
            sum(sample.seconds for sample in samples),
            sum(sample.cpu for sample in samples),
            array("d", sorted(latency for sample in samples for latency in sample.latencies)),
        )

    @property
    def cpu_us(self) -> float:
        return self.cpu / self.messages * 1e6

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds

    def latency_us(self, share: float) -> float:
        """Return the greatest latency of the fastest ``share`` of all messages."""
        return self.latencies[min(int(len(self.latencies) * share), len(self.latencies) - 1)] * 1e6


class Load:
    """Clients of one server that all do the same job, until the context ends.

    Each client has sent one message and got the right answer when the context is entered.
    ``sleeps`` leaves the processor to others while there is no answer.
    """

    def __init__(self, port: int, dialect: Dialect, job: Job, *, sleeps: bool = False) -> None:
        self._port = port
        self._wait = TIMEOUT if sleeps else 0
        self._dialect = dialect
        self._job = job
        self._text = dialect.command(job)
        self._frame = masked(TEXT, self._text.encode())
        self._start = b""
        self._peers: dict[int, Peer] = {}
        self._epoll = select.epoll()

    def __enter__(self) -> "Load":
        try:
            self.connect(self._job.connections)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._epoll.close()
        for peer in self._peers.values():
            peer.socket.close()

    def connect(self, connections: int) -> None:
        """Open this number of connections more."""
        for _ in range(connections):
            self._connect()

    def _connect(self) -> None:
        peer = connected(self._port, self._dialect)
        self._peers[peer.socket.fileno()] = peer
        if self._job.is_subscribed:
            peer.ask(self._dialect.call(SUBSCRIBE, NEWS))
        self._start = self._checked(peer.ask(self._text))
        peer.socket.setblocking(False)
        self._epoll.register(peer.socket, select.EPOLLIN)

    def _checked(self, reply: str) -> bytes:
        """Return the beginning of all replies: everything but the number of open transactions."""
        try:
            payload = self._dialect.payload(reply)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unexpected(f"it answered {reply[:300]!r}") from error
        if payload != self._job.answer:
            raise Unexpected(f"it answered {reply[:300]!r} rather than {self._job.answer}")
        return reply.encode().partition(b'"open"')[0]

    def run(self, warm_up: float, seconds: float, cpu: Callable[[], float]) -> Sample:
        """Keep all clients busy, and measure after the warm-up; may be called again.

        ``cpu`` returns the seconds that the server has computed so far.
        """
        latencies = array("d")
        now = time.perf_counter()
        for peer in self._peers.values():
            self._send(peer, self._job.depth, now)
        with no_garbage_collection():
            self._until(now + warm_up, latencies)
            del latencies[:]
            cpu_before, start = cpu(), time.perf_counter()
            self._until(start + seconds, latencies)
            cpu_after, end = cpu(), time.perf_counter()
        measured = array("d", sorted(latencies))
        self._finish()
        return Sample(len(measured), end - start, cpu_after - cpu_before, measured)

    def rest(self, seconds: float) -> None:
        """Send nothing for so many seconds, but answer pings. Raises `Unexpected` for a message."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            for descriptor, _ in self._epoll.poll(left):
                if self._receive(self._peers[descriptor], self._start):
                    raise Unexpected("a message came that nobody had asked for")

    def _until(self, deadline: float, latencies: "array[float]") -> None:
        clock, poll, note = time.perf_counter, self._epoll.poll, latencies.append
        peers, start, wait = self._peers, self._start, self._wait
        while (now := clock()) < deadline:
            # Not sleeping, as a rule: to wake this process is the server's work, as often as the
            # pace has it.
            while not (events := poll(wait)) and clock() < now + TIMEOUT:
                pass
            if not events:
                raise Unexpected(f"no answer for {TIMEOUT:.0f} seconds")
            for descriptor, event in events:
                peer = peers[descriptor]
                if event & select.EPOLLOUT:
                    self._send_rest(peer)
                if not event & ~select.EPOLLOUT:
                    continue
                answers = self._receive(peer, start)
                now = clock()
                for _ in range(answers):
                    note(now - peer.sent_at.popleft())
                self._send(peer, answers, now)

    def _receive(self, peer: Peer, start: bytes) -> int:
        """Return the number of answers that have arrived."""
        data = peer.socket.recv(1 << 16)
        # Nearly always, the data is exactly one short frame.
        if (
            not peer.received
            and len(data) > 2
            and data[1] == len(data) - 2 < 126
            and data[0] == TEXT
            and data.startswith(start, 2)
        ):
            return 1
        if not data:
            raise Unexpected("the server has closed the connection")
        peer.received += data
        answers = 0
        for frame in peer.frames():
            if not frame.startswith(start):
                if frame == b"2":  # Engine.IO's own ping
                    self._write(peer, masked(TEXT, b"3"))
                    continue
                raise Unexpected(f"it answered {frame[:300]!r}")
            answers += 1
        return answers

    def _send(self, peer: Peer, count: int, now: float) -> None:
        if count == 1:
            peer.sent_at.append(now)
            self._write(peer, self._frame)
        elif count:
            peer.sent_at.extend([now] * count)
            self._write(peer, self._frame * count)

    def _write(self, peer: Peer, data: bytes) -> None:
        if peer.unsent:
            peer.unsent += data
            return
        try:
            sent = peer.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            peer.unsent = data[sent:]
            self._epoll.modify(peer.socket, select.EPOLLIN | select.EPOLLOUT)

    def _send_rest(self, peer: Peer) -> None:
        data, peer.unsent = peer.unsent, b""
        self._epoll.modify(peer.socket, select.EPOLLIN)
        self._write(peer, data)

    def _finish(self) -> None:
        """Receive the outstanding answers, so that no loss goes unnoticed."""
        deadline = time.perf_counter() + TIMEOUT
        waiting = {peer for peer in self._peers.values() if peer.sent_at}
        while waiting and time.perf_counter() < deadline:
            for descriptor, event in self._epoll.poll(1):
                peer = self._peers[descriptor]
                if event & select.EPOLLOUT:
                    self._send_rest(peer)
                if event & ~select.EPOLLOUT:
                    for _ in range(self._receive(peer, self._start)):
                        peer.sent_at.popleft()
                if not peer.sent_at:
                    waiting.discard(peer)
        if waiting:
            missing = sum(len(peer.sent_at) for peer in waiting)
            raise Unexpected(f"{missing} messages were never answered")


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection, as a pause would look like one of the server."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
