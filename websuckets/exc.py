"""Errors of websuckets.

::

    WebSucketsError
    ├── ClientError (InternalError)      sent to the client as it is
    │   ├── NotAuthorized
    │   │   └── Expired                  the user was verified for a time that is over
    │   ├── Forbidden                    the user is known, and may not
    │   ├── CommandTimeout               a command took too long and was cancelled
    │   ├── InvalidChannel               a name that no channel can have
    │   ├── TooManySubscriptions         of one connection
    │   └── Unavailable                  a service that is needed does not answer for now
    ├── HandshakeRefused                 answers an opening handshake with an HTTP status
    ├── ConfigurationError               a mistake in the program, found before the port opens
    │   ├── InvalidHandlerSignature
    │   ├── InvalidGuard
    │   ├── DuplicateCommand
    │   └── MissingProvider
    ├── InvalidMessage                   a frame that is not a command; the connection answers it
    ├── NoCurrentSession                 ``Session.online`` read where its app is not known
    └── ...                              errors of clients: see ``websuckets.client``
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from websuckets.introspection.strings import plain_string, words_of

__all__ = [
    "ClientError",
    "CommandTimeout",
    "ConfigurationError",
    "DuplicateCommand",
    "Expired",
    "Forbidden",
    "HandshakeRefused",
    "InternalError",
    "InvalidChannel",
    "InvalidGuard",
    "InvalidHandlerSignature",
    "InvalidMessage",
    "MissingProvider",
    "NoCurrentSession",
    "NotAuthorized",
    "TooManySubscriptions",
    "Unavailable",
    "WebSucketsError",
]


HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""Pattern of a token of RFC 9110, section 5.6.2."""

FRAMING: Final = {"connection", "content-length", "transfer-encoding", "upgrade"}


def check_header(name: str, value: str, place: str) -> None:
    """Raise `ValueError` if an answer to an opening handshake cannot have this header.

    Raises it for names that are not tokens or that belong to the connection, and for values that
    are not printable ASCII.
    """
    if not HEADER_NAME.fullmatch(name) or name.lower() in FRAMING:
        raise ValueError(f"{place}: {name!r} is not a header that can be set")
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{place}: the header {name} is not printable ASCII")


class WebSucketsError(Exception):
    """Root of every error that websuckets raises."""


_UNNAMED: Final[Any] = object()
"""Object that stands for the name of an error where its class has the name."""


class ClientError(WebSucketsError):
    """An error for the client: raised anywhere below a handler, the error is sent as the reply.

    ``error`` names the error; ``details`` is anything that pydantic serialises, or ``None``.
    ``str()`` and logs show the name alone: details are for the client only.

    A subclass is a kind of error, which commands declare by ``raises=[...]``. It has the name that
    ``error = "..."`` in its body says, or else the words of its own name in lower case:
    ``class NicknameTaken(ClientError)`` is sent as ``"nickname taken"``. ``details: Free`` in its
    body is the type of its details: ``raise NicknameTaken(details=Free(...))``. Details of another
    type are an internal error, as is a result that does not fit its annotation.

    Raises `TypeError` for an ``error`` that is not a ``str``, or that is missing for `ClientError`
    itself.
    """

    error: str
    """Name of the error."""
    details: Any
    """Details for the client."""

    def __init__(self, error: str = _UNNAMED, details: Any = None) -> None:
        if error is _UNNAMED:
            if type(self) is ClientError:
                raise TypeError("ClientError: give the error its name, or raise a subclass")
            error = getattr(type(self), "error", None) or words_of(type(self).__name__)
        if not isinstance(error, str):
            raise TypeError(
                f"{type(self).__name__}: the error is a str, not {type(error).__name__}; what else "
                "the client is to know goes into details"
            )
        error = plain_string(error)
        super().__init__(error)
        self.error = error
        self.details = details


InternalError = ClientError
"""The documented name of `ClientError`; both stay."""


class NotAuthorized(ClientError):
    """Error for a caller who is not known, as a user who may run this command.

    Raised by `CurrentUser`, and by guards of a program. It counts as a failed authentication: see
    `Limits.auth_failures`. For a user who is known and may not, see `Forbidden`.
    """

    error = "not authorized"

    def __init__(self, error: str = "not authorized", details: Any = None) -> None:
        super().__init__(error, details)


class Expired(NotAuthorized):
    """Error for a caller who was verified for a time that is over.

    The client cannot tell this error from `NotAuthorized`.
    """


class Forbidden(ClientError):
    """Error for a user who is known, but may not do this. Raised by guards and handlers.

    It does not count as a failed authentication, however often it is raised.
    """

    error = "forbidden"

    def __init__(self, error: str = "forbidden", details: Any = None) -> None:
        super().__init__(error, details)


class CommandTimeout(ClientError):
    """Error of a command that took too long and was cancelled; the client gets ``timeout``.

    Of the code of a program, middleware alone sees this error.
    """

    error = "timeout"

    def __init__(self) -> None:
        super().__init__("timeout")


class InvalidChannel(ClientError):
    """Error for a channel name that is not encodable as UTF-8, empty, or too long.

    `Limits.channel_name` bounds its length.
    """

    error = "invalid channel"

    def __init__(self) -> None:
        super().__init__("invalid channel")


class TooManySubscriptions(ClientError):
    """Error for a subscription past `Limits.subscriptions` of one connection."""

    error = "too many subscriptions"

    def __init__(self) -> None:
        super().__init__("too many subscriptions")


class Unavailable(ClientError):
    """Error for a service that does not answer for now; the client may try again later."""

    error = "unavailable"

    def __init__(self) -> None:
        super().__init__("unavailable")


class HandshakeRefused(WebSucketsError):
    """Error of an ``on_handshake`` hook: the client gets this HTTP response, and no connection.

    ``status`` is an HTTP status from 300 to 599, ``text`` the body, in UTF-8, ``headers`` are added
    to the response.

    With a ``close_code`` from 3000 to 4999 the handshake is accepted instead, and the connection
    closed at once with this code, and with ``text`` as the reason. That is for browsers: they show
    their programs no response, only code 1006, as for a network that failed, after which a program
    would connect again, for ever.

    Raises `ValueError` for another status or code, for a text that is not a ``str``, and for
    headers that are not valid, not printable ASCII, or belong to the connection.
    """

    def __init__(
        self,
        status: int = 403,
        text: str = "",
        headers: Mapping[str, str] | None = None,
        *,
        close_code: int | None = None,
    ) -> None:
        if not isinstance(status, int) or not 300 <= status <= 599:
            raise ValueError(f"HandshakeRefused({status!r}): the status is an int from 300 to 599")
        if not isinstance(text, str):
            raise ValueError(f"HandshakeRefused: the text is a str, not {type(text).__name__}")
        self.status: HTTPStatus = HTTPStatus(status)
        self.text: str = text.encode(errors="replace").decode()  # no halves of surrogate pairs
        if close_code is not None and not (
            isinstance(close_code, int) and 3000 <= close_code <= 4999
        ):
            raise ValueError(
                f"HandshakeRefused(close_code={close_code!r}): codes of programs are 3000 to 4999"
            )
        self.close_code: int | None = close_code
        number = self.status.value
        super().__init__(f"HTTP {number}: {self.text}" if text else f"HTTP {number}")
        self.headers: dict[str, str] = {}
        for name, value in (headers or {}).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise ValueError(f"HandshakeRefused: the header {name!r} is not a str")
            check_header(name, value, "HandshakeRefused")
            self.headers[plain_string(name)] = plain_string(value)


class ConfigurationError(WebSucketsError):
    """Error of the program that was found before a client could connect.

    ``problems`` holds one text for each mistake that was found at the same moment; each text names
    the function, its file and line, the parameter and the remedy as far as they apply.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: tuple[str, ...] = problems

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        numbered = (f"{number}. {problem}" for number, problem in enumerate(self.problems, 1))
        return "\n".join([f"{len(self.problems)} problems:", *numbered])


class InvalidHandlerSignature(ConfigurationError):
    """Error of a handler whose parameters cannot be understood."""


class InvalidGuard(ConfigurationError):
    """Error of a ``protected=`` that would protect nothing, or not check every message."""


class DuplicateCommand(ConfigurationError):
    """Error of two handlers of one app that have the same name."""


class MissingProvider(ConfigurationError):
    """Error of a dependency, of a handler or of another dependency, that nothing provides."""


def report(errors: Sequence[ConfigurationError]) -> ConfigurationError:
    """Return all ``errors`` as one error, of their class if all have the same."""
    classes = {type(error) for error in errors}
    error_class = classes.pop() if len(classes) == 1 else ConfigurationError
    return error_class(*(problem for error in errors for problem in error.problems))


def alone(error: BaseException) -> BaseException:
    """Return the error, or the only error in an exception group, at any depth."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class InvalidMessage(WebSucketsError):
    """Error of a frame that is not a command.

    ``problems`` is a list of ``{"loc", "msg", "type"}``; ``id`` is the command's id where it could
    be read. Neither holds any other part of the frame.
    """

    def __init__(self, problems: list[dict[str, Any]], id: str | int | None = None) -> None:
        super().__init__("invalid message")
        self.problems = problems
        self.id = id


class NoCurrentSession(WebSucketsError):
    """Error of reading `Session.online` or `Session.verified` where it is unclear of which app."""
