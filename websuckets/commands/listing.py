"""Listing of the commands of an app, for programs that document or check the commands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import cleandoc
from types import MappingProxyType
from typing import Any, Union

from websuckets.commands.groups import UNSET, Command
from websuckets.delivery.declarations import Channel
from websuckets.exc import ClientError
from websuckets.introspection.functions import place_of, target_of
from websuckets.security import CurrentUser

__all__ = ["CommandInfo", "listing_of", "texts_of"]


@dataclass(frozen=True, slots=True)
class CommandInfo:
    """A command of an app, as its handler declares it; types are type hints."""

    name: str
    """Name on the wire, with the prefix of the group."""
    payload: Any
    """Type of the payload, without constraints outside of the type; ``None`` if there is none."""
    reply: Any
    """Return annotation of the handler, or for a stream that of each item; `typing.Any` where the
    returned object decides."""
    is_stream: bool
    """True for a command that answers with any number of items."""
    protected: bool
    """True if only verified users may run the command."""
    guards: tuple[Any, ...]
    """Types of the guards besides `CurrentUser`, in the order in which they are checked."""
    timeout: float | None
    """Seconds that the command may take, or a stream for each item; ``None`` for any number."""
    once: bool
    """True if the command takes effect once for each key that it is sent with."""
    subscribes: tuple[Channel, ...]
    """Channels to which the handler subscribes its connection, as it declares them."""
    summary: str | None
    """First paragraph of the handler's docstring, in one line; ``None`` without a docstring."""
    description: str | None
    """All further paragraphs of the handler's docstring; ``None`` if there are none."""
    deprecated: bool
    """True if clients are to use the command no longer."""
    tags: tuple[str, ...]
    """Names under which documents list the command."""
    raises: tuple[type[ClientError], ...]
    """Classes of the errors that the command and its group declare."""
    function: Callable[..., Any]
    """The handler."""
    file: str | None
    """File in which the handler is defined; ``None`` for a compiled function."""
    line: int | None
    """First line of the handler, with its decorators; ``None`` for a compiled function."""


def listing_of(
    commands: Mapping[str, Command], handler_timeout: float | None
) -> Mapping[str, CommandInfo]:
    """Return a read-only mapping of commands by name, sorted by name.

    ``handler_timeout`` is that of `Limits`, for commands without a timeout of their own.
    """
    return MappingProxyType(
        {name: _info(command, handler_timeout) for name, command in sorted(commands.items())}
    )


def _info(command: Command, handler_timeout: float | None) -> CommandInfo:
    plan, guards = command.plan, command.injection.guards
    file, line = place_of(plan.function) or (None, None)
    return CommandInfo(
        command.name,
        None if plan.payload is None else Union[plan.payload.types],  # noqa: UP007  # any number
        plan.result_hint,
        command.is_stream,
        CurrentUser in guards,
        tuple(guard for guard in guards if guard is not CurrentUser),
        handler_timeout if command.timeout == UNSET else command.timeout,
        command.once is not None,
        command.subscribes,
        *texts_of(target_of(plan.function)),
        command.deprecated,
        command.tags,
        tuple(declared.error for declared in command.raises),
        plan.function,
        file,
        line,
    )


def texts_of(documented: Any) -> tuple[str | None, str | None]:
    """Return the first paragraph of a docstring in one line, and all that follows it.

    ``documented`` is a function or a class. A text that is not there is ``None``.
    """
    text = getattr(documented, "__doc__", None)
    summary, _, description = cleandoc(text if isinstance(text, str) else "").partition("\n\n")
    return " ".join(summary.split()) or None, description.strip() or None
