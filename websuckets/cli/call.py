"""The command ``websuckets call``: sends one command to a server, and prints the reply."""

import json
from typing import Annotated, Any

import typer

from websuckets.cli.calling import (
    REFUSED,
    Command,
    Payload,
    TokenFile,
    Url,
    client_of,
    payload_of,
    run_until_it_ends,
    token_of,
)
from websuckets.client import CommandError

__all__ = ["call"]


def call(
    url: Url,
    command: Command,
    payload: Payload = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            help="The key of a command that takes effect once: sent again until it is answered.",
            metavar="KEY",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for the reply.", min=0.0)
    ] = 30.0,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help='Print one line, {"payload": ...} or {"error": ..., "details": ...}.',
        ),
    ] = False,
    token_file: TokenFile = None,
) -> None:
    """Send one command to a server and print the payload of its reply, as JSON.

    The exit status is 0 for a reply, 1 for an error of the server, 2 for wrong arguments, 3 without
    a connection, and 4 where the reply does not come in time. With --key, a connection
    that cannot be made or is lost is made again, and the command sent again, until then.

    \b
    Examples:
      websuckets call ws://localhost:8000 "user create" '{"nickname": "ann"}'
      WEBSUCKETS_TOKEN=... websuckets call wss://example.org/ws whoami
      websuckets call ws://localhost:8000 "order place" - --key 8f1c < order.json
    """
    content, token = payload_of(payload), token_of(token_file)

    async def main() -> None:
        async with client_of(url, token=token, reconnect=key is not None) as client:
            try:
                reply = await client.call(command, content, key=key, timeout=timeout)
            except CommandError as error:
                if as_json:
                    _print({"error": error.error, "details": error.details}, None)
                    raise typer.Exit(REFUSED) from None
                raise
        _print({"payload": reply} if as_json else reply, None if as_json else 2)

    run_until_it_ends(main)


def _print(value: Any, indent: int | None) -> None:
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False))
