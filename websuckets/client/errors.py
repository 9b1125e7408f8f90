"""Errors of clients: replies that are errors, and connections that were lost."""

from typing import Any

from websuckets.exc import WebSucketsError

__all__ = [
    "ClientClosed",
    "CommandError",
    "ConnectionLost",
    "EventsMissed",
    "QueueFull",
    "SlowReader",
    "UnexpectedReply",
    "UserChanged",
]


class CommandError(WebSucketsError):
    """An error that the server sent: its name, its details, and the id of the command.

    Subclasses may be given to a client for errors of certain names: ``Client(..., errors={"nickname
    taken": NicknameTaken})``. They are called with the same three arguments.
    """

    def __init__(self, error: str, details: Any = None, id: str | int | None = None) -> None:
        super().__init__(error, details, id)
        self.error = error
        self.details = details
        self.id = id

    def __str__(self) -> str:
        return self.error if self.details is None else f"{self.error}: {self.details}"


class ConnectionLost(WebSucketsError):
    """The connection ended before the reply came: a command may have taken effect or not.

    ``code`` and ``reason`` are those of the close frame, or 1006 where there was none.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self._text()} ({self.code}{f', {self.reason}' if self.reason else ''})"

    def _text(self) -> str:
        return "the connection was lost"


class ClientClosed(ConnectionLost):
    """The client is closed, and does not connect any more.

    It was closed by `Client.close`, which has the code 1000, by a close code after which no client
    connects again, by a refused handshake, whose HTTP status is ``status``, or by an error of
    ``authenticate``, which is the ``__cause__``.
    """

    def __init__(self, code: int = 1000, reason: str = "", status: int | None = None) -> None:
        super().__init__(code, reason)
        self.status = status
        """HTTP status of the answer to the opening handshake, if that was refused."""

    def _text(self) -> str:
        if self.status is not None:
            return f"the server refused the connection with HTTP status {self.status}"
        return "the client is closed"


class UserChanged(ConnectionLost):
    """The command was dropped, because another user than that of the call is signed in now.

    A command with a ``key`` that was sent before the connection was lost may have taken effect.
    """

    def __init__(self) -> None:
        super().__init__(1006)

    def __str__(self) -> str:
        return "another user has signed in since the command was called"


class QueueFull(WebSucketsError):
    """The queue is full of commands that wait for a connection; nothing was sent."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        return f"the client is not connected, and {self.size} commands wait already (queue=)"


class UnexpectedReply(WebSucketsError, ValueError):
    """The server sent something else than this program expects: the two have different versions.

    ``problems`` are those that pydantic found, each ``{loc, msg, type}``, without the values.
    """

    def __init__(self, event: str, text: str, problems: list[dict[str, Any]] | None = None) -> None:
        super().__init__(event, text)
        self.event = event
        self.problems: list[dict[str, Any]] = problems or []
        self._description = text

    def __str__(self) -> str:
        return f"{self.event!r} {self._description}"


class SlowReader(WebSucketsError):
    """Items of a stream came while replies were awaited, and more of them than its buffer holds."""

    def __init__(self, event: str) -> None:
        super().__init__(event)
        self.event = event

    def __str__(self) -> str:
        return f"items of {self.event!r} came faster than they were taken; the stream was cancelled"


class EventsMissed(WebSucketsError):
    """Events of a subscription are missing, and it was given no ``on_reload``.

    ``reply`` is the new reply to the command that subscribes, with the present state. Whoever goes
    on with the iteration gets the events that follow.
    """

    def __init__(self, event: str, reply: Any) -> None:
        super().__init__(event)
        self.event = event
        self.reply = reply

    def __str__(self) -> str:
        return f"events of {self.event!r} were missed: load its state anew"
