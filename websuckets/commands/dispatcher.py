"""One message: from the received frame to the frame that answers it."""

import logging
import math
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Final

import anyio
import anyio.lowlevel

from websuckets.commands.groups import UNSET, Command
from websuckets.exc import ClientError, CommandTimeout, InvalidMessage, NotAuthorized, alone
from websuckets.middleware import Around, Middleware, Outcome, composed
from websuckets.protocol.messages import (
    Control,
    Message,
    decode,
    encode_error,
    encode_event,
    encode_result,
)
from websuckets.protocol.transport import TransportConnection
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope
from websuckets.runtime.scopes import OpenScope
from websuckets.security import check_still_authorised
from websuckets.socket import Socket

__all__ = ["Dispatcher", "Peer", "ReceivedCommand", "Route"]

logger: logging.Logger = logging.getLogger("websuckets")
access: logging.Logger = logging.getLogger("websuckets.access")


KEPT_PARSED: Final = 4096
"""Length of a frame up to which its parsed payload is kept until the message is answered.

Parsed JSON may take twenty times the memory of its text: of a larger frame, only the text is kept.
"""

NO_COMMAND: Final = Message("")
"""Message that stands for a frame that is not a command."""


@dataclass(frozen=True, slots=True)
class Route:
    """A command, its timeout, and the facts about the command that each message needs."""

    command: Command
    timeout: Timeout
    is_stream: bool
    needs_scope: bool
    key: Any
    """Key under which the container gives all that the command needs; see `Injection`."""


@dataclass(slots=True)
class ReceivedCommand:
    """A message of a client: a command, or a message that is only answered with an error."""

    message: Message
    route: Route | None = None
    frame: str | bytes | None = None
    """Frame that carries the payload, if there is one."""
    payload: Any = None
    """Parsed payload of a small frame; see `KEPT_PARSED`."""
    error: str | None = None
    details: Any = None

    @property
    def is_stream(self) -> bool:
        return self.route is not None and self.route.is_stream


@dataclass(slots=True)
class Peer:
    """A client that sends messages, for as long as its connection lives."""

    transport: TransportConnection
    scope: OpenScope
    """The SESSION scope of the connection; messages are answered in copies of its context."""
    request_scope: RequestScope
    """Request scope in which messages are handled. The request scope is open before a message
    comes, so that no message pays for a cancel scope; after a message that took too long, another
    request scope takes its place."""


class Dispatcher:
    """Dispatcher that answers the messages of one running app."""

    def __init__(
        self,
        commands: Mapping[str, Command],
        clock: Clock,
        handler_timeout: float | None,
        middleware: Iterable[Middleware] = (),
    ) -> None:
        def route(command: Command) -> Route:
            timeout = handler_timeout if command.timeout is UNSET else command.timeout
            injection = command.injection
            return Route(
                command,
                clock.timeout(timeout),
                command.is_stream,
                injection.needs_scope,
                injection.key,
            )

        self._routes = {name: route(command) for name, command in commands.items()}
        self._timeout = clock.timeout(handler_timeout)
        self._around = composed(middleware)

    def read(self, frame: str | bytes) -> ReceivedCommand | Control:
        """Return the command or control message in a frame, or the error of an invalid frame."""
        try:
            message, payload = decode(frame)
        except InvalidMessage as error:
            message = NO_COMMAND if error.id is None else Message("", id=error.id)
            return ReceivedCommand(message, error="invalid message", details=error.problems)
        if isinstance(message, Control):
            return message
        route = self._routes.get(message.event)
        if route is None:
            return ReceivedCommand(message, error="unknown command")
        if payload is None:
            return ReceivedCommand(message, route)
        return ReceivedCommand(
            message, route, frame, payload if len(frame) <= KEPT_PARSED else None
        )

    def answer(
        self,
        received: ReceivedCommand,
        peer: Peer,
        request_scope: RequestScope,
        begun: Callable[[], None] | None = None,
    ) -> Coroutine[Any, Any, Outcome]:
        """Run a command and return the outcome. Every error is answered, and logged if need be.

        What a stream yields is sent meanwhile; ``begun`` is called right before its handler begins.
        Only what ends the task itself is raised: a cancellation, ``KeyboardInterrupt``.
        """
        if self._around is None:
            answering = self._run(received, peer, request_scope, begun)
        else:
            answering = self._around_it(self._around, received, peer, request_scope, begun)
        if access.isEnabledFor(logging.DEBUG):
            return _logged(answering, received, peer)
        return answering

    async def _around_it(
        self,
        around: Around,
        received: ReceivedCommand,
        peer: Peer,
        request_scope: RequestScope,
        begun: Callable[[], None] | None,
    ) -> Outcome:
        self._begin(received, request_scope)
        attempt = _Attempt(self, received, peer, request_scope, begun)
        try:
            return await around(attempt)
        finally:
            attempt.is_over = True
            request_scope.rest()

    def _begin(self, received: ReceivedCommand, request_scope: RequestScope) -> None:
        request_scope.doing = received.message.event
        request_scope.limit(self._timeout if received.route is None else received.route.timeout)
        if received.route is not None:
            request_scope.ends_on_disconnect = received.route.command.cancel_on_disconnect

    async def _run(
        self,
        received: ReceivedCommand,
        peer: Peer,
        request_scope: RequestScope,
        begun: Callable[[], None] | None,
    ) -> Outcome:
        route, message, transport = received.route, received.message, peer.transport
        if route is None:
            assert received.error is not None
            return failed(received.error, received.details, message.id)
        command = route.command
        if command.cancel_on_disconnect and transport.socket.close_code is not None:
            return Outcome(None, "connection closed")
        request_scope.doing = message.event
        request_scope.limit(route.timeout)
        request_scope.ends_on_disconnect = command.cancel_on_disconnect
        use: Callable[[tuple[Any, ...]], Awaitable[str | None]]
        try:
            if not (route.needs_scope or route.is_stream):
                result = await command.call_handler(
                    transport.socket, received.frame, received.payload, ()
                )
                return Outcome(_reply(message, command, result))
            if route.is_stream:
                assert begun is not None
                stream = _Stream(received, command, transport, request_scope, route.timeout, begun)
                use = stream.send_items
            else:
                use = partial(_run, received, command, transport.socket)
            if not route.needs_scope:
                return Outcome(await use(()))
            reply, failure, incident = await request_scope.in_scope(
                peer.scope, {Message: message}, route.key, use, message.event
            )
            if failure is None:
                return Outcome(reply)
        except BaseException as error:
            if request_scope.ends_with(error):
                raise
            failure, incident = request_scope.meaning_of(error), None
        finally:
            request_scope.rest()
        return _explain(failure, message, transport, incident)


@dataclass(slots=True)
class _Attempt:
    """A message on its way through the middleware."""

    dispatcher: Dispatcher
    received: ReceivedCommand
    peer: Peer
    request_scope: RequestScope
    begun: Callable[[], None] | None
    is_over: bool = False
    """True once the outermost middleware has ended."""

    @property
    def socket(self) -> Socket:
        return self.peer.transport.socket

    @property
    def message(self) -> Message:
        return self.received.message

    async def answer(self) -> Outcome:
        """Answer in a separate request scope, so that middleware cannot cancel the finalisers.

        Raises `RuntimeError` when the middleware has ended, because nothing waits for the command
        any more: the connection could end, and be finalised, while the command runs.
        """
        if self.is_over:
            raise RuntimeError(
                f"call_next() for {self.message.event!r:.80} came when its middleware had ended: a "
                "task that a middleware starts has to end before the middleware returns"
            )
        self.request_scope.due, self.request_scope.doing = math.inf, None
        outcome: Outcome | None = None
        with anyio.CancelScope() as life, self.request_scope.within(life) as request_scope:
            outcome = await self.dispatcher._run(
                self.received, self.peer, request_scope, self.begun
            )
        if not self.is_over:
            self.dispatcher._begin(
                self.received, self.request_scope
            )  # the middleware gets the whole timeout again
        return outcome or self.explain(CommandTimeout())

    def outcome_of(self, result: Any) -> Outcome:
        message = self.message
        if result is None and message.id is None:
            return Outcome(None)
        return Outcome(encode_result(message.event, result, message.id))

    def explain(self, error: BaseException) -> Outcome:
        if self.request_scope.ends_with(error):
            raise error
        return _explain(self.request_scope.meaning_of(error), self.message, self.peer.transport)


async def _logged(answering: Awaitable[Outcome], received: ReceivedCommand, peer: Peer) -> Outcome:
    """Await the outcome, and write a line to the access log."""
    started = perf_counter()
    came_of_it = "cancelled"
    try:
        outcome = await answering
        came_of_it = repr(outcome.error or "ok")[1:-1]  # the program's own text, in one line
        return outcome
    finally:
        milliseconds = (perf_counter() - started) * 1000
        event, connection = received.message.event, peer.transport.socket.id
        access.debug("%.80r %.80s %.1f ms %s", event, came_of_it, milliseconds, connection)


def failed(
    error: str, details: Any, id: str | int | None, exception: BaseException | None = None
) -> Outcome:
    """Return the outcome of a message that is answered with an error."""
    return Outcome(encode_error(error, details, id), error, exception)


async def _run(
    received: ReceivedCommand, command: Command, socket: Socket, dependencies: tuple[Any, ...]
) -> str | None:
    """Validate the payload, call the handler, encode what it returns."""
    if command.injection.guards:  # the user may have changed while dependencies were built
        check_still_authorised(socket)
    result = await command.call_handler(socket, received.frame, received.payload, dependencies)
    return _reply(received.message, command, result)


def _reply(message: Message, command: Command, result: Any) -> str | None:
    """Encode what a handler returned for this message."""
    try:
        return command.encode.reply(result, message.id)
    except Exception as error:
        error.add_note(f"while encoding what {command.plan.where} returned")
        raise


@dataclass(slots=True)
class _Stream:
    """A running command whose handler yields."""

    received: ReceivedCommand
    command: Command
    transport: TransportConnection
    request_scope: RequestScope
    timeout: Timeout
    begun: Callable[[], None]

    async def send_items(self, dependencies: tuple[Any, ...]) -> str | None:
        """Validate the payload, call the handler, send each item that it yields."""
        message = self.received.message
        if self.command.injection.guards:
            check_still_authorised(self.transport.socket)
        received = self.received
        items = self.command.call_handler(
            self.transport.socket, received.frame, received.payload, dependencies
        )
        self.begun()
        try:
            async for item in items:
                self.request_scope.due = math.inf
                await self._send(item)
                self.request_scope.limit(self.timeout)
        except BaseException:
            await _close(items)
            raise
        return None if message.id is None else encode_event(message.event, None, message.id)

    async def _send(self, item: Any) -> None:
        try:
            frame = self.command.encode.item(item, self.received.message.id)
        except Exception as error:
            error.add_note(f"while encoding what {self.command.plan.where} yielded")
            raise
        # A frame is sent whole or not at all; and a timeout that the handler holds around its
        # `yield` must not cancel the sending: such a timeout takes effect inside of the handler.
        with anyio.CancelScope(shield=True):
            await self.transport.reply(frame)
            # Let other tasks run, even if neither the handler nor the connection ever waits.
            await anyio.lowlevel.checkpoint()
        if self.request_scope.is_cancelled:
            await anyio.lowlevel.checkpoint()


async def _close(items: AsyncGenerator[Any, None]) -> None:
    """Close the generator of a stream where it stands; raise what its clean-up raises."""
    try:
        await items.aclose()
    except BaseExceptionGroup as group:
        failures = group.split(GeneratorExit)[1]  # a task group puts a `GeneratorExit` into a group
        if failures is not None:
            raise failures from None


def _explain(
    error: BaseException,
    message: Message,
    transport: TransportConnection,
    incident: str | None = None,
) -> Outcome:
    """Return the outcome of an error for the client, and log the error if need be."""
    cause = alone(error)
    if isinstance(cause, transport.closed_errors) and transport.socket.close_code is not None:
        logger.debug("%s left while %.80r ran", transport.socket.id, message.event)
        return Outcome(None, "connection closed", cause)
    if isinstance(cause, ClientError):
        if isinstance(cause, NotAuthorized):
            logger.info("not authorized: %.80r from %s", message.event, transport.socket.id)
        elif isinstance(cause, CommandTimeout):
            logger.warning("%.80r from %s took too long", message.event, transport.socket.id)
        try:
            return failed(cause.error, cause.details, message.id, cause)
        except Exception as encoding_error:  # raised while encoding the details
            error = encoding_error
    incident = log_incident(f"{message.event!r:.80}", error, incident)
    return failed("internal error", {"incident": incident}, message.id, error)
