"""A command group for tests that need no more than an answer."""

from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup


def echo_group(prefix: str = "") -> CommandGroup:
    group = CommandGroup(prefix)

    @group.command("echo")
    async def echo(socket: ServerConnection) -> str | None:
        return socket.subprotocol

    return group
