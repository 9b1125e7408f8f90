"""One message: from the frame that came to the frame that answers it."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.lowlevel
from dishka import AsyncContainer

from websuckets.commands import Command
from websuckets.di.plan import REQUIRED
from websuckets.di.work import Work
from websuckets.envelope import (
    Cancel,
    Message,
    decode,
    encode_error,
    encode_event,
    encode_result,
)
from websuckets.exc import ClientError, InvalidMessage, NotAuthorized, alone
from websuckets.incidents import log_incident
from websuckets.socket import Wire

__all__ = ["Call", "Dispatcher", "Peer"]

logger: logging.Logger = logging.getLogger("websuckets")


@dataclass(slots=True)
class Call:
    """A command that a client called."""

    command: Command
    message: Message
    has_payload: bool
    frame: str | bytes


class Streams(Protocol):
    """The streams of a connection."""

    async def start(self, call: Call) -> str | None:
        """Answer it beside the messages that follow; if that cannot be, the error to reply.

        Returns when the handler has begun, so that what it does first comes before them.
        """
        ...

    def cancel(self, id: str | int) -> None:
        """End the stream that answers the command ``id``, if it runs."""
        ...


@dataclass(slots=True)
class Peer:
    """Where messages come from, for as long as their connection lives."""

    wire: Wire
    container: AsyncContainer
    """The SESSION scope of the connection."""
    streams: Streams
    work: Work
    """What messages are handled in. It is open before one comes, so that none pays for a cancel
    scope; after one that was not finalised in time another takes its place."""


class Dispatcher:
    """Answers the messages of one running app."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands

    async def answer(self, frame: str | bytes, peer: Peer) -> str | None:
        """What to send back, if anything. Whatever goes wrong is answered, and logged if need be.

        Only what ends the task itself is raised: a cancellation, ``KeyboardInterrupt``.
        """
        try:
            message, has_payload = decode(frame)
        except InvalidMessage as error:
            logger.debug("invalid message from %s", peer.wire.socket.id)
            return encode_error("invalid message", error.problems, error.id)
        if isinstance(message, Cancel):
            peer.streams.cancel(message.id)
            return None
        command = self._commands.get(message.event)
        if command is None:
            logger.debug("unknown command %.80r from %s", message.event, peer.wire.socket.id)
            return encode_error("unknown command", None, message.id)
        call = Call(command, message, has_payload, frame)
        if command.is_stream:
            return await peer.streams.start(call)
        return await _handle(call, peer, peer.work, partial(_run, call, peer.wire))

    async def answer_stream(
        self, call: Call, peer: Peer, work: Work, begun: Callable[[], None]
    ) -> str | None:
        """Send what a stream yields until it ends; then the same as `answer`.

        ``begun`` is called right before the handler is.
        """
        return await _handle(call, peer, work, partial(_run_stream, call, peer.wire, work, begun))


async def _handle(
    call: Call,
    peer: Peer,
    work: Work,
    use: Callable[[tuple[Any, ...]], Awaitable[str | None]],
) -> str | None:
    """Give ``use`` its dependencies; the reply is only given back once they are closed."""
    command, message = call.command, call.message
    if command.injection.needs_scope:
        context = {Message: message}
        reply, failure, incident = await work.in_scope(
            peer.container, context, command.injection.key, use, message.event
        )
        return reply if failure is None else _explain(failure, message, peer.wire, incident)
    try:
        return await use(())
    except BaseException as error:
        if work.ends_with(error):
            raise
        return _explain(error, message, peer.wire)


async def _run(call: Call, wire: Wire, dependencies: tuple[Any, ...]) -> str | None:
    """Validate the payload, call the handler, encode what it returns."""
    result = await call.command.call(_leading(call, wire), dependencies)
    if result is None and call.message.id is None:
        return None
    return _encode(result, call, more=False)


async def _run_stream(
    call: Call,
    wire: Wire,
    work: Work,
    begun: Callable[[], None],
    dependencies: tuple[Any, ...],
) -> str | None:
    """Validate the payload, call the handler, send each item that it yields."""
    message = call.message
    items = call.command.call(_leading(call, wire), dependencies)
    begun()
    try:
        async for item in items:
            frame = _encode(item, call, more=True)
            # A frame goes out whole, or not at all. And a timeout that the handler holds around
            # its `yield` is not to hit us: it takes effect inside of the handler.
            with anyio.CancelScope(shield=True):
                await wire.socket.send(frame)
                # The others' turn, even if neither the handler nor the connection ever waits.
                await anyio.lowlevel.checkpoint()
            if work.is_cancelled:
                await anyio.lowlevel.checkpoint()
    except BaseException:
        await _close(items)
        raise
    return None if message.id is None else encode_event(message.event, None, message.id)


async def _close(items: AsyncGenerator[Any, None]) -> None:
    """End a stream where it stands; raises what its own clean-up raises."""
    try:
        await items.aclose()
    except BaseExceptionGroup as group:
        failures = group.split(GeneratorExit)[1]  # which a task group makes a group of
        if failures is not None:
            raise failures from None


def _leading(call: Call, wire: Wire) -> tuple[Any, ...]:
    """The arguments in front: the socket and, where it is asked for, the payload."""
    payload = call.command.plan.payload
    if payload is None:
        return (wire.socket,)
    if call.has_payload:
        return (wire.socket, payload.validate(call.frame))
    if payload.default is REQUIRED:
        raise ClientError("payload required")
    return (wire.socket, payload.default)


def _encode(result: Any, call: Call, *, more: bool) -> str:
    try:
        return encode_result(call.message.event, result, call.message.id, more=more)
    except Exception as error:
        gave = "yielded" if more else "returned"
        error.add_note(f"while encoding what {call.command.plan.where} {gave}")
        raise


def _explain(
    error: BaseException, message: Message, wire: Wire, incident: str | None = None
) -> str | None:
    """What to tell the client of an error, and the log."""
    cause = alone(error)
    if isinstance(cause, wire.closed_errors) and wire.socket.close_code is not None:
        logger.debug("%s left while %r ran", wire.socket.id, message.event)
        return None
    if isinstance(cause, ClientError):
        if isinstance(cause, NotAuthorized):
            logger.info("not authorized: %r from %s", message.event, wire.socket.id)
        try:
            return encode_error(cause.error, cause.details, message.id)
        except Exception as encoding_error:  # of the details
            error = encoding_error
    incident = log_incident(repr(message.event), error, incident)
    return encode_error("internal error", {"incident": incident}, message.id)
