"""Commands of a contract as Python writes them: methods of one class, with what they need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from websuckets.client_generation.document import Command
from websuckets.client_generation.names import Names
from websuckets.client_generation.python_layout import (
    docstring,
    indented,
    literal,
    one_line,
    spread,
    wrapped,
)
from websuckets.client_generation.python_types import Imports, Types
from websuckets.client_generation.source import Part
from websuckets.client_generation.types import ANYTHING, NULL, Type

__all__ = ["OF_ALL", "CommandWriter", "Subscribed"]

OF_ALL: Final = ("internal error", "invalid message", "rate limited", "unavailable")
"""Names of the errors that any command may be answered with."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Events of the channels to which a command subscribes."""

    type: str
    """Type of the events."""
    names: tuple[str, ...]
    """Names of those events that come without the name of a channel."""


class CommandWriter:
    """Writer of the methods of commands.

    ``names`` are those of the module, and ``errors`` the classes of errors by the names of the
    errors. `needed` are the parts of the module that the methods need.
    """

    def __init__(
        self, types: Types, uses: Imports, names: Names, errors: Mapping[str, str]
    ) -> None:
        self.needed: list[Part] = []
        self._types = types
        self._uses = uses
        self._names = names
        self._errors = errors

    def method(self, command: Command, name: str, events: Subscribed | None) -> str:
        """Return the method of a command under a ``name``, as it stands in a class.

        ``events`` are those to which the command subscribes, if it does.
        """
        if command.is_stream:
            text = self._stream(command, name)
        elif events is not None:
            text = self._subscription(command, name, events)
        else:
            text = self._call(command, name)
        if command.deprecated:
            told = literal(f"The command {one_line(command.name)!r} is deprecated.")
            text = f"@{self._uses.use('deprecated')}({told})\n{text}"
        return indented(text)

    def _call(self, command: Command, name: str) -> str:
        reply, given = self._result(name, command.reply, "result")
        parameters = [*self._payload(command), "*", f"timeout: {self._uses.use('Timeout')} = ..."]
        arguments = [*self._sent(command), *given, "timeout=timeout"]
        if command.once:
            parameters.append("key: str | None = None")
            arguments += ["key=key", "once=True"]
        head = spread(f"async def {name}(", ["self", *parameters], f") -> {reply}:", depth=1)
        before = "await " if command.reply == NULL else "return await "
        body = spread(f"{before}self.client.call(", arguments, ")", depth=2)
        return f"{head}\n" + indented(f"{self._docstring(command)}\n{body}")

    def _stream(self, command: Command, name: str) -> str:
        item, given = self._result(name, command.reply, "item")
        parameters = [*self._payload(command), "*", "timeout: float | None = None"]
        arguments = [*self._sent(command), *given, "timeout=timeout"]
        result = f"{self._uses.use('AsyncGenerator')}[{item}, None]"
        head = spread(f"def {name}(", ["self", *parameters], f") -> {result}:", depth=1)
        body = spread("return self.client.stream(", arguments, ")", depth=2)
        return f"{head}\n" + indented(f"{self._docstring(command)}\n{body}")

    def _subscription(self, command: Command, name: str, events: Subscribed) -> str:
        use = self._uses.use
        reply, given = self._result(name, command.reply, "result")
        result = given[0] if given else "result=None"
        reload = f"{use('Callable')}[[{reply}], {use('Awaitable')}[None] | None]"
        parameters = [
            *self._payload(command),
            "*",
            f"on_reload: {reload} | None = None",
            f"since: {use('Since')} | None = None",
            f"timeout: {use('Timeout')} = ...",
        ]
        sent = self._sent(command)
        arguments = [
            *(sent if len(sent) > 1 else [*sent, "None"]),
            result,
            f"events={self._adapter(name, events.type, 'events')}",
            f"names=({''.join(f'{literal(one)}, ' for one in events.names).rstrip(' ')})"
            if len(events.names) == 1
            else f"names=({', '.join(map(literal, events.names))})",
            "on_reload=on_reload",
            "since=since",
            "timeout=timeout",
        ]
        made = f"{use('TypedSubscription')}[{reply}, {events.type}]"
        head = spread(f"def {name}(", ["self", *parameters], f") -> {made}:", depth=1)
        body = spread("return self._subscribe(", arguments, ")", depth=2)
        return f"{head}\n" + indented(f"{self._docstring(command)}\n{body}")

    def _payload(self, command: Command) -> list[str]:
        """Return the parameter for the payload, if the command takes one."""
        if command.payload is None:
            return []
        type = self._types.of(command.payload)
        if command.needs_payload:
            return [f"payload: {type}"]
        nullable = type == "None" or type.endswith(("| None", ", None]")) or type == "Any"
        return [f"payload: {type if nullable else f'{type} | None'} = None"]

    def _sent(self, command: Command) -> list[str]:
        name = literal(command.name)
        return [name] if command.payload is None else [name, "payload"]

    def _result(self, name: str, type: Type, keyword: str) -> tuple[str, list[str]]:
        """Return the type of a result, and the argument of the client that says it, if any.

        ``name`` is that of the method, and ``keyword`` that of the argument.
        """
        text = self._types.of(type)
        if type in (NULL, ANYTHING):
            return text, []
        if self._types.is_class(type):
            return text, [f"{keyword}={text}"]
        return text, [f"{keyword}={self._adapter(name, text, keyword)}"]

    def _adapter(self, name: str, type: str, end: str) -> str:
        """Return the name of a new adapter of a type, which the module makes once."""
        adapter = self._uses.use("TypeAdapter")
        name = self._names.take(f"_{name.strip('_')}_{end}".upper(), "_")
        line = spread(f"{name}: {adapter}[{type}] = {adapter}(", [type], ")")
        self.needed.append(Part(name, line, 0 if self.needed else 2))
        return name

    def errors_part(self, command: Command, name: str) -> Part | None:
        """Return the part with the classes of the errors of a command, if it declares any.

        ``name`` is that of the method.
        """
        if not command.errors:
            return None
        name = self._names.take(f"{name.strip('_')}_errors".upper(), "COMMAND")
        classes = [self._errors[error] for error in command.errors]
        final = self._uses.use("Final")
        if len(classes) == 1:
            return Part(name, f"{name}: {final} = ({classes[0]},)", 0)
        return Part(name, spread(f"{name}: {final} = (", classes, ")"), 0)

    def _docstring(self, command: Command) -> str:
        facts = []
        if command.once:
            facts.append("Takes effect once for each ``key``, a random one unless it is given.")
        if command.guards:
            facts.append(f"Guarded by {', '.join(f'``{guard}``' for guard in command.guards)}.")
        elif command.protected:
            facts.append("For users who are signed in.")
        if command.timeout is not None:
            facts.append(f"Takes at most {command.timeout:g} seconds on the server.")
        errors = [f"`{self._errors[name]}`" for name in command.errors]
        others = [literal(name) for name in command.other_errors if name not in OF_ALL]
        if others:
            errors.append(f"`CommandError` ({', '.join(others)})")
        if errors:
            facts.append(wrapped(f"Raises {', '.join(errors)}."))
        texts = command.texts
        summary = texts.summary or f"Send the command ``{one_line(command.name)}``."
        return docstring([summary, texts.description, "\n".join(facts)])
