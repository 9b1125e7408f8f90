"""Strings that a program gives."""

__all__ = ["plain_string"]


def plain_string(value: str) -> str:
    """Return the characters of a string as a plain ``str``.

    For a member of a ``str`` enum, these characters are its value. ``str()`` and f-strings give the
    member's name instead (``Event.CREATE``), by which the member is never known elsewhere.
    """
    return str.__str__(value)
