"""Strings that a program gives."""

__all__ = ["plain_string", "words_of"]


def plain_string(value: str) -> str:
    """Return the characters of a string as a plain ``str``.

    For a member of a ``str`` enum, these characters are its value. ``str()`` and f-strings give the
    member's name instead (``Event.CREATE``), by which the member is never known elsewhere.
    """
    return str.__str__(value)


def words_of(name: str) -> str:
    """Return the words of a class name in lower case, with spaces between them.

    A capital letter begins a word behind a letter or digit that is not capital, and before a small
    letter: ``HTTPDone`` has two words. An underscore stands between words.
    """
    spaced = ""
    for before, letter, after in zip(f" {name}", name, f"{name[1:]} ", strict=False):
        if letter.isupper() and before.isalnum() and (not before.isupper() or after.islower()):
            spaced += " "
        spaced += letter
    return " ".join(spaced.replace("_", " ").split()).lower()
