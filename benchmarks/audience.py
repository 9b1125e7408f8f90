"""The load generator for channels: subscribers that count what they get, and a publisher."""

import select
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from benchmarks.dialects import Dialect
from benchmarks.load import Sample, no_garbage_collection
from benchmarks.news import NEWS, PUBLISH, SUBSCRIBE, news
from benchmarks.peer import TEXT, TIMEOUT, Peer, Unexpected, connected, masked

__all__ = ["Audience"]

HEADER: Final = 2
"""Bytes of a frame before its text, which is short."""

ATTENTION: Final = 1.0
"""Seconds after which subjects that wait for their turn check for pings."""

SILENCE: Final = 1.0
"""Seconds without any message, after which no message is on its way."""


class Audience:
    """Subscribers on one node, and a publisher on the same or another, until the context ends.

    Each subscriber has to get every message once, in order, and nothing else. When the context is
    entered, each subscriber has got a message. While other subjects have their turn, a thread
    answers pings, without which servers might close the first of many connections.
    """

    def __init__(
        self, dialect: Dialect, publisher_port: int, port: int, subscribers: int, messages: int
    ) -> None:
        """``messages`` is the number of messages that one command publishes."""
        self._dialect = dialect
        self._publisher_port = publisher_port
        self._port = port
        self._number_of_subscribers = subscribers
        self._messages = messages
        self._published = 0
        self._peers: dict[int, Peer] = {}
        self._epoll = select.epoll()
        self._turn = threading.Lock()
        self._is_over = threading.Event()
        self._waiting = threading.Thread(target=self._wait_for_turns, daemon=True)
        self._failure: Exception | None = None

    def __enter__(self) -> "Audience":
        self._waiting.start()
        try:
            self._publisher = self._connect(self._publisher_port)
            self._register(self._publisher)
            for _ in range(self._number_of_subscribers):
                peer = self._connect(self._port)
                self._check_reply(peer.ask(self._dialect.call(SUBSCRIBE, NEWS)), NEWS)
                self._register(peer)
            with self._turn:
                self._wait_for_the_first()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._waiting.join()
        self._epoll.close()
        for peer in self._peers.values():
            peer.socket.close()

    def run(self, warm_up: float, seconds: float, cpu: Callable[[], float]) -> Sample:
        """Publish, again after everybody has got everything, and measure after the warm-up.

        The sample counts deliveries: messages times subscribers. Its latencies are those from the
        command to each delivery.
        """
        latencies = array("d")
        with self._turn, no_garbage_collection():
            if self._failure is not None:
                raise self._failure
            self._until(time.perf_counter() + warm_up, latencies)
            del latencies[:]
            cpu_before, start = cpu(), time.perf_counter()
            self._until(start + seconds, latencies)
            cpu_after, end = cpu(), time.perf_counter()
        measured = array("d", sorted(latencies))
        return Sample(len(measured), end - start, cpu_after - cpu_before, measured)

    def _connect(self, port: int) -> Peer:
        peer = connected(port, self._dialect)
        self._peers[peer.socket.fileno()] = peer
        return peer

    def _register(self, peer: Peer) -> None:
        peer.socket.setblocking(False)
        self._epoll.register(peer.socket, select.EPOLLIN)

    def _wait_for_turns(self) -> None:
        while self._failure is None and not self._is_over.wait(ATTENTION):
            with self._turn:
                try:
                    if self._whoever_gets_something(0):
                        raise Unexpected("a message came that nobody had published")
                except (Unexpected, OSError) as error:
                    self._failure = error

    def _wait_for_the_first(self) -> None:
        """Publish until each subscriber gets a message, as nodes may need time to find each
        other."""
        missing = {number for number, peer in self._peers.items() if peer is not self._publisher}
        deadline = time.perf_counter() + TIMEOUT
        while missing:
            if time.perf_counter() > deadline:
                raise Unexpected(f"{len(missing)} subscribers get nothing")
            self._command(1)
            missing -= self._whoever_gets_something(SILENCE)

    def _whoever_gets_something(self, silence: float) -> set[int]:
        """Return the clients that get a message until there has been none for `silence` seconds."""
        found: set[int] = set()
        while events := self._epoll.poll(silence):
            for descriptor, _ in events:
                peer = self._peers[descriptor]
                peer.received += _read(peer)
                if list(self._texts(peer)):
                    found.add(descriptor)
        return found

    def _until(self, deadline: float, latencies: "array[float]") -> None:
        while time.perf_counter() < deadline:
            self._publish(latencies)

    def _publish(self, latencies: "array[float]") -> None:
        """Send one command, and wait for its answer and for all that it publishes."""
        clock, poll, note = time.perf_counter, self._epoll.poll, latencies.append
        peers = self._peers
        frames = [self._frame(self._published + number) for number in range(self._messages)]
        got = dict.fromkeys(peers, 0)
        missing = self._number_of_subscribers * self._messages
        is_answered = False
        start = clock()
        self._command(self._messages)
        while missing or not is_answered:
            events = poll(TIMEOUT)
            if not events:
                raise Unexpected(f"{missing} messages did not arrive")
            for descriptor, _ in events:
                peer = peers[descriptor]
                if peer is self._publisher:
                    is_answered = self._has_reply(peer) or is_answered
                    continue
                new = self._receive(peer, frames, got[descriptor])
                latency = clock() - start
                got[descriptor] += new
                missing -= new
                for _ in range(new):
                    note(latency)

    def _receive(self, peer: Peer, frames: Sequence[bytes], at: int) -> int:
        """Return the number of frames that have arrived, beginning with the next one expected."""
        data = _read(peer)
        # Mostly, the data is exactly that frame.
        if not peer.received and at < len(frames) and data == frames[at]:
            return 1
        peer.received += data
        number = at
        for text in self._texts(peer):
            if number == len(frames) or text != frames[number][HEADER:]:
                raise Unexpected(f"{text[:300]!r} came where another message was expected")
            number += 1
        return number - at

    def _has_reply(self, publisher: Peer) -> bool:
        publisher.received += _read(publisher)
        texts = list(self._texts(publisher))
        for text in texts:
            self._check_reply(text.decode(), self._messages)
        return bool(texts)

    def _command(self, count: int) -> None:
        edition = {"first": self._published, "count": count}
        text = self._dialect.call(PUBLISH, edition)
        self._publisher.socket.sendall(masked(TEXT, text.encode()))
        self._published += count

    def _frame(self, number: int) -> bytes:
        text = self._dialect.event(NEWS, news(number)).encode()
        return bytes((TEXT, len(text))) + text

    def _check_reply(self, reply: str, expected: object) -> None:
        try:
            payload = self._dialect.payload(reply)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unexpected(f"it answered {reply[:300]!r}") from error
        if payload != expected:
            raise Unexpected(f"it answered {reply[:300]!r} rather than {expected!r}")

    def _texts(self, peer: Peer) -> Iterator[bytes]:
        """Yield the texts that have arrived, and answer Engine.IO's own pings."""
        for text in peer.frames():
            if text == b"2":
                peer.socket.sendall(masked(TEXT, b"3"))
            else:
                yield text


def _read(peer: Peer) -> bytes:
    data = peer.socket.recv(1 << 16)
    if not data:
        raise Unexpected("the server has closed the connection")
    return data
