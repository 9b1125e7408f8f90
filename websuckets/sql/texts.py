"""Texts as the tables of websuckets have them: without NUL, and hidden from logs."""

__all__ = ["Hidden", "restored", "stored", "stored_as_is"]


class Hidden(str):
    """A string that logs of engines and drivers do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


def stored(text: str) -> str:
    """Return the text without NUL, which PostgreSQL cannot keep; different for different texts."""
    return Hidden(text.replace("\\", "\\\\").replace("\0", "\\0"))


def stored_as_is(text: str) -> str:
    """Return the text, which `restored` gives back; JSON is stored as it is.

    A text with NUL, which no JSON has, is stored in another form, behind a backslash.
    """
    if "\0" in text or text.startswith("\\"):
        return Hidden("\\" + stored(text))
    return Hidden(text)


def restored(text: str) -> str:
    """Return the text that was given to `stored_as_is`."""
    if not text.startswith("\\"):
        return text
    parts = text[1:].split("\\\\")
    return "\\".join(part.replace("\\0", "\0") for part in parts)
