"""Program of one worker process: ``python -m websuckets.cli.worker DESCRIPTOR``.

The supervisor that starts this program is in `websuckets.cli.worker_process`; the descriptor is
that of the connection with the supervisor, whose messages `websuckets.cli.control` lists.
"""

import faulthandler
import os
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio

from websuckets.app import Server
from websuckets.broker import Broker
from websuckets.cli.control import HEARTBEAT, Control
from websuckets.cli.failures import serving
from websuckets.cli.loading import load
from websuckets.cli.logs import configure_logging
from websuckets.cli.run_options import RunOptions
from websuckets.cli.serving import serve_app
from websuckets.di.graph import scopes_of
from websuckets.serving.lifecycle import RunningApp
from websuckets.serving.signals import request_stop
from websuckets.transports.shared_sockets import SharedSockets

assert sys.platform != "win32"  # `run` refuses it

INSTALLED: Final = tuple(
    os.path.join(path, "")
    for path in {
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(__file__).parent.parent),
    }
)
"""Folders of modules that do not belong to the program: Python's, installed ones, and ours."""

TIME_TO_TELL: Final = 1.0
"""Seconds that the end of a worker waits at most for a supervisor that does not read."""

STATM: Final = "/proc/self/statm"
"""File of Linux with the pages of memory of this process."""


def main(descriptor: int) -> None:
    # Until the app has started, the first signal ends the process without a word; the supervisor,
    # which a terminal sends SIGINT, too, says what there is to say. SIGHUP is for the supervisor.
    faulthandler.enable()  # a worker that does not answer is aborted by SIGABRT
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    control = Control(descriptor)
    messages = control.messages()
    first = next(messages, None)
    if first is None:
        return
    options = RunOptions(**first["options"])
    shared = SharedSockets([_shared_socket(number) for number in first["sockets"]])
    may_start = threading.Event()
    threading.Thread(
        target=_obey,
        args=(messages, may_start, shared),
        name="websuckets supervisor",
        daemon=True,
    ).start()
    with serving():
        configure_logging(options)
        app_dir = None if options.app_dir is None else Path(options.app_dir)
        app = load(options.target, factory=options.factory, app_dir=app_dir)
        control.send("loaded", files=_files_of_the_program())
        may_start.wait()

        async def tell(running: RunningApp, server: Server) -> None:
            await _tell(control, running, server)

        serve_app(app, options, shared=shared, beside=tell)


def _shared_socket(descriptor: int) -> socket.socket:
    own = socket.socket(fileno=descriptor)
    own.set_inheritable(False)
    return own


def _obey(
    messages: Iterator[dict[str, Any]], may_start: threading.Event, shared: SharedSockets
) -> None:
    """Let the app start, and stop it, when the supervisor says so, or when that is gone."""
    for message in messages:
        if message["is"] != "start":
            shared.has_successor = message["is"] == "make way"
            break
        may_start.set()
    if not request_stop():  # nothing has started yet, or all has stopped
        os.kill(os.getpid(), signal.SIGTERM)


async def _tell(control: Control, running: RunningApp, server: Server) -> None:
    """Tell the supervisor that the app listens, that its event loop runs, and that it has stopped.

    From then on a signal ends the process by its default action: that of a terminal may come late,
    and `_obey` sends one for the word of a supervisor that was busy. The supervisor is told, so as
    not to take such an end for a failure.
    """
    has_broker = bool(scopes_of(running.container, Broker))
    control.send("listening", urls=server.urls, has_broker=has_broker)
    modules = 0
    try:
        while True:
            control.send("alive", memory=_memory())
            if len(sys.modules) != modules:
                modules = len(sys.modules)
                control.send("files", files=_files_of_the_program())
            await anyio.sleep(HEARTBEAT)
    finally:
        control.send("stopped")
        control.flush(TIME_TO_TELL)


def _files_of_the_program() -> list[str]:
    """Return the source files of imported modules that neither Python nor a package installed."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    sources = {os.path.abspath(file) for file in files if file}
    return sorted(file for file in sources if not file.startswith(INSTALLED))


def _memory() -> int:
    """Return the resident memory of this process in bytes: its peak where Linux does not tell."""
    try:
        with open(STATM, "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # missing on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(int(sys.argv[1]))
