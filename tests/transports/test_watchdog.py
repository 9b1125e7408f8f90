"""The watchdog of a connection, against a peer that does not read or is gone."""

from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest
import websockets.asyncio.server
from harness import app_with, on_trio
from peers import PING, SMALL, Gone, command, frame, opened
from serving import SERVINGS, Serving
from timeouts import TIMEOUT
from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets import CommandGroup, ConnectionTasks, Limits, Socket, WebSuckets
from websuckets.runtime.clock import LONGEST_STEP, Clock
from websuckets.session import Session
from websuckets.transports.memory import MemoryClient
from websuckets.transports.watchdog import PeerFault, PeerTimeouts, PeerWatchdog

pytestmark = pytest.mark.anyio

# The watchdog by itself: time is a number


class Watched:
    """A watchdog, and its clock."""

    def __init__(
        self, limits: Limits | None = None, *, is_pinged: bool = True, **options: Any
    ) -> None:
        self.clock = Clock()
        self.is_reading = True
        self.has_pong = False
        self._faults: list[PeerFault] = []
        self.watchdog = PeerWatchdog(
            PeerTimeouts.of(self.clock, limits or Limits(), dict(options)),
            self,
            self if is_pinged else None,
        )

    def peer_fault(self, fault: PeerFault) -> None:
        self._faults.append(fault)

    def peer_is_read(self) -> bool:
        return self.is_reading

    def after(self, seconds: float) -> list[PeerFault]:
        """Let time pass in steps, and return the faults that the watchdog has reported
        meanwhile."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(self.clock.now + LONGEST_STEP, end)
            self.clock.ring()
        told, self._faults[:] = [*self._faults], ()
        return told

    def pinged(self) -> None:
        self.has_pong = False
        self.watchdog.pinged(lambda: self.has_pong)


PINGS = {"ping_interval": 8, "ping_timeout": 8}  # on the clock, between 8 and 9


def test_pings_go_out_at_their_interval() -> None:
    """The interval begins with the last pong; no second ping is sent before a pong."""
    peer = Watched(**PINGS)
    assert peer.after(8) == []
    assert peer.after(1) == [PeerFault.PING]
    assert peer.after(100) == []
    peer.pinged()
    assert peer.after(7) == []
    peer.has_pong = True
    assert peer.after(8) == []
    assert peer.after(1.5) == [PeerFault.PING]


def test_a_peer_that_does_not_answer_is_told_of_once() -> None:
    """A missing pong is reported once, after the timeout."""
    peer = Watched(**PINGS)
    assert peer.after(9) == [PeerFault.PING]
    peer.pinged()
    assert peer.after(7.5) == []
    assert peer.after(1) == [PeerFault.NO_PONG]
    assert peer.after(100) == []


def test_only_the_time_counts_in_which_it_is_read_from() -> None:
    """Time in which the peer is not read from does not count, as its pong may be behind its
    messages."""
    peer = Watched(**PINGS)
    peer.is_reading = False
    assert set(peer.after(100)) == {PeerFault.NOT_READ}
    peer.is_reading = True
    assert peer.after(1) == [PeerFault.PING]
    peer.pinged()
    assert peer.after(7) == []
    peer.is_reading = False
    assert set(peer.after(1000)) == {PeerFault.NOT_READ}
    peer.is_reading = True
    assert peer.after(0.5) == []
    assert peer.after(2) == [PeerFault.NO_PONG]


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"ping_interval": None, "ping_timeout": 8}, []),
        ({"ping_interval": 8, "ping_timeout": None}, [PeerFault.PING]),
    ],
)
def test_pings_may_be_off(options: dict[str, Any], faults: list[PeerFault]) -> None:
    """Pings may be off, or their timeout alone, as with `websockets`."""
    peer = Watched(**options)
    assert peer.after(100) == faults
    if faults:
        peer.pinged()
    assert peer.after(1000) == []


def test_who_is_pinged_by_somebody_else_is_not_looked_at() -> None:
    """A peer that a server for ASGI pings is not checked by the watchdog."""
    peer = Watched(is_pinged=False)
    assert peer.clock._entries == []
    assert peer.after(100) == []


def test_a_peer_that_is_idle_is_looked_at_twice_for_each_ping() -> None:
    """One check sends the ping, and one expects the pong, however fine the clock's steps are."""
    looks = pings = 0

    class Counting(PeerWatchdog):
        def ring(self) -> None:
            nonlocal looks
            looks += 1
            super().ring()

    class Peer:
        def peer_fault(self, fault: PeerFault) -> None:
            nonlocal pings
            pings += 1
            watchdog.pinged(lambda: True)

        def peer_is_read(self) -> bool:
            return True

    clock, peer = Clock(), Peer()
    watchdog = Counting(PeerTimeouts.of(clock, Limits(), {}), peer, peer)
    while pings < 10 or looks < 20:
        clock.now += 0.01
        clock.ring()
    assert (pings, looks) == (10, 20)


def test_a_watchdog_that_is_stopped_reports_nothing() -> None:
    """A connection that is aborted for one fault is not told of another."""
    peer = Watched(Limits(send_timeout=8))
    peer.watchdog.blocked()
    peer.watchdog.stop()
    assert peer.after(60) == []
    peer.watchdog.ring()  # as if the fault before had stopped the watchdog
    assert peer.after(1) == []


def test_a_peer_that_does_not_read() -> None:
    """The timeout begins with the first blocked send, and again with each that is written."""
    peer = Watched(Limits(send_timeout=8), ping_interval=None)
    peer.watchdog.blocked()
    assert peer.after(5) == []
    peer.watchdog.blocked()
    assert peer.after(3) == []
    peer.watchdog.unblocked()
    assert peer.watchdog.is_blocked
    assert peer.after(8) == []
    assert peer.after(1) == [PeerFault.STALLED]
    peer.watchdog.unblocked()
    assert not peer.watchdog.is_blocked
    assert peer.after(100) == []


def test_a_peer_that_is_gone_is_not_looked_at_any_more() -> None:
    """Expect no fault, although a write and a ping are under way."""
    peer = Watched(Limits(send_timeout=8), **PINGS)
    peer.watchdog.blocked()
    peer.watchdog.stop()
    peer.watchdog.unblocked()
    peer.watchdog.blocked()
    peer.watchdog.pinged(lambda: False)
    assert peer.after(100) == []
    assert peer.clock._entries == []


def test_what_may_wait_for_it() -> None:
    """Frames and their bytes are limited; a message without a length counts as a frame."""
    watchdog = Watched(Limits(outbox=(2, 10))).watchdog
    with watchdog.queued("12345") as first, watchdog.queued(b"12345") as second:
        assert not first and not second
        with watchdog.queued(iter(["1"])) as third:
            assert third
        with watchdog.queued("") as again:
            assert again
    with watchdog.queued("1") as first, watchdog.queued("1234567890") as second:
        assert not first and second
    with Watched(Limits(outbox=None)).watchdog.queued("1" * 2**21) as too_much:
        assert not too_much


# The watchdog on sockets


@pytest.fixture
def group(journal: list[str]) -> CommandGroup:
    group = CommandGroup()

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("push")
    async def push(socket: Socket) -> None:
        while True:
            await socket.send("x" * 2**16)

    @group.command("push at once")
    async def push_at_once(socket: Socket, *, tasks: ConnectionTasks) -> None:
        for _ in range(100):
            tasks.start_soon(socket.send, "x" * 2**16)

    @group.command("broadcast")
    async def broadcast(socket: Socket) -> None:
        while socket.close_code is None:
            websockets.asyncio.server.broadcast([cast(Any, socket)], "x" * 2**16)
            await anyio.sleep(0)

    return group


def app_of(group: CommandGroup, journal: list[str], **limits: Any) -> WebSuckets:
    app = app_with(group, limits=Limits(**limits))

    @app.on_disconnect
    async def gone() -> None:
        journal.append("gone")

    return app


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(TIMEOUT):
        while not condition():
            await anyio.sleep(0.001)


@pytest.mark.parametrize("how", ["push", "push at once"])
async def test_a_peer_that_does_not_read_is_aborted(
    on_sockets: Serving,
    group: CommandGroup,
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """The connection is aborted after the timeout, or with too much in its outbox; others are
    served."""
    caplog.set_level("INFO")
    if on_sockets is SERVINGS["hypercorn"][1] and on_trio():
        pytest.skip("hypercorn shields what it sends on trio: nobody gets a client out of the way")
    app = app_of(group, journal, send_timeout=0.2)
    async with on_sockets(app) as server, opened(server.port) as other:
        async with opened(server.port, receive_buffer=SMALL) as stalled:
            await stalled.write(command(how))
            await until(lambda: "gone" in journal)
            assert (await other.call("ping"))["payload"] == "pong"
    assert sum("does not read" in r.getMessage() for r in caplog.records) >= 1
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("how", ["push", "push at once"])
async def test_one_in_memory_too(group: CommandGroup, journal: list[str], how: str) -> None:
    """A connection in memory has the same limits."""
    app = app_of(group, journal, send_timeout=0.1)
    async with app._embedded() as running:
        request = Request("/", Headers())
        client = MemoryClient(request, running.connections, None, running.timeouts)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.serve)
            await client.wait_open()
            await client.send(f'{{"event": "{how}"}}')
            with anyio.fail_after(TIMEOUT):
                await client.gone.wait()
    assert journal == ["gone"]


@pytest.mark.on_asyncio
@pytest.mark.parametrize("outbox", [(256, 2**20), (10, 2**30)])
async def test_who_broadcasts_does_not_wait(
    group: CommandGroup, journal: list[str], outbox: tuple[int, int]
) -> None:
    """The outbox limits the memory that a broadcast, which does not wait, can take."""
    app = app_of(group, journal, send_timeout=60, outbox=outbox)
    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port, receive_buffer=SMALL) as stalled:
            await stalled.write(command("broadcast"))
            await until(lambda: "gone" in journal)


async def test_pongs_that_are_not_read(group: CommandGroup, journal: list[str]) -> None:
    """Unread pongs are not written without end: the pings are not even read any more."""
    app = app_of(group, journal, send_timeout=0.2)
    async with app.serve("127.0.0.1", 0) as server, anyio.create_task_group() as tasks:
        async with opened(server.port, receive_buffer=SMALL) as stalled:

            async def flood() -> None:
                try:
                    await stalled.flood(frame(PING, b"p" * 125) * 500)
                except Gone:
                    pass

            tasks.start_soon(flood)
            await until(lambda: "gone" in journal)
            tasks.cancel_scope.cancel()


async def test_messages_of_a_peer_that_was_aborted_are_discarded(
    group: CommandGroup, journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Messages of an aborted connection are discarded, even if they were read already."""
    app = app_of(group, journal, send_timeout=0.2)

    @group.command("push beside")
    async def push_beside(socket: Socket, *, tasks: ConnectionTasks) -> None:
        tasks.start_soon(socket.send, "x" * 2**23)

    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port, receive_buffer=SMALL) as stalled:
            await stalled.write(command("push beside", id=1))
            await stalled.read()
            await stalled.write(command("ping") * 3)
            await until(lambda: "gone" in journal)
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


async def test_senders_get_through_in_their_order_when_it_reads_again(
    group: CommandGroup, journal: list[str]
) -> None:
    """The frames of each task stay in order, and none is lost."""
    app = app_of(group, journal, outbox=None)
    writers, each = 5, 40

    @group.command("write")
    async def write(socket: Socket, *, tasks: ConnectionTasks) -> None:
        async def send_all(name: int) -> None:
            for number in range(each):
                await socket.send(f"{name} {number} " + "x" * 2**14)

        for name in range(writers):
            tasks.start_soon(send_all, name)

    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port, receive_buffer=SMALL) as slow:
            await slow.write(command("write"))
            seen: list[tuple[int, int]] = []
            with anyio.fail_after(TIMEOUT):
                while len(seen) < writers * each:
                    name, number, _ = (await slow.read_frame()).data.split()
                    seen.append((int(name), int(number)))
    for writer in range(writers):
        assert [number for name, number in seen if name == writer] == list(range(each))


async def test_who_waits_to_send_may_be_cancelled(group: CommandGroup, journal: list[str]) -> None:
    """Other sends go on, and nothing of a cancelled one was sent."""
    app = app_of(group, journal, outbox=None)
    aborted = anyio.Event()

    @group.command("leave")
    async def leave(socket: Socket, *, tasks: ConnectionTasks, session: Session) -> None:
        async def fill() -> None:
            await socket.send("first " + "x" * 2**23)
            await socket.send("last")

        tasks.start_soon(fill)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await socket.send("given up")
        aborted.set()

    async with app.serve("127.0.0.1", 0) as server:
        async with opened(server.port, receive_buffer=SMALL) as slow:
            await slow.write(command("leave"))
            with anyio.fail_after(TIMEOUT):
                await aborted.wait()
                frames = [(await slow.read_frame()).data[:10] for _ in range(2)]
            assert frames == [b"first xxxx", b"last"]


async def test_a_handshake_that_takes_long_is_not_asked_for_pongs(
    group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """No ping is sent before the handshake is answered."""
    app = app_with(group)

    @app.on_handshake
    async def think() -> None:
        await anyio.sleep(0.3)

    async with app.serve("127.0.0.1", 0, ping_interval=0.05, ping_timeout=0.05) as server:
        async with opened(server.port) as peer:
            assert (await peer.call("ping"))["payload"] == "pong"
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
