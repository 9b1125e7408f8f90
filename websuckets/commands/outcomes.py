"""Outcomes of commands that failed: the reply to the client, and the line in the log."""

import logging

from websuckets.commands.peer import Peer
from websuckets.exc import ClientError, CommandTimeout, NotAuthorized
from websuckets.middleware import Outcome
from websuckets.protocol.messages import Message, encode_error
from websuckets.runtime.failures import Meaning, judge
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope

__all__ = ["explained", "refused"]

logger: logging.Logger = logging.getLogger("websuckets")


def refused(message: Message, error: ClientError) -> Outcome:
    """Return the outcome of a message that is answered with an error, without being run."""
    return Outcome(encode_error(error.error, error.details, message.id), error.error)


def explained(
    error: BaseException,
    message: Message,
    peer: Peer,
    request_scope: RequestScope,
    incident: str | None = None,
) -> Outcome:
    """Return the outcome of a command that raised ``error``, and log the error if need be.

    An ``incident`` that is given is already logged for this command. Raises the error again if it
    has to propagate.
    """
    failure = judge(error, request_scope.cancelled, peer.is_of_its_end)
    match failure.meaning:
        case Meaning.PROPAGATE:
            raise error
        case Meaning.IGNORE:
            logger.debug("%s left while %.80r ran", peer.socket.id, message.event)
            return Outcome(None, "connection closed", failure.error)
        case Meaning.REPLY if isinstance(failure.error, ClientError):
            _log(failure.error, message, peer)
            try:
                return _outcome(failure.error, message, failure.error)
            except Exception as encoding_error:  # raised while encoding the details
                error = encoding_error
        case _:
            error = failure.error
    incident = log_incident(f"{message.event!r:.80}", error, incident)
    return _outcome(ClientError("internal error", {"incident": incident}), message, error)


def _outcome(reply: ClientError, message: Message, exception: BaseException) -> Outcome:
    return Outcome(encode_error(reply.error, reply.details, message.id), reply.error, exception)


def _log(error: ClientError, message: Message, peer: Peer) -> None:
    if isinstance(error, NotAuthorized):
        logger.info("not authorized: %.80r from %s", message.event, peer.socket.id)
    elif isinstance(error, CommandTimeout):
        logger.warning("%.80r from %s took too long", message.event, peer.socket.id)
