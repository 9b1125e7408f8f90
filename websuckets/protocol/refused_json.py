"""Reader of JSON that the parser refuses: too deep, half of a character, cut off.

The parser gives nothing of a frame in which it finds a fault. So this module finds the members of
the object around the fault, without checking the values, in one pass and without recursion. The
reader knows strings and brackets, and stops where brackets do not match.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from pydantic_core import from_json

__all__ = ["value_of"]

BLANKS: Final = r"[ \t\n\r]*+"
STRING: Final = r'"(?:[^"\\]++|\\.)*+"'

BEGIN: Final = re.compile(rf"{BLANKS}\{{{BLANKS}")
KEY: Final = re.compile(rf"({STRING}){BLANKS}:{BLANKS}", re.DOTALL)
SIMPLE: Final = re.compile(rf'{STRING}|[^ \t\n\r"\[\]{{}},:]++', re.DOTALL)
"""A string, a number, or a word."""
NEXT: Final = re.compile(rf"{BLANKS}([,}}]){BLANKS}")
MARK: Final = re.compile(rf'[\[\]{{}}]|{STRING}|"', re.DOTALL)
"""A bracket, a string, or the beginning of a string that has no end."""

CLOSED_BY: Final = {"[": "]", "{": "}"}

MAX_MEMBERS: Final = 64
"""Number of members that are read; a command has half a dozen."""

MAX_MARKS: Final = 8192
"""Number of brackets and strings within values that are read, in some milliseconds."""

ESCAPED: Final = 12
"""Greatest number of characters for a single character: two escapes of six each."""


def value_of(frame: str | bytes, name: str, most: int) -> Any:
    """Return the value of the last member called ``name`` in front of the fault.

    The value is a string of at most ``most`` characters, or a number or word of as many; ``None``
    if such a value is missing. Not more than `MAX_MEMBERS` and `MAX_MARKS` are read.
    """
    text = frame if isinstance(frame, str) else frame.decode(errors="surrogateescape")
    found = None
    for key, value in islice(_Reader(text).members(), MAX_MEMBERS):
        if len(key) <= ESCAPED * len(name) + 2 and _parsed(key) == name:
            found = _parsed(value) if len(value) <= ESCAPED * most + 2 else None
    return found


class _Reader:
    """A reader of one text, used once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = MAX_MARKS

    def members(self) -> Iterator[tuple[str, str]]:
        """Yield the keys and values of the object, as they are written.

        A value that has parts is given as ``[``.
        """
        text = self._text
        begin = BEGIN.match(text)
        at = len(text) if begin is None else begin.end()
        while (key := KEY.match(text, at)) is not None:
            simple = SIMPLE.match(text, key.end())
            end = self._end_of_parts(key.end()) if simple is None else simple.end()
            after = None if end is None else NEXT.match(text, end)
            if after is None:  # the value may have been cut off
                return
            yield key[1], "[" if simple is None else simple[0]
            at = after.end() if after[1] == "," else len(text)

    def _end_of_parts(self, at: int) -> int | None:
        """Return the end of the array or object that begins at ``at``; ``None`` without an end."""
        missing: list[str] = []
        for mark in islice(MARK.finditer(self._text, at), self._left):
            self._left -= 1
            first = self._text[mark.start()]
            if first in CLOSED_BY:
                missing.append(CLOSED_BY[first])
            elif first == '"':
                if mark.end() - mark.start() == 1:
                    return None
            elif not missing or missing.pop() != first:
                return None
            elif not missing:
                return mark.end()
        return None


def _parsed(value: str) -> Any:
    try:
        return from_json(value.encode(errors="surrogatepass"))
    except ValueError:
        return None
