"""AsyncAPI 3.0.0 document of an app.

AsyncAPI describes messages by the addresses to which they are sent. Here there is one address, and
the ``event`` in a message says what it is. So the document has one channel, the connection, and on
it an operation for each command (``receive``, with its reply) and for each declared channel
(``send``). Messages are whole frames, so that a validator of the schemas can be given what is on
the wire.

What AsyncAPI has no place for stands under keys that begin with ``x-websuckets``:

- ``x-websuckets-command`` of an operation: the settings of the command.
- ``x-websuckets-channel`` of an operation: the declaration of the channel.
- ``x-websuckets-message`` of a message: its kind, and its name on the wire.

A client can be generated from the document alone. The same app gives the same text.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from websuckets.asyncapi.channels import add_channel
from websuckets.asyncapi.commands import add_command
from websuckets.asyncapi.framework import SCHEMAS, add_framework
from websuckets.asyncapi.writer import Writer
from websuckets.commands.groups import Command
from websuckets.commands.listing import CommandInfo
from websuckets.delivery.declarations import Channel

__all__ = ["asyncapi_document"]


def asyncapi_document(
    title: str,
    version: str,
    address: str,
    commands: Mapping[str, Command],
    infos: Mapping[str, CommandInfo],
    channels: Iterable[Channel],
) -> dict[str, Any]:
    """Return the document of an app as JSON objects.

    ``title`` and ``version`` are those of the app, ``address`` is the path at which clients
    connect. ``infos`` are the listed ``commands``, sorted by name.
    """
    writer = Writer()
    for name, info in infos.items():
        add_command(writer, commands[name], info)
    for channel in sorted(channels, key=lambda channel: channel.pattern):
        add_channel(writer, channel)
    add_framework(writer)
    document = writer.complete(title, version, address, dict(SCHEMAS))
    # Parts that are equal are one object up to here; and the default of a field may be infinite.
    copied: dict[str, Any] = from_json(to_json(document, inf_nan_mode="null"))
    return copied
