"""The command ``websuckets run``: an app is served, by one process or by several."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from socket import socket
from typing import Annotated, Final, Literal, NoReturn, Protocol, TypeAlias

import typer

from websuckets.cli.arguments import AppDir, Factory, Target
from websuckets.cli.failures import serving
from websuckets.cli.listening import listening_on
from websuckets.cli.loading import load
from websuckets.cli.logs import configure_logging
from websuckets.cli.run_options import PASSWORD, RunOptions
from websuckets.cli.serving import serve_app
from websuckets.cli.worker_process import Bounds
from websuckets.serving.process import console_logging
from websuckets.transports.shared_sockets import SharedSockets

__all__ = ["run"]

RELOADS_WITHIN: Final = 0.5
"""Seconds that commands may still take when the source has changed, before they are cancelled."""

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]


def run(
    target: Target = None,
    host: Annotated[
        str, typer.Option(help="Address or name to listen on; 0.0.0.0 is every IPv4 address.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)
    ] = 8000,
    uds: Annotated[
        str | None,
        typer.Option(
            help="Path of a Unix socket to listen on, instead of host and port.", metavar="PATH"
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Serve changes of the source as they are made.")
    ] = False,
    reload_include: Annotated[
        list[str] | None,
        typer.Option(
            help='Further files whose changes reload, as "*.toml"; may be given several times.',
            metavar="PATTERN",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of processes that serve on the same port. Default: this process alone.",
            min=1,
            show_default=False,
        ),
    ] = None,
    worker_timeout: Annotated[
        float | None,
        typer.Option(
            help=(
                "Seconds without a sign of life after which a worker is replaced. "
                f"Default: {Bounds().silence:g}."
            ),
            metavar="SECONDS",
            min=2,
            show_default=False,
        ),
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(
            help="Memory past which a worker is replaced by a new one.",
            metavar="MIB",
            min=1,
            show_default=False,
        ),
    ] = None,
    lifetime: Annotated[
        float | None,
        typer.Option(
            help="Time after which a worker is replaced by a new one, give or take a tenth.",
            metavar="SECONDS",
            min=1,
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        Literal["asyncio", "trio"],
        typer.Option(help="Event loop that runs the app; trio needs the extra `trio`."),
    ] = "asyncio",
    loop: Annotated[
        Literal["auto", "asyncio", "uvloop"],
        typer.Option(
            help="Implementation of asyncio's event loop; auto is uvloop where it is installed."
        ),
    ] = "auto",
    factory: Factory = False,
    app_dir: AppDir = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Least level of the log: debug, info, warning, error or critical. Default: info.",
            metavar="LEVEL",
            show_default=False,
        ),
    ] = None,
    log_config: Annotated[
        str | None,
        typer.Option(
            help="File that configures Python's logging: .json, .yaml or .ini.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    ssl_certfile: Annotated[
        str | None,
        typer.Option(
            help="Certificate chain, to serve wss:// instead of ws://.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    ssl_keyfile: Annotated[
        str | None,
        typer.Option(
            help=(
                "Key of the certificate, if another file has it. Its password is read from the "
                f"environment variable {PASSWORD}."
            ),
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    ssl_ca_certs: Annotated[
        str | None,
        typer.Option(
            help="Certificates of authorities; clients then need a certificate signed by one.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve an app until SIGINT (Ctrl-C) or SIGTERM.

    Commands that run then are finished and answered, within Limits.drain_timeout, before clients
    are told to connect elsewhere.

    With --workers, several processes serve on one port, and one that dies is replaced. SIGHUP
    replaces each by a new one that has imported the program anew: a new version is deployed without
    a lost reply or a refused client.

    \b
    Examples:
      websuckets run --reload                        while you write the app
      websuckets run main:app --host 0.0.0.0 --port 80
      websuckets run main:app --workers 4            on a machine with four cores
      websuckets run main:app --uds /run/desk.sock   behind a proxy
    """
    options = RunOptions(
        target=target,
        factory=factory,
        app_dir=None if app_dir is None else str(app_dir),
        host=host,
        port=port,
        uds=uds,
        backend=backend,
        loop=loop,
        log_level=log_level,
        log_config=log_config,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        ssl_ca_certs=ssl_ca_certs,
        drain_timeout=RELOADS_WITHIN if reload else None,
    )
    _check(options, reload=reload, workers=workers)
    if reload_include and not reload:
        raise typer.BadParameter("--reload-include needs --reload")
    if workers is None and (worker_timeout, max_memory, lifetime) != (None, None, None):
        raise typer.BadParameter("--worker-timeout, --max-memory and --lifetime need --workers")
    with serving():
        configure_logging(options)
        options.ssl_context()  # a file that cannot be read is told once, and not by each worker
        if sys.platform == "win32":
            pass  # `_check` has refused all but one process
        elif reload:
            from websuckets.cli.reload import Reloader

            _supervise(options, lambda sockets: Reloader(options, sockets, reload_include or ()))
        elif workers is not None:
            from websuckets.cli.supervisor import Supervisor

            memory = None if max_memory is None else max_memory * 2**20
            silence = Bounds().silence if worker_timeout is None else worker_timeout
            bounds = Bounds(silence=silence, memory=memory, lifetime=lifetime)
            _supervise(options, lambda sockets: Supervisor(options, sockets, workers, bounds))
        app = load(target, factory=factory, app_dir=app_dir)
        if uds is None:
            serve_app(app, options)
        else:
            with listening_on(host, port, uds) as sockets:
                serve_app(app, options, shared=SharedSockets(sockets))


class _Supervised(Protocol):
    """Owner of worker processes."""

    async def run(self) -> int:
        """Serve until a signal; return the exit status."""
        ...


def _supervise(
    options: RunOptions, supervisor_of: Callable[[Sequence[socket]], _Supervised]
) -> NoReturn:
    """Open the sockets, serve by worker processes, and end this process with their status."""
    with (
        listening_on(options.host, options.port, options.uds) as sockets,
        console_logging(shows_process=True),
    ):
        raise SystemExit(asyncio.run(supervisor_of(sockets).run()))


def _check(options: RunOptions, *, reload: bool, workers: int | None) -> None:
    """Refuse options that do not go together, or not with this system."""
    if reload and workers is not None:
        raise typer.BadParameter(
            "--reload serves by one process; leave --workers out while you write the app"
        )
    if options.backend == "trio" and options.loop != "auto":
        raise typer.BadParameter("--loop is for asyncio; trio has one event loop")
    if options.ssl_certfile is None and (options.ssl_keyfile or options.ssl_ca_certs):
        raise typer.BadParameter("--ssl-keyfile and --ssl-ca-certs need --ssl-certfile")
    missing = options.missing_package()
    if missing is not None:
        raise typer.BadParameter(f"{missing} is not installed")
    if sys.platform == "win32":
        if reload or workers is not None or options.uds is not None:
            raise typer.BadParameter("--reload, --workers and --uds need a system like Unix")
