"""Layout of generated Python: literals, docstrings, and calls that may need several lines."""

import re
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any, Final

__all__ = ["LENGTH", "docstring", "indented", "literal", "one_line", "spread", "wrapped"]

LENGTH: Final = 100
"""Most characters of a line, where it can be broken."""

INDENT: Final = "    "


def literal(value: Any) -> str:
    """Return the Python literal of a JSON value, with double quotes where texts allow them."""
    match value:
        case str():
            return _text_literal(value)
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case dict():
            pairs = (f"{literal(key)}: {literal(item)}" for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
    return repr(value)


def _text_literal(value: str) -> str:
    written = repr(value)
    if written[0] == '"' or '"' in value:
        return written
    return '"' + written[1:-1].replace("\\'", "'") + '"'


def one_line(text: str) -> str:
    """Return a text with its white space as single blanks, without characters that none sees."""
    return _visible(" ".join(text.split()))


def _visible(text: str) -> str:
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def docstring(paragraphs: Iterable[str | None]) -> str:
    """Return the literal of a docstring with these paragraphs; ``None`` and empty ones are none.

    Lines keep their indentation and their length.
    """
    told = [paragraph.strip() for paragraph in paragraphs if paragraph and paragraph.strip()]
    text = "\n\n".join(told).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    lines = [_visible(line.expandtabs(4).rstrip()) for line in text.splitlines()]
    if len(lines) > 1:
        lines.append("")
    elif lines and _ENDS_WITH_QUOTE.search(lines[0]):
        lines[0] = f'{lines[0][:-1]}\\"'
    body = "\n".join(lines)
    return f'"""{body}"""'


def indented(text: str) -> str:
    """Return a text, of which no line is within a literal but a docstring, one level deeper."""
    return "\n".join(f"{INDENT}{line}" if line else "" for line in text.split("\n"))


def wrapped(text: str) -> str:
    """Return a paragraph in lines for the docstring of a method, not broken within quotes."""
    kept = _QUOTED.sub(lambda match: match[0].replace(" ", "\0"), text)
    lines = wrap(kept, LENGTH - 8, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


_ENDS_WITH_QUOTE: Final = re.compile(r'(?<!\\)(?:\\\\)*"$')
"""End of a text with a quote before which there is an even number of backslashes."""

_QUOTED: Final = re.compile(r'"[^"]*"|`[^`]*`')


def spread(head: str, parts: Sequence[str], tail: str, depth: int = 0) -> str:
    """Return parts between ``head`` and ``tail``, with commas, in one line if it is not too long.

    ``depth`` is the number of levels by which the result will be indented.
    """
    line = f"{head}{', '.join(parts)}{tail}"
    if len(line) + len(INDENT) * depth <= LENGTH or not parts:
        return line
    lines = "".join(f"{INDENT}{part},\n" for part in parts)
    return f"{head}\n{lines}{tail}"
