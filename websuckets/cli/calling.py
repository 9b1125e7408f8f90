"""Part of ``websuckets call`` and ``watch`` that is common to both: arguments, token, outcomes."""

import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from signal import SIGINT, default_int_handler, getsignal
from threading import current_thread, main_thread
from typing import Annotated, Any, Final, NoReturn, TypeAlias

import anyio
import typer

from websuckets.client import Client, ClientClosed, CommandError, ConnectionLost

__all__ = [
    "LOST",
    "REFUSED",
    "TIMED_OUT",
    "Command",
    "Payload",
    "TokenFile",
    "Url",
    "client_of",
    "payload_of",
    "run_until_it_ends",
    "token_of",
]

INTERRUPTED: Final = 130
"""Exit status after SIGINT, as that of shells."""

REFUSED: Final = 1
"""Exit status for a command that the server answered with an error."""

LOST: Final = 3
"""Exit status where there is not a connection, or not any more."""

TIMED_OUT: Final = 4
"""Exit status where the reply did not come in time."""

VARIABLE: Final = "WEBSUCKETS_TOKEN"

Url: TypeAlias = Annotated[
    str,
    typer.Argument(
        help="The server: ws://localhost:8000 or wss://example.org/ws.",
        metavar="URL",
        show_default=False,
    ),
]

Command: TypeAlias = Annotated[
    str,
    typer.Argument(
        help='The name of the command, in quotes if there are spaces: "user create".',
        metavar="COMMAND",
        show_default=False,
    ),
]

Payload: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        help="The payload, as JSON; - reads it from standard input. Default: none.",
        metavar="PAYLOAD",
        show_default=False,
    ),
]

TokenFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help=f"A file with the token. Default: the environment variable {VARIABLE}.",
        metavar="FILE",
        show_default=False,
    ),
]


def payload_of(text: str | None) -> Any:
    """Return the payload that an argument gives. Raises ``typer.BadParameter``."""
    if text == "-":
        text = sys.stdin.read()
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"it is not JSON: {error}; a string has quotes of its own: '\"ann\"'",
            param_hint="PAYLOAD",
        ) from None


def token_of(file: Path | None) -> str | None:
    """Return the token of a file, without the end of its line, or that of the environment.

    Tokens are no arguments, as other users of a machine see the arguments of all processes. Raises
    ``typer.BadParameter`` for a file that cannot be read.
    """
    if file is None:
        return os.environ.get(VARIABLE) or None
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise typer.BadParameter(f"{file}: {why}", param_hint="--token-file") from None


def client_of(url: str, **options: Any) -> Client:
    """Return a client with these options. Raises ``typer.BadParameter`` for a wrong URL."""
    logging.getLogger("websuckets.client").setLevel(logging.ERROR)  # `_tell` says how it ended
    try:
        return Client(url, **options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="URL") from None


def run_until_it_ends(main: Callable[[], Awaitable[None]]) -> NoReturn:
    """Run ``main``, and raise ``typer.Exit`` with the exit status of its outcome.

    Raises `KeyboardInterrupt` after SIGINT, when ``main`` has been cancelled.
    """
    _end(anyio.run(_run, main, _listens()))


def _listens() -> bool:
    """Tell whether SIGINT ends ``main``: not in another thread, nor where a shell has it ignored.

    ``asyncio.run`` has the same rule.
    """
    is_default = sys.platform != "win32" and getsignal(SIGINT) is default_int_handler
    return is_default and current_thread() is main_thread()


def _end(status: int) -> NoReturn:
    """Raise the exception that ends the program with this exit status."""
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    raise typer.Exit(status)


async def _run(main: Callable[[], Awaitable[None]], listens: bool) -> int:
    """Run ``main``, which SIGINT cancels if this process ``listens``; return the exit status.

    The handler of ``asyncio.run`` does not wake up an event loop that is about to wait for events:
    such a SIGINT has an effect with the next event, and an idle client has one in 20 seconds.
    """
    status = 0
    failure: Exception | None = None

    async def interrupt() -> None:
        nonlocal status
        with anyio.open_signal_receiver(SIGINT) as signals:
            await anext(aiter(signals))
        status = INTERRUPTED
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        if listens:
            tasks.start_soon(interrupt)
        try:
            await main()
        except (CommandError, ConnectionLost, TimeoutError) as error:
            status = _tell(error)
        except Exception as error:
            failure = error  # alone, and not in a group
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return status


def _tell(error: CommandError | ConnectionLost | TimeoutError) -> int:
    """Print an error, and return the exit status that stands for it."""
    match error:
        case CommandError():
            text, status = f"error: {error.error}", REFUSED
            if error.details is not None:
                text += "\n" + json.dumps(error.details, indent=2, ensure_ascii=False)
        case ClientClosed():
            why, status = error.reason or f"closed with {error.code}", LOST
            if error.status is not None:
                why = f"the server refused the connection with HTTP status {error.status}"
            text = f"not connected: {why}"
        case ConnectionLost():
            text, status = str(error), LOST
        case _:
            text, status = str(error), TIMED_OUT
    print(text, file=sys.stderr)
    return status
