"""Commands of a contract as TypeScript writes them: functions of one class, and its imports."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from websuckets.client_generation.document import Command
from websuckets.client_generation.typescript_layout import comment, indented, literal, spread
from websuckets.client_generation.typescript_types import Types

__all__ = ["CommandWriter", "Imports", "Subscribed"]

OF_ALL: Final = ("internal error", "invalid message", "rate limited", "unavailable")
"""Names of the errors that any command may be answered with."""

TYPES: Final = (
    *("CallOptions", "Client", "CommandError", "OnceOptions", "ReceivedEvent", "Stream"),
    *("StreamOptions", "SubscribeOptions", "Subscription"),
)
"""Types of the package."""

GENERATED_TYPES: Final = ("Presence", "Reply")
GENERATED: Final = ("channelName", "declaring")
"""Types and functions of the part of the package for generated clients."""


class Imports:
    """Names that a generated module imports, as far as they are used."""

    ALL: ClassVar = (*TYPES, *GENERATED_TYPES, *GENERATED)

    def __init__(self) -> None:
        self._used: set[str] = set()

    def use(self, name: str) -> str:
        """Return a name of the package; import it."""
        self._used.add(name)
        return name

    def lines(self) -> Iterable[str]:
        """Yield the lines of the imports."""
        types = [name for name in TYPES if name in self._used]
        yield spread("import type { ", types, ' } from "websuckets";')
        names: list[str] = [name for name in GENERATED if name in self._used]
        names += [f"type {name}" for name in GENERATED_TYPES if name in self._used]
        if names:
            yield spread("import { ", names, ' } from "websuckets/generated";')


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Events of the channels to which a command subscribes."""

    type: str
    """Type of the events."""
    names: tuple[str, ...]
    """Names of those events that come without the name of a channel."""


class CommandWriter:
    """Writer of the functions of commands.

    ``errors`` are the types of errors by the names of the errors.
    """

    def __init__(self, types: Types, uses: Imports, errors: Mapping[str, str]) -> None:
        self._types = types
        self._uses = uses
        self._errors = errors

    def function(self, command: Command, name: str, events: Subscribed | None) -> str:
        """Return the function of a command under a ``name``, as it stands in a class.

        ``events`` are those to which the command subscribes, if it does.
        """
        use = self._uses.use
        reply = self._types.of(command.reply)
        event = literal(command.name)
        payload = "payload" if command.payload is not None else "undefined"
        if command.is_stream:
            options, result = use("StreamOptions"), f"{use('Stream')}<{reply}>"
            call = f"this.client.stream<{reply}>({event}, {payload}, options)"
            return self._written(command, name, options, result, call)
        if events is not None:
            kinds = f"{reply}, {events.type}"
            options = f"{use('SubscribeOptions')}<{reply}>"
            value = f"{use('Subscription')}<{kinds}>"
            given = "options"
            if events.names:
                given = f"{{ events: {literal(list(events.names))}, ...options }}"
            head = f"this.client.subscribe<{kinds}>("
        else:
            value, head = reply, f"this.client.call<{reply}>("
            options = use("OnceOptions" if command.once else "CallOptions")
            given = "{ once: true, ...options }" if command.once else "options"
        call = spread(head, [event, payload, given], ")", depth=2)
        if not command.errors:
            return self._written(command, name, options, f"Promise<{value}>", call)
        errors = " | ".join(self._errors[error] for error in command.errors)
        result = f"{use('Reply')}<{value}, {errors}>"
        names = [literal(error) for error in command.errors]
        call = spread(f"{use('declaring')}<{value}, {errors}>(", [call, *names], ")", depth=2)
        return self._written(command, name, options, result, call)

    def _written(self, command: Command, name: str, options: str, result: str, call: str) -> str:
        parameters = [*self._payload(command), f"options?: {options}"]
        head = spread(f"{name} = (", parameters, f"): {result} =>", depth=1)
        return f"{self._comment(command)}{head}\n{indented(call)};"

    def _payload(self, command: Command) -> list[str]:
        """Return the parameter for the payload, if the command takes one."""
        if command.payload is None:
            return []
        type = self._types.of(command.payload)
        if command.needs_payload:
            return [f"payload: {type}"]
        nullable = type in ("null", "unknown") or type.endswith(" | null")
        return [f"payload?: {type if nullable else f'{type} | null'}"]

    def _comment(self, command: Command) -> str:
        facts = []
        if command.once:
            facts.append("Takes effect once for each `key`, a random one unless it is given.")
        if command.guards:
            facts.append(f"Guarded by {', '.join(f'`{guard}`' for guard in command.guards)}.")
        elif command.protected:
            facts.append("For users who are signed in.")
        if command.timeout is not None:
            facts.append(f"Takes at most {command.timeout:g} seconds on the server.")
        others = [literal(name) for name in command.other_errors if name not in OF_ALL]
        if others:
            facts.append(f"May also be refused with {', '.join(others)}.")
        if command.deprecated:
            facts.append("@deprecated")
        summary = command.texts.summary or f"Send the command `{command.name}`."
        return comment([summary, command.texts.description, "\n".join(facts)])
