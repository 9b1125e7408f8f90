"""``websuckets run`` in this process, with a client in a thread that ends it."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
import websockets.asyncio.client
from programs import listening, terminate
from timeouts import TIMEOUT
from typer.testing import CliRunner, Result

from websuckets.cli.program import program

__all__ = ["ask", "refused", "run", "served"]

Visit = Callable[[str], Any]

PROGRAM = """\
import sys
from websuckets import CommandGroup, Socket, WebSuckets

group = CommandGroup()

@group.command("loop")
async def loop(socket: Socket) -> str:
    if "trio" in sys.modules and sys.modules["trio"].lowlevel.in_trio_run():
        return "trio"
    import asyncio
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

app = WebSuckets()
app.include_command_group(group)
"""
"""An app whose command tells on which event loop it runs."""


def run(*arguments: str) -> Result:
    """Run the command until it ends by itself."""
    return CliRunner().invoke(program, ["run", *arguments])


def refused(*arguments: str, status: int = 1) -> str:
    """Run the command, expect it to fail, and return its standard error."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert "Traceback" not in result.stderr
    return result.stderr.removesuffix("\n")


def ask(url: str, event: str = "loop", **options: Any) -> Any:
    """Return the payload with which a new client is answered, at a URL or at ``unix:PATH``.

    Runs an event loop of its own, in a thread that has none. ``websockets.sync`` is not used, as it
    reads in one thread and writes in another: before Python 3.13 that harms the state of TLS, and
    about one handshake in 300 is never answered, by any server.
    """

    async def answer() -> Any:
        async with connect() as client:
            await client.send(json.dumps({"event": event, "id": 1}))
            with anyio.fail_after(TIMEOUT):
                return json.loads(await client.recv())["payload"]

    if url.startswith("unix:"):
        connect = partial(
            websockets.asyncio.client.unix_connect, url.removeprefix("unix:"), **options
        )
    else:
        connect = partial(websockets.asyncio.client.connect, url, proxy=None, **options)
    return asyncio.run(answer())


def served(*arguments: str, visit: Visit = ask, status: int = 0) -> Any:
    """Serve, return the result of a visit in a thread, and expect an exit status after SIGTERM."""
    answers: list[Any] = []
    errors: list[BaseException] = []

    def come() -> None:
        url = urls.get()
        if not url:
            return
        try:
            answers.append(visit(url))
        except BaseException as error:
            errors.append(error)
        terminate()

    with pytest.MonkeyPatch.context() as patch, listening() as urls:
        patch.setattr(logging.getLogger("websuckets"), "level", logging.INFO)
        logging.getLogger("websuckets").manager._clear_cache()  # type: ignore[attr-defined]
        thread = threading.Thread(target=come, daemon=True)
        thread.start()
        result = run(*arguments)
        urls.put("")
        thread.join(TIMEOUT)
    if errors:
        raise errors[0]
    assert result.exit_code == status, result.output
    (answer,) = answers
    return answer
