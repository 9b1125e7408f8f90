"""SIGINT and SIGTERM of this process, which tell every app that is its program to stop.

Python runs the handlers of signals in the main thread, between two of its own instructions. A main
thread that is blocked in C, perhaps by a database driver, runs no handler; and what a handler asks
of an event loop waits for as long as anything blocks the loop. But a process that was told to stop
has to end. So this module relies neither on the handler nor on the event loop:

- The interpreter writes the number of each signal to its wake-up descriptor, from C. Here that
  descriptor is a socket, which a thread of this module reads; the thread writes the bytes to
  the descriptor that the event loop had set. The thread also ends a process whose time is over.
- The handler does the same as the thread, in case another part of the program sets a wake-up
  descriptor of its own. Then the handler restores the default action of the signals: the next
  signal ends the process, whatever the process does. As long as no handler can run, the thread
  ends the process at the next signal.
- A Python thread waits for code that does not release the interpreter, as a regular expression or
  the writing of a log may not. `faulthandler` has a thread that does not wait for such code; that
  thread ends the process a little later.

A process that is forked has the parent's handlers and the parent's wake-up descriptor, by which its
own signals would reach the parent. The forked process removes both.
"""

import faulthandler
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final, Protocol

__all__ = ["SignalReceiver", "listen", "request_stop", "stop_listening"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

SPARE: Final = 2
"""Seconds after which `faulthandler` ends a process that the thread here could not end."""

STDERR: Final = 2
"""Descriptor of stderr: `sys.stderr` may be any object."""


class SignalReceiver(Protocol):
    """An app that is stopped by a signal."""

    def stop(self) -> None:
        """Begin to stop; may be called in any thread, and in a handler of signals."""
        ...

    def time_to_stop(self) -> float:
        """Return the seconds within which the app has stopped, infinity for no bound."""
        ...

    def time_is_over(self) -> None:
        """End the process, unless the app has stopped; called in a separate thread."""
        ...


def listen(receiver: SignalReceiver) -> bool:
    """Notify the receiver of the first signal, until `stop_listening`; return whether it can be.

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
    """Remove a receiver; after the last receiver, signals have their earlier actions."""
    global _handler
    if _handler is not None and _handler.remove(receiver):
        _handler.close()
        _handler = None


def request_stop() -> bool:
    """Notify every receiver as the first signal would; return whether any receives signals.

    A signal that comes later is then the first one still, and not a second one, which would end
    the process at once. May be called in any thread.
    """
    handler = _handler
    if handler is None:
        return False
    handler.notify_all()
    return True


class _SignalHandler:
    """Handler of both signals, for as long as any app is the program."""

    def __init__(self) -> None:
        self._apps: list[SignalReceiver] = []
        self._first = threading.Lock()  # taken by the code that notices the first signal
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
        # A duplicate, because the loop may end, and its number go to another descriptor, before
        # the thread has written there.
        self._forward = _duplicate(self._previous_descriptor)
        threading.Thread(target=self._run, name="websuckets signals", daemon=True).start()

    def add(self, receiver: SignalReceiver) -> None:
        self._apps.append(receiver)
        if self._has_signal:
            self._notify(receiver)

    def remove(self, receiver: SignalReceiver) -> bool:
        """Remove a receiver; return whether no receiver is left."""
        self._apps.remove(receiver)
        return not self._apps

    def close(self) -> None:
        """Restore the handlers; the thread goes on until the last app's time is over."""
        present = signal.set_wakeup_fd(self._previous_descriptor)
        if present != self._writer.fileno():  # other code has set another descriptor
            signal.set_wakeup_fd(present)
        self._restore_handlers()
        if self._has_signal:
            faulthandler.cancel_dump_traceback_later()
        self._writer.close()

    def forget(self) -> None:
        """Restore the handlers in a process that was forked, and close the sockets."""
        signal.set_wakeup_fd(-1)
        self._restore_handlers()
        self._writer.close()
        self._reader.close()
        self._close_forward()

    def _close_forward(self) -> None:
        if self._forward != -1:
            os.close(self._forward)

    def _restore_handlers(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) in (self._handle, signal.SIG_DFL):
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self.notify_all()

    def notify_all(self) -> None:
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
        with suppress(BlockingIOError):  # a full socket wakes the thread anyway
            self._writer.send(b"\0")

    def _run(self) -> None:
        """Notify receivers and end a late program, in a separate thread."""
        numbers: list[int] = []
        with self._reader:
            while (data := self._next()) is None or data:
                numbers += [number for number in data or b"" if number in SIGNALS]
                if numbers:
                    self.notify_all()
                if len(numbers) > 1:  # and the main thread has not run `_handle`
                    os._exit(128 + numbers[-1])
        self._close_forward()
        while self._ends:
            time.sleep(self._until_next_end() or 0)
            self._exit_what_is_late()

    def _next(self) -> bytes | None:
        """Return the bytes, ``b""`` after the end of reception, ``None`` after a timeout."""
        self._reader.settimeout(self._until_next_end())
        try:
            data = self._reader.recv(64)
        except TimeoutError:
            self._exit_what_is_late()
            return None
        if self._forward != -1:
            with suppress(OSError):  # it is full, and wakes the loop anyway; or the loop has ended
                os.write(self._forward, data)
        return data

    def _until_next_end(self) -> float | None:
        """Return the seconds until the time of an app is over."""
        if not self._ends:
            return None
        return max(0.001, min(end for end, _ in self._ends) - time.monotonic())

    def _exit_what_is_late(self) -> None:
        now = time.monotonic()
        late = [(end, receiver) for end, receiver in self._ends if end <= now]
        for each in late:
            self._ends.remove(each)
            each[1].time_is_over()


def _duplicate(descriptor: int) -> int:
    """Return a duplicate of a descriptor; ``-1`` for none, and where it is a socket of Windows."""
    with suppress(OSError):
        return os.dup(descriptor)
    return -1


_handler: _SignalHandler | None = None


def _forget() -> None:
    global _handler
    if _handler is not None:
        _handler.forget()
        _handler = None


getattr(os, "register_at_fork", lambda **_: None)(after_in_child=_forget)
