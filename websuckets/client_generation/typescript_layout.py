"""Layout of generated TypeScript: literals, names of properties, comments, and long lines."""

import json
import re
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any, Final

from websuckets.client_generation.names import words_of

__all__ = ["LENGTH", "comment", "indented", "literal", "lower_camel", "property_name", "spread"]

LENGTH: Final = 100
"""Most characters of a line, where it can be broken."""

INDENT: Final = "  "

_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


def literal(value: Any) -> str:
    """Return the literal of a JSON value."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(
        character if character.isprintable() else json.dumps(character)[1:-1] for character in text
    )


def lower_camel(name: str) -> str:
    """Return a name as ``twoWords``; it may be empty, or begin with a digit."""
    first, *others = words_of(name) or [""]
    return first.lower() + "".join(word[0].upper() + word[1:] for word in others)


def property_name(name: str) -> str:
    """Return the name of a property as it is on the wire, in quotes where it needs them."""
    return name if _IDENTIFIER.fullmatch(name) else literal(name)


def comment(paragraphs: Iterable[str | None]) -> str:
    """Return a comment with these paragraphs, ``None`` and empty ones left out, and a line end.

    Without any the result is empty. Lines keep their indentation.
    """
    told = [paragraph.strip() for paragraph in paragraphs if paragraph and paragraph.strip()]
    text = "\n\n".join(told).replace("*/", "*\\/")
    lines = [_visible(line.expandtabs(4).rstrip()) for line in text.splitlines()]
    if not lines:
        return ""
    if len(lines) == 1 and len(lines[0]) <= LENGTH - 10:
        return f"/** {lines[0]} */\n"
    if len(lines) == 1:
        lines = wrap(lines[0], LENGTH - 6, break_long_words=False, break_on_hyphens=False)
    body = "".join(f" * {line}".rstrip() + "\n" for line in lines)
    return f"/**\n{body} */\n"


def indented(text: str) -> str:
    """Return a text one level deeper."""
    return "\n".join(f"{INDENT}{line}" if line else "" for line in text.split("\n"))


def spread(head: str, parts: Sequence[str], tail: str, depth: int = 0) -> str:
    """Return parts between ``head`` and ``tail``, with commas, in one line if it is not too long.

    ``depth`` is the number of levels by which the result will be indented.
    """
    line = f"{head}{', '.join(parts)}{tail}"
    longest = max(map(len, line.split("\n")))
    if longest + len(INDENT) * depth <= LENGTH or not parts:
        return line
    lines = "".join(f"{indented(part)},\n" for part in parts)
    return f"{head.rstrip()}\n{lines}{tail.lstrip()}"


def _visible(text: str) -> str:
    return "".join(
        character if character.isprintable() else literal(character)[1:-1] for character in text
    )
