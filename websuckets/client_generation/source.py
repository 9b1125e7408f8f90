"""Source text of a generated client, in parts that have names, and its differences."""

from collections.abc import Callable, Iterable, Iterator
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
    names_in: Callable[[str], Iterable[str]]
    """Function that returns the names of what a text of the language declares, as parts have them.
    """

    def __str__(self) -> str:
        texts = [f"{chr(10) * part.blank}{part.text}" for part in self.parts]
        return "\n".join(texts).lstrip("\n") + "\n"

    def differing_from(self, found: str) -> dict[str, list[str]]:
        """Return the names of parts that are new, changed or gone against the text ``found``."""
        lines = f"\n{found}\n"
        before = list(dict.fromkeys(self.names_in(found)))
        now = {part.name: f"\n{part.text}\n" in lines for part in self.parts if part.name}
        return {
            "new": [name for name in now if name not in before],
            "changed": [name for name, is_in in now.items() if name in before and not is_in],
            "gone": [name for name in before if name not in now],
        }

    def differences(self, found: str, name: str) -> Iterator[str]:
        """Yield lines that tell in which parts the text ``found``, of a file ``name``, differs.

        The first lines name the parts, the others are the beginning of a unified difference.
        """
        for kind, names in self.differing_from(found).items():
            if names:
                told, more = ", ".join(names[:MOST_NAMES]), len(names) - MOST_NAMES
                yield f"{kind}: {told}{f' and {more} more' if more > 0 else ''}"
        lines = unified_diff(
            *(found.splitlines(), str(self).splitlines()),
            *(name, "as it is generated now"),
            lineterm="",
            n=2,
        )
        yield from islice(lines, MOST_LINES)
        if next(lines, None) is not None:
            yield "..."
