"""Outcomes of commands that failed: the reply to the client, and the line in the log."""

import logging
from typing import Final

from websuckets.commands.declared_errors import frame_of_error
from websuckets.commands.error_functions import ErrorFunctions
from websuckets.commands.peer import Peer
from websuckets.exc import ClientError, CommandTimeout, Forbidden, NotAuthorized
from websuckets.middleware import Outcome
from websuckets.protocol.messages import Message
from websuckets.runtime.failures import Meaning, both
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope

__all__ = ["explained", "refused"]

logger: logging.Logger = logging.getLogger("websuckets")


def refused(message: Message, error: ClientError) -> Outcome:
    """Return the outcome of a message that is answered with an error, without being run."""
    return Outcome(frame_of_error(error, message.id), error.error)


async def explained(
    error: BaseException,
    message: Message,
    peer: Peer,
    request_scope: RequestScope,
    errors: ErrorFunctions,
    unfinished: BaseException | None = None,
    limit: str = "",
) -> Outcome:
    """Return the outcome of a command that raised ``error``, and log the error if need be.

    ``unfinished`` is the failure of finalisers that got this error, if any; the failure is logged,
    too. ``limit`` is the time that the command may take, and its consequence, for the log. Raises
    the error again if it has to propagate.
    """
    name = f"{message.event!r:.80}"
    failure = await errors.judge(name, error, peer.scope, request_scope, peer.is_of_its_end)
    incident = None
    if unfinished is not None:
        incident = log_incident(f"finalisers of {message.event!r}", unfinished)
    match failure.meaning:
        case Meaning.PROPAGATE:
            raise failure.error
        case Meaning.IGNORE:
            logger.debug("%s left while %.80r ran", peer.socket.id, message.event)
            return Outcome(None, "connection closed", failure.error)
        case Meaning.REPLY if isinstance(failure.error, ClientError):
            _log(failure.error, message, peer, limit)
            if failure.mapped is not None:
                logger.debug("%s: %s became a reply", name, type(failure.mapped).__qualname__)
            try:
                return _outcome(failure.error, message, failure.error)
            except Exception as second:  # raised while encoding the details
                second.add_note(
                    f"while encoding the details of {type(failure.error).__name__}"
                    f"({failure.error.error!r:.80}); give details that pydantic serialises"
                )
                error = second if failure.mapped is None else both(failure.mapped, second)
        case _:
            error = failure.error
            _add_remedy(error)
    incident = log_incident(name, error, incident)
    return _outcome(ClientError("internal error", {"incident": incident}), message, error)


def _outcome(reply: ClientError, message: Message, exception: BaseException) -> Outcome:
    return Outcome(frame_of_error(reply, message.id), reply.error, exception)


def _add_remedy(error: BaseException) -> None:
    """Note how an answer of HTTP, raised in a handler, is written here; its class is not known."""
    if any(base.__name__ in HTTP_ERRORS for base in type(error).__mro__):
        detail = getattr(error, "detail", None)
        shown = repr(detail)[:MAX_DETAIL] if isinstance(detail, str) else "name of the error"
        error.add_note(
            f"{type(error).__name__} answers HTTP requests; to answer the client of a command, "
            f"raise websuckets.exc.ClientError({shown})"
        )


HTTP_ERRORS: Final = ("HTTPException", "HTTPError")
"""Names of the classes with which other frameworks answer an HTTP request."""

MAX_DETAIL: Final = 80
"""Characters of an error's detail in the remedy."""


def _log(error: ClientError, message: Message, peer: Peer, limit: str) -> None:
    if isinstance(error, NotAuthorized):
        logger.info("not authorized: %.80r from %s", message.event, peer.socket.id)
    elif isinstance(error, Forbidden):
        logger.info("forbidden: %.80r from %s", message.event, peer.socket.id)
    elif isinstance(error, CommandTimeout):
        logger.warning(
            "%.80r from %s took longer than %s",
            *(message.event, peer.socket.id, limit),
        )
