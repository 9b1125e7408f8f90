"""Source text of a generated client, in parts that have names, and its differences."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from itertools import islice
from typing import Final

__all__ = ["Part", "Source"]

MOST_LINES: Final = 30
"""Lines of a difference that are shown."""

MOST_NAMES: Final = 10
"""Names of parts that are told."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a source: a type, an error, a command."""

    name: str
    """Name of what the part declares; empty for parts that nobody asks for by a name."""
    text: str
    """Lines of the part, without the blank ones between parts."""
    blank: int = 2
    """Number of blank lines before the part."""


@dataclass(frozen=True, slots=True)
class Source:
    """Parts of a source in their order."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        texts = [f"{chr(10) * part.blank}{part.text}" for part in self.parts]
        return "\n".join(texts).lstrip("\n") + "\n"

    def differing_from(self, found: str) -> list[str]:
        """Return the names of the parts that are not in another text, in their order."""
        lines = f"\n{found}\n"
        return [part.name for part in self.parts if part.name and not _has(lines, part.text)]

    def differences(self, found: str, name: str) -> Iterator[str]:
        """Yield lines that tell in which parts the text ``found``, of a file ``name``, differs.

        The first lines name the parts, the others are the beginning of a unified difference.
        """
        names = self.differing_from(found)
        if names:
            more = len(names) - MOST_NAMES
            told = ", ".join(names[:MOST_NAMES])
            yield f"new or changed: {told}{f' and {more} more' if more > 0 else ''}"
        lines = unified_diff(
            *(found.splitlines(), str(self).splitlines()),
            *(name, "as it is generated now"),
            lineterm="",
            n=2,
        )
        yield from islice(lines, MOST_LINES)
        if next(lines, None) is not None:
            yield "..."


def _has(lines: str, part: str) -> bool:
    return f"\n{part}\n" in lines
