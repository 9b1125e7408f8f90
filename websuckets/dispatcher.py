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
    pays for a scope of its own; when a message did not end in time it is cancelled, and replaced.
    """
    last_words: str | None = None
    """What is to be sent once ``work`` has been left because it was cancelled."""

    def is_cancelled(self) -> bool:
        """Whether anybody meant to cancel what runs for this peer."""
        return self.life.cancel_called or self.work.scope.cancel_called or self.wire.is_cancelled()


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
            return _explain(error, message, peer)

    async def _run_in_scope(
        self, command: Command, message: Message, has_payload: bool, frame: str | bytes, peer: Peer
    ) -> str | None:
        """In a REQUEST scope; the reply is only given back once that is closed without error."""
        scope = peer.container({Message: message}, scope=Scope.REQUEST)
        try:
            dependencies = await scope.get(command.injection.key)
            reply = await _run(command, message, has_payload, frame, peer, dependencies)
        except BaseException as error:
            incident = await self._roll_back(scope, error, message, peer)
            return _explain(error, message, peer, incident)
        try:
            await peer.work.close(scope)
        except BaseException as error:
            if peer.work.scope.cancel_called:
                peer.last_words = _explain(self._too_late(), message, peer)
            return _explain(error, message, peer)
        return reply

    async def _roll_back(
        self, scope: AsyncContainer, error: BaseException, message: Message, peer: Peer
    ) -> str | None:
        """Close the scope of a message that failed; the incident of finalisers that fail, too."""
        what = f"finalisers of {message.event!r}"
        try:
            await peer.work.close(scope, error)
        except ExitError as failures:
            others = [failure for failure in failures.exceptions if failure is not error]
            if others:
                return log_incident(what, failures.derive(others))
        except BaseException:
            if peer.work.scope.cancel_called:
                incident = log_incident(what, self._too_late())
                peer.last_words = _explain(error, message, peer, incident)
            raise
        return None

    def _too_late(self) -> TimeoutError:
        return TimeoutError(f"finalisers took more than {self._finalize_timeout} seconds")


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
    """What to tell the client of an error, and the log; raises it again if it ends the task."""
    if not isinstance(error, Exception):
        stray = isinstance(error, anyio.get_cancelled_exc_class()) and not peer.is_cancelled()
        if not stray:  # as opposed to one of another task, that the handler waited for
            raise error
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
