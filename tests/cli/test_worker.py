"""The worker's end of the connection with its supervisor."""

import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import anyio
import pytest
from run_command import LONG

from websuckets.cli import control
from websuckets.cli.control import Control, decoded, encoded
from websuckets.transports.shared_sockets import SharedSockets

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need a system like Unix")

if sys.platform != "win32":
    from websuckets.cli import worker


@pytest.fixture
def controls(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Control]]:
    """Yield the class, whose instances are closed afterwards; else the end of the process does."""
    made: list[Control] = []

    class Closed(Control):
        def __init__(self, descriptor: int) -> None:
            super().__init__(descriptor)
            made.append(self)

    monkeypatch.setattr(worker, "Control", Closed)
    yield Closed
    for each in made:
        each._lines.close()
        each._socket.close()


@pytest.fixture
def pair(controls: type[Control]) -> Iterator[tuple[socket.socket, Control]]:
    """Yield both ends of a connection, that of the supervisor first."""
    ours, theirs = socket.socketpair()
    with ours:
        yield ours, controls(theirs.detach())


def test_messages_of_a_worker_arrive_in_their_order(pair: tuple[socket.socket, Control]) -> None:
    ours, control = pair
    for number in range(10):
        control.send("alive", memory=number)
    with ours.makefile("rb") as lines:
        for number in range(10):
            assert decoded(lines.readline()) == {"is": "alive", "memory": number}


def test_messages_that_nobody_reads_are_dropped_and_never_waited_for(
    pair: tuple[socket.socket, Control],
) -> None:
    ours, worker = pair
    for number in range(10 * control.UNSENT):
        worker.send("files", files=["x" * 10_000], number=number)
    with ours.makefile("rb") as lines:
        numbers = [decoded(lines.readline())["number"] for _ in range(control.UNSENT)]
    assert numbers == list(range(control.UNSENT))


def test_a_supervisor_that_is_gone_ends_the_messages(pair: tuple[socket.socket, Control]) -> None:
    ours, worker = pair
    ours.sendall(encoded("start"))
    messages = worker.messages()
    assert next(messages) == {"is": "start"}
    worker.send("alive")
    assert ours.recv(1, socket.MSG_PEEK)
    ours.close()  # with an unread message, so that the connection is reset
    assert list(messages) == []
    for _ in range(2 * control.UNSENT):
        worker.send("alive")  # does nothing


def test_messages_are_sent_before_a_worker_goes_on_to_end(
    pair: tuple[socket.socket, Control],
) -> None:
    ours, worker = pair
    worker.send("stopped")
    worker.flush(LONG)
    assert ours.recv(1000, socket.MSG_DONTWAIT) == encoded("stopped")


def test_a_supervisor_that_does_not_read_holds_no_worker_up(
    pair: tuple[socket.socket, Control],
) -> None:
    _, worker = pair
    for number in range(control.UNSENT):
        worker.send("files", files=["x" * 10_000], number=number)
    worker.flush(0)  # returns


@pytest.mark.usefixtures("controls")
def test_a_worker_whose_supervisor_is_gone_already_ends_at_once() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        worker.main(theirs.detach())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("word", ["stop", "make way", None])
def test_a_worker_that_has_not_started_anything_is_ended_by_sigterm(word: str | None) -> None:
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    shared = SharedSockets([])
    may_start = threading.Event()
    words = ["start", *([] if word is None else [word])]
    try:
        worker._obey(({"is": each} for each in words), may_start, shared)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (numbers, may_start.is_set()) == ([signal.SIGTERM], True)
    assert shared.has_successor == (word == "make way")


def test_the_memory_of_this_process_is_told_with_and_without_proc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = worker._memory()
    monkeypatch.setattr(worker, "STATM", os.devnull + "/missing")
    assert worker._memory() > memory / 2 > 2**20


def test_files_of_the_program_are_those_that_are_not_installed() -> None:
    files = worker._files_of_the_program()
    assert os.path.abspath(__file__) in files
    assert not {anyio.__file__, queue.__file__, control.__file__} & set(files)
