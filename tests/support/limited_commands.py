"""Commands for tests of limits: they verify their user, are refused, wait or hang."""

import time
from typing import Any

import anyio
from harness import Gate

from websuckets import CommandGroup, Payload, Socket
from websuckets.exc import NotAuthorized
from websuckets.security import CurrentUser
from websuckets.session import User


def limited_commands(gate: Gate, journal: list[str]) -> CommandGroup:
    """Return a group with these commands; ``wait`` waits at the gate, ``hang`` notes its end."""
    group = CommandGroup()

    @group.command("ping")
    async def ping(socket: Socket) -> str:
        return "pong"

    @group.command("log in")
    async def log_in(socket: Socket, model: Payload[str], user: User) -> None:
        user.id, user.token = model, "secret"

    @group.command("log out")
    async def log_out(socket: Socket, *, user: User) -> None:
        user.id = None

    @group.command("expire in")
    async def expire_in(socket: Socket, model: Payload[float], user: User) -> None:
        user.expires_at = time.time() + model

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket, *, user: CurrentUser) -> Any:
        return user.id

    @group.command("forbidden", protected=True)
    async def forbidden(socket: Socket) -> None:
        raise NotAuthorized("not yours")

    @group.command("wait")
    async def wait(socket: Socket) -> str:
        await gate()
        return "at last"

    @group.command("hang", timeout=0.05)
    async def hang(socket: Socket) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.append("hang ended")

    @group.command("hang by default")
    async def hang_by_default(socket: Socket) -> None:
        await anyio.sleep_forever()

    return group
