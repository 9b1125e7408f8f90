"""One message: from the frame that came to the frame that answers it."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from dishka import AsyncContainer, Scope
from dishka.exceptions import ExitError

from websuckets.commands import Command
from websuckets.di.container import Work
from websuckets.di.plan import REQUIRED
from websuckets.envelope import (
    ClientEvent,
    Message,
    decode,
    encode_error,
    encode_event,
    with_id,
)
from websuckets.exc import ClientError, InvalidMessage, NotAuthorized
from websuckets.limits import Limits
from websuckets.socket import Wire

__all__ = ["Dispatcher", "Peer", "log_incident"]

logger: logging.Logger = logging.getLogger("websuckets")


@dataclass(slots=True)
class Peer:
    """Where messages come from, for as long as their connection lives."""

    wire: Wire
    container: AsyncContainer
    """The SESSION scope of the connection."""
    life: anyio.CancelScope
    """The connection's own; cancelled when it has to end."""
    work: Work
    """What messages are handled in, inside of ``life``. It is open before one comes, so that none
    pays for a scope of its own; after one that was not finalised in time another takes its place.
    """

    def ends_with(self, error: BaseException) -> bool:
        """Whether this error has to end what runs for the peer, rather than to be answered."""
        if isinstance(error, Exception):
            return False
        if not isinstance(error, anyio.get_cancelled_exc_class()):
            return True
        # Nobody else's: a handler may have waited for a task that somebody cancelled.
        return self.life.cancel_called or self.wire.cancellations() > 0


class Dispatcher:
    """Answers the messages of one running app."""

    def __init__(self, commands: Mapping[str, Command], limits: Limits) -> None:
        self._commands = commands
        self._finalize_timeout = limits.finalize_timeout

    async def answer(self, frame: str | bytes, peer: Peer) -> str | None:
        """What to send back, if anything. Whatever goes wrong is answered, and logged if need be.

        Only what ends the task itself is raised: a cancellation, ``KeyboardInterrupt``.
        """
        try:
            message, has_payload = decode(frame)
        except InvalidMessage as error:
            logger.debug("invalid message from %s", peer.wire.socket.id)
            return encode_error("invalid message", error.problems, error.id)
        command = self._commands.get(message.event)
        if command is None:
            logger.debug("unknown command %.80r from %s", message.event, peer.wire.socket.id)
            return encode_error("unknown command", None, message.id)
        if command.injection.needs_scope:
            return await self._run_in_scope(command, message, has_payload, frame, peer)
        try:
            return await _run(command, message, has_payload, frame, peer, ())
        except BaseException as error:
            if peer.ends_with(error):
                raise
            return _explain(error, message, peer)

    async def _run_in_scope(
        self, command: Command, message: Message, has_payload: bool, frame: str | bytes, peer: Peer
    ) -> str | None:
        """In a REQUEST scope; the reply is only given back once that is closed without error."""
        scope = peer.container({Message: message}, scope=Scope.REQUEST)
        reply: str | None = None
        failure: BaseException | None = None
        try:
            dependencies = await scope.get(command.injection.key)
            reply = await _run(command, message, has_payload, frame, peer, dependencies)
        except BaseException as error:
            failure = error
        # Asked before, because being late looks like it afterwards, and again after, because
        # until then it may be the cancellation of a timeout that a provider holds.
        ends = failure is not None and peer.ends_with(failure)
        late = await self._close(scope, failure, peer)
        if failure is None:
            return reply if late is None else _explain(late, message, peer)
        incident = None
        if late is not None:
            incident = log_incident(f"finalisers of {message.event!r}", late)
        if ends and peer.ends_with(failure):
            raise failure
        return _explain(failure, message, peer, incident)

    async def _close(
        self, scope: AsyncContainer, failure: BaseException | None, peer: Peer
    ) -> BaseException | None:
        """Close the scope of a message that failed, or did not; what went wrong with that."""
        try:
            await peer.work.close(scope, failure)
        except ExitError as errors:
            others = [error for error in errors.exceptions if error is not failure]
            return errors.derive(others) if others else None
        except BaseException as error:
            if peer.ends_with(error):
                raise
            return error
        if peer.work.is_late:
            return TimeoutError(f"finalisers took more than {self._finalize_timeout} seconds")
        return None


async def _run(
    command: Command,
    message: Message,
    has_payload: bool,
    frame: str | bytes,
    peer: Peer,
    dependencies: tuple[Any, ...],
) -> str | None:
    """Validate the payload, call the handler, encode what it returns."""
    payload, socket = command.plan.payload, peer.wire.socket
    leading: tuple[Any, ...]
    if payload is None:
        leading = (socket,)
    elif has_payload:
        leading = (socket, payload.validate(frame))
    elif payload.default is REQUIRED:
        raise ClientError("payload required")
    else:
        leading = (socket, payload.default)
    result = await command.call(leading, dependencies)
    try:
        if isinstance(result, ClientEvent):
            return with_id(result, message.id)
        if result is None and message.id is None:
            return None
        return encode_event(message.event, result, message.id)
    except Exception as error:
        error.add_note(f"while encoding what {command.plan.where} returned")
        raise


def _explain(
    error: BaseException, message: Message, peer: Peer, incident: str | None = None
) -> str | None:
    """What to tell the client of an error, and the log."""
    cause = _alone(error)
    if isinstance(cause, peer.wire.closed_errors) and peer.wire.socket.close_code is not None:
        logger.debug("%s left while %r ran", peer.wire.socket.id, message.event)
        return None
    if isinstance(cause, ClientError):
        if isinstance(cause, NotAuthorized):
            logger.info("not authorized: %r from %s", message.event, peer.wire.socket.id)
        try:
            return encode_error(cause.error, cause.details, message.id)
        except Exception as encoding_error:  # of the details
            error = encoding_error
    incident = log_incident(repr(message.event), error, incident)
    return encode_error("internal error", {"incident": incident}, message.id)


def _alone(error: BaseException) -> BaseException:
    """The error itself, or the one that stands alone in its exception group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def log_incident(what: str, error: BaseException, incident: str | None = None) -> str:
    """Log that ``what`` failed, under a new incident or one that is logged already."""
    incident = incident or secrets.token_hex(8)
    logger.error("%s failed, incident %s", what, incident, exc_info=error)
    return incident
