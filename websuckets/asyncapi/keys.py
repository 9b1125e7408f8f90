"""Keys of the parts of an AsyncAPI document, made of names that may have any characters."""

import re
from typing import Any, Final

__all__ = ["Keys", "key_of"]

_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")


def key_of(name: str) -> str:
    """Return a name with the characters that keys of AsyncAPI may have, and without a dot.

    A blank becomes an underscore, any other character its code point, as ``-u0434``.
    """
    return _OTHER.sub(_written, name)


def _written(match: re.Match[str]) -> str:
    return "_" if match[0] == " " else f"-u{ord(match[0]):04x}"


class Keys:
    """Keys of one document, each used once."""

    def __init__(self) -> None:
        self._things: dict[str, Any] = {}

    def take(self, key: str, thing: object) -> str:
        """Return the key for a thing: that of an equal thing before, or a new one.

        The key that is asked for gets a number if another thing has it.
        """
        number, taken = 1, key
        while self._things.setdefault(taken, thing) != thing:
            number += 1
            taken = f"{key}_{number}"
        return taken
