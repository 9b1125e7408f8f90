"""Names in the habit of a programming language, made of names with any characters."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Final

__all__ = ["Names", "camel", "snake", "words_of"]

_END_OF_WORD: Final = re.compile(r"_+")


def words_of(name: str) -> list[str]:
    """Return the words of a name: between characters that no name may have, and by capitals.

    ``firstName`` and ``first-name`` have the same words, and so do ``HTTPServer`` and
    ``http server``. The words are not changed but for what makes characters equal to Python
    (NFKC).
    """
    text = unicodedata.normalize("NFKC", name)
    text = "".join(character if f"a{character}".isidentifier() else "_" for character in text)
    words = []
    for part in _END_OF_WORD.split(text):
        start = 0
        for n in range(1, len(part)):
            before, here = part[n - 1], part[n]
            after = part[n + 1 : n + 2]
            is_start = here.isupper() and not before.isupper()
            is_start |= before.isupper() and here.isupper() and after.islower()
            if is_start:
                words.append(part[start:n])
                start = n
        if part:
            words.append(part[start:])
    return words


def snake(name: str) -> str:
    """Return a name as ``two_words``; it may be empty, or begin with a digit."""
    return "_".join(words_of(name)).lower()


def camel(name: str) -> str:
    """Return a name as ``TwoWords``; it may be empty, or begin with a digit."""
    return "".join(word[0].upper() + word[1:] for word in words_of(name))


class Names:
    """Names of one namespace, each used once.

    ``taken`` are names that nothing may have, such as words of the language.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def take(self, wanted: str, otherwise: str) -> str:
        """Return a name that is free from now on no more.

        It is the ``wanted`` one; behind ``otherwise``, if that is not a name; with an underscore
        behind it, if it is taken; and with a number from 2 on, if that is taken, too.
        """
        if not wanted.isidentifier():
            wanted = f"{otherwise}_{wanted}" if wanted else otherwise
        name, number = wanted, 1
        while name in self._taken:
            name = f"{wanted}_" if number == 1 else f"{wanted}_{number}"
            number += 1
        self._taken.add(name)
        return name

    def take_all(
        self, names: Collection[str], style: Callable[[str], str], otherwise: str
    ) -> dict[str, str]:
        """Return names for all of ``names``, in a ``style``.

        Those that are written in the style already come first, so that they keep their name.
        """
        ordered = sorted(names, key=lambda name: style(name) != name)
        made = {name: self.take(style(name), otherwise) for name in ordered}
        return {name: made[name] for name in names}
