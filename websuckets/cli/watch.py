"""The command ``websuckets watch``: prints items of a stream, or events of a subscription."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Annotated, Any, TypeAlias

import anyio
import typer

from websuckets.cli.calling import (
    Command,
    Payload,
    TokenFile,
    Url,
    client_of,
    payload_of,
    run_until_it_ends,
    token_of,
)
from websuckets.client import Client, ClientClosed, ReceivedEvent, UnexpectedReply
from websuckets.client.subscriptions import ANY_EVENT

__all__ = ["watch"]

_Show: TypeAlias = Callable[[Client, str, Any], Awaitable[None]]
"""Function that prints what comes of a command with a payload."""


def watch(
    url: Url,
    command: Command,
    payload: Payload = None,
    is_stream: Annotated[
        bool,
        typer.Option("--stream", help="The command is a stream, which may end without an item."),
    ] = False,
    token_file: TokenFile = None,
) -> None:
    """Print the items of a stream, or the events of a subscription, until Ctrl-C.

    Each is a line of JSON, written at once: of a stream the items themselves, of a subscription
    {"event", "payload"}, with the "channel" and "offset" of channels with a history. The first line
    of a subscription is the reply to the command, with "reply" instead of "event"; it comes again
    where events were missed for good. A subscription goes on after a lost connection. Without
    --stream, the end of a stream that has no item looks like the reply to a subscription.

    The exit status is 0 for a stream that ends, for Ctrl-C and where nobody reads any more, 1 for
    an error of the server, 2 for wrong arguments, and 3 without a connection.

    \b
    Examples:
      websuckets watch ws://localhost:8000 count 10
      websuckets watch ws://localhost:8000 "ticket watch" 5 | jq .payload
    """
    content, token = payload_of(payload), token_of(token_file)

    async def main() -> None:
        try:
            client = client_of(url, token=token, buffer=100_000)
            await _watch(client, _items if is_stream else _events, command, content)
        except BrokenPipeError:
            # Python writes what is left when it ends, and would tell that nobody reads it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    with suppress(KeyboardInterrupt):
        run_until_it_ends(main)


async def _watch(client: Client, show: _Show, command: str, payload: Any) -> None:
    """Show what comes of a command. Raises `ClientClosed` where no first connection is made."""
    scope = anyio.CancelScope()
    has_opened = False

    def note(state: str) -> None:
        nonlocal has_opened
        if state == "open":
            has_opened = True
        elif state == "waiting" and has_opened:
            print(f"{client.lost}: connecting again", file=sys.stderr, flush=True)
        elif state == "waiting":  # perhaps the URL is a wrong one
            scope.cancel()

    client.on_state(note)
    with scope:
        async with client:
            await show(client, command, payload)
            return
    lost = client.lost or ClientClosed()
    raise ClientClosed(lost.code, lost.reason)


async def _items(client: Client, command: str, payload: Any) -> None:
    """Print the items of a stream. Raises ``typer.BadParameter`` for another command."""
    try:
        async with aclosing(client.stream(command, payload, timeout=None)) as items:
            async for item in items:
                _print(item)
    except UnexpectedReply:
        raise typer.BadParameter(f"{command!r} is not a stream", param_hint="--stream") from None


async def _events(client: Client, command: str, payload: Any) -> None:
    """Print the events of a subscription, or the items of a stream."""

    def print_reply(reply: Any) -> None:
        _print({"reply": command, "payload": reply})

    subscription = client.subscribe(
        command, payload, events={ANY_EVENT: None}, on_reload=print_reply, timeout=None
    )
    async with subscription:
        if not subscription.is_stream:
            print_reply(subscription.reply)
        async for event in subscription:
            _print(event.payload if subscription.is_stream else _line(event))


def _line(event: ReceivedEvent) -> dict[str, Any]:
    line = {"event": event.event, "payload": event.payload}
    if event.channel is not None:
        line |= {"channel": event.channel, "offset": event.offset}
    return line


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()
