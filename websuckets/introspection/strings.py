"""Strings that a program gives."""

__all__ = ["plain_string"]


def plain_string(value: str) -> str:
    """Return the characters of a string as a plain ``str``.

    Of a member of a ``str`` enum these are its value. ``str()`` and f-strings have its name instead
    (``Event.CREATE``), which is never what it is known by elsewhere.
    """
    return str.__str__(value)
