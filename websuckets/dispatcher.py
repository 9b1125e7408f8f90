"""One message: from the frame that came to the frame that answers it."""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dishka import AsyncContainer, Scope
from dishka.exceptions import ExitError

from websuckets.commands import Command
from websuckets.di.container import finalize
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
from websuckets.socket import Socket

__all__ = ["Dispatcher", "Peer", "log_incident"]

logger: logging.Logger = logging.getLogger("websuckets")


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a message came from, for as long as its connection lives."""

    socket: Socket
    container: AsyncContainer
    """The SESSION scope of the connection."""
    closed_errors: tuple[type[Exception], ...]
    """What the socket raises once it is closed."""
    is_cancelled: Callable[[], bool]
    """Whether the task that handles this peer's messages has been cancelled."""


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
            logger.debug("invalid message from %s", peer.socket.id)
            return encode_error("invalid message", error.problems, error.id)
        command = self._commands.get(message.event)
        if command is None:
            logger.debug("unknown command %.80r from %s", message.event, peer.socket.id)
            return encode_error("unknown command", None, message.id)
        try:
            if command.injection:
                return await self._run_in_scope(command, message, has_payload, frame, peer)
            return await _run(command, message, has_payload, frame, peer.socket, ())
        except Exception as error:
            return _explain(error, message, peer)

    async def _run_in_scope(
        self, command: Command, message: Message, has_payload: bool, frame: str | bytes, peer: Peer
    ) -> str | None:
        """In a REQUEST scope; the reply is only given back once that is closed without error."""
        scope = peer.container({Message: message}, scope=Scope.REQUEST)
        try:
            dependencies = await scope.get(command.injection.key)
            reply = await _run(command, message, has_payload, frame, peer.socket, dependencies)
        except BaseException as error:
            incident = await self._roll_back(scope, error, message)
            if not isinstance(error, Exception):
                raise
            return _explain(error, message, peer, incident)
        await finalize(scope, timeout=self._finalize_timeout, cancelled=peer.is_cancelled())
        return reply

    async def _roll_back(
        self, scope: AsyncContainer, error: BaseException, message: Message
    ) -> str | None:
        """Close the scope of a message that failed; the incident of finalisers that fail, too."""
        try:
            await finalize(scope, error, timeout=self._finalize_timeout)
        except ExitError as failures:
            others = [failure for failure in failures.exceptions if failure is not error]
            if others:
                return log_incident(f"finalisers of {message.event!r}", failures.derive(others))
        return None


async def _run(
    command: Command,
    message: Message,
    has_payload: bool,
    frame: str | bytes,
    socket: Socket,
    dependencies: tuple[Any, ...],
) -> str | None:
    """Validate the payload, call the handler, encode what it returns."""
    payload = command.plan.payload
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
    if isinstance(result, ClientEvent):
        return with_id(result, message.id)
    if result is None and message.id is None:
        return None
    return encode_event(message.event, result, message.id)


def _explain(
    error: Exception, message: Message, peer: Peer, incident: str | None = None
) -> str | None:
    """What to tell the client of an error, and the log."""
    cause = _alone(error)
    if isinstance(cause, peer.closed_errors) and peer.socket.close_code is not None:
        logger.debug("%s left while %r ran", peer.socket.id, message.event)
        return None
    if isinstance(cause, ClientError):
        if isinstance(cause, NotAuthorized):
            logger.info("not authorized: %r from %s", message.event, peer.socket.id)
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
