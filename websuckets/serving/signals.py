"""SIGINT and SIGTERM of this process, which tell every app that is its program to stop.

Python runs the handlers of signals in the main thread, between two of its own instructions. A main
thread that is held up in C, by a database driver perhaps, runs none; and what a handler asks of an
event loop waits for as long as anything holds up the loop. But a process that was told to stop has
to end. So neither is relied on:

- The interpreter writes the number of each signal to its wake-up descriptor, from C. Here that is a
  socket, which a thread of ours reads; what it reads it writes to the descriptor that the event
  loop had set. The thread also ends a process whose time is over.
- The handler does the same as the thread, should another part of the program set a wake-up
  descriptor of its own. Then it restores what the signals do by default: the next one ends the
  process, whatever that does. As long as no handler can run, the thread sees to that.
- A thread of Python's waits for code that does not release the interpreter, as a regular expression
  or the writing of a log may not. `faulthandler` has one that does not; it comes a little later.

A process that is forked has the parent's handlers and the parent's wake-up descriptor, by which its
own signals would reach the parent. It gives up both.
"""

import faulthandler
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final, Protocol

__all__ = ["SignalReceiver", "listen", "stop_listening"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

SPARE: Final = 2
"""Seconds after which `faulthandler` ends a process that our own thread could not end."""

STDERR: Final = 2
"""A descriptor: what Python calls so, may be anything."""


class SignalReceiver(Protocol):
    """An app that is told to stop."""

    def stop(self) -> None:
        """Begin to stop. It may be called in any thread, and in a handler of signals."""
        ...

    def time_to_stop(self) -> float:
        """Return the seconds within which it has stopped, infinity for no bound."""
        ...

    def time_is_over(self) -> None:
        """End the process, unless it has stopped. It is called in a thread of its own."""
        ...


def listen(receiver: SignalReceiver) -> bool:
    """Tell it of the first signal, until `stop_listening`; return whether that can be done.

    Signals can be received in the main thread alone.
    """
    global _handler
    if threading.current_thread() is not threading.main_thread():
        return False
    if _handler is None:
        _handler = _SignalHandler()
    _handler.add(receiver)
    return True


def stop_listening(receiver: SignalReceiver) -> None:
    """Tell it of no signal any more. After the last one, signals do what they did before."""
    global _handler
    if _handler is not None and _handler.remove(receiver):
        _handler.close()
        _handler = None


class _SignalHandler:
    """Receives both signals for as long as any app is the program."""

    def __init__(self) -> None:
        self._apps: list[SignalReceiver] = []
        self._first = threading.Lock()  # taken by whoever notices the first signal
        self._has_signal = False
        self._ends: list[tuple[float, SignalReceiver]] = []
        self._previous: dict[signal.Signals, Any] = {}
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        self._previous_descriptor = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        threading.Thread(target=self._run, name="websuckets signals", daemon=True).start()

    def add(self, receiver: SignalReceiver) -> None:
        self._apps.append(receiver)
        if self._has_signal:
            self._notify(receiver)

    def remove(self, receiver: SignalReceiver) -> bool:
        """Return whether nobody is left."""
        self._apps.remove(receiver)
        return not self._apps

    def close(self) -> None:
        """The thread goes on until the last app's time is over."""
        present = signal.set_wakeup_fd(self._previous_descriptor)
        if present != self._writer.fileno():  # somebody has set another
            signal.set_wakeup_fd(present)
        self._restore_handlers()
        if self._has_signal:
            faulthandler.cancel_dump_traceback_later()
        self._writer.close()

    def forget(self) -> None:
        """Run in a process that was forked."""
        signal.set_wakeup_fd(-1)
        self._restore_handlers()
        self._writer.close()
        self._reader.close()

    def _restore_handlers(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) in (self._handle, signal.SIG_DFL):
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._tell_all()

    def _tell_all(self) -> None:
        if self._first.acquire(blocking=False):
            self._has_signal = True
            for receiver in list(self._apps):
                self._notify(receiver)

    def _notify(self, receiver: SignalReceiver) -> None:
        seconds = receiver.time_to_stop()
        if seconds < threading.TIMEOUT_MAX:
            self._ends.append((time.monotonic() + seconds, receiver))
            last = max(end for end, _ in self._ends) - time.monotonic()
            faulthandler.dump_traceback_later(last + SPARE, exit=True, file=STDERR)
            self._wake()
        receiver.stop()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it wakes anyway
            self._writer.send(b"\0")

    def _run(self) -> None:
        """Run in a thread of its own."""
        numbers: list[int] = []
        with self._reader:
            while (data := self._next()) is None or data:
                numbers += [number for number in data or b"" if number in SIGNALS]
                if numbers:
                    self._tell_all()
                if len(numbers) > 1:  # and the main thread has not come to `_handle`
                    os._exit(128 + numbers[-1])
        while self._ends:
            time.sleep(self._until_next_end() or 0)
            self._end_what_is_late()

    def _next(self) -> bytes | None:
        """Return what was written, nothing when the reception has ended, ``None`` before that."""
        self._reader.settimeout(self._until_next_end())
        try:
            data = self._reader.recv(64)
        except TimeoutError:
            self._end_what_is_late()
            return None
        if self._previous_descriptor != -1:
            with suppress(OSError):  # it is full, and wakes anyway; or it is gone
                os.write(self._previous_descriptor, data)
        return data

    def _until_next_end(self) -> float | None:
        """Return the seconds until the time of an app is over."""
        if not self._ends:
            return None
        return max(0.001, min(end for end, _ in self._ends) - time.monotonic())

    def _end_what_is_late(self) -> None:
        now = time.monotonic()
        late = [(end, receiver) for end, receiver in self._ends if end <= now]
        for each in late:
            self._ends.remove(each)
            each[1].time_is_over()


_handler: _SignalHandler | None = None


def _forget() -> None:
    global _handler
    if _handler is not None:
        _handler.forget()
        _handler = None


getattr(os, "register_at_fork", lambda **_: None)(after_in_child=_forget)
