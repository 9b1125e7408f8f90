"""Checks of data to send, made first because an error in the library may end the connection."""

from websockets.frames import Close

from websuckets.socket import MAX_REASON

__all__ = ["check_text", "checked_close", "not_sendable"]


def check_text(text: str) -> None:
    """Raise ``UnicodeEncodeError``, a ``ValueError``, for a text that has no UTF-8 form.

    A library that meets such a text takes the error for a failure of its own, and ends the
    connection.
    """
    if not text.isascii():
        text.encode()


def not_sendable(message: object) -> str:
    """Return the text of the error for an object that is neither text nor bytes."""
    return (
        f"send() takes str or bytes, not {type(message).__name__}; write ClientEvent(event, "
        "payload), or return it from the handler"
    )


def checked_close(code: int, reason: str) -> Close:
    """Return the content of a close frame that can be sent.

    Raise ``ValueError`` for a reason that is too long or has no UTF-8 form, and ``ProtocolError``
    for a code that no close frame may have.
    """
    close = Close(code, reason)
    close.check()
    if len(reason.encode()) > MAX_REASON:
        raise ValueError(f"the reason of a close is at most {MAX_REASON} bytes long")
    return close
