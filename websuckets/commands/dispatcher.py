"""Dispatcher of commands: from a received frame to the reply.

One coroutine answers a command, `Dispatcher._run`: read it from top to bottom. Around it may be
middleware, and a line in the access log. Before it, `Dispatcher.read` finds the command.
"""

import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from types import FrameType
from typing import Any, Final, TypeAlias

import anyio

from websuckets.commands.error_functions import ErrorFunctions
from websuckets.commands.groups import UNSET, Command
from websuckets.commands.once import OnceCommands
from websuckets.commands.outcomes import explained, refused
from websuckets.commands.peer import Peer
from websuckets.commands.results import note_for_result
from websuckets.commands.stream_items import Stream
from websuckets.commands.unknown import UnknownCommands
from websuckets.delivery.subscribing import Subscribing, begin_subscribing
from websuckets.di.resolver import Resolver
from websuckets.exc import ClientError, CommandTimeout, InvalidMessage
from websuckets.limits import limit_text
from websuckets.middleware import AfterReply, Around, Middleware, Outcome, composed
from websuckets.protocol.events import client_event
from websuckets.protocol.messages import Control, Message, SentEvent, decode, encode_result
from websuckets.runtime.clock import Clock, Timeout
from websuckets.runtime.effects import Effects
from websuckets.runtime.finalisers import Exit
from websuckets.runtime.request_scope import RequestScope
from websuckets.security import check_still_authorised
from websuckets.socket import Socket

__all__ = ["Answer", "Dispatcher", "NotACommand", "ReceivedCommand", "Route"]

access: logging.Logger = logging.getLogger("websuckets.access")


KEPT_PARSED: Final = 4096
"""Length of a frame up to which its parsed payload is kept until the message is answered.

Parsed JSON may take twenty times the memory of its text: of a larger frame, only the text is kept.
"""

Answer: TypeAlias = Outcome | str | None
"""Answer to a command: the reply, or ``None`` if it needs none; an `Outcome` where the command has
failed, or where middleware looks at it."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A command, and the facts about it that each message needs."""

    command: Command
    timeout: Timeout
    resolver: Resolver
    needs_scope: bool
    is_protected: bool
    is_stream: bool
    ends_on_disconnect: bool
    takes_effect_once: bool
    takes_log: bool
    """True if the last dependency is a `MessageLog`, for the subscriptions of the command."""
    around: Around | None
    """Middleware of the app and of the command's group; ``None`` if there is none."""

    @classmethod
    def to(cls, command: Command, timeout: Timeout, around: Around | None) -> "Route":
        """Return the route to a command of a running app."""
        injection = command.injection
        return cls(
            command,
            timeout,
            Resolver(injection.key, injection.places, is_protected=bool(injection.guards)),
            needs_scope=injection.needs_scope,
            is_protected=bool(injection.guards),
            is_stream=command.is_stream,
            ends_on_disconnect=command.cancel_on_disconnect,
            takes_effect_once=command.once is not None,
            takes_log=command.takes_log,
            around=around,
        )


ReceivedCommand: TypeAlias = tuple[Message, Route, str | bytes | None, Any]
"""A command and its route; the frame that carries its payload, if it has one; and the payload as
parsed JSON, if it was kept (see `KEPT_PARSED`). One is made for each message: so it is a tuple."""

NotACommand: TypeAlias = Message | Control | InvalidMessage
"""A message with an unknown command, a control message, or the error of an invalid frame."""


class Dispatcher:
    """Dispatcher of the commands of one running app."""

    def __init__(
        self,
        commands: Mapping[str, Command],
        clock: Clock,
        handler_timeout: float | None,
        middleware: Iterable[Middleware] = (),
        errors: ErrorFunctions | None = None,
        *,
        has_history: bool = False,
    ) -> None:
        self._has_history = has_history  # of any channel
        self._timeout = clock.timeout(handler_timeout)
        outer = tuple(middleware)
        self._around = composed(outer)
        by_group = {id(command.middleware): command.middleware for command in commands.values()}
        arounds = {
            group: composed((*outer, *inner)) if inner else self._around
            for group, inner in by_group.items()
        }
        self._routes = {
            name: Route.to(
                command,
                self._timeout if command.timeout is UNSET else clock.timeout(command.timeout),
                arounds[id(command.middleware)],
            )
            for name, command in commands.items()
        }
        self._once = OnceCommands()
        self._unknown = UnknownCommands(commands)
        self._errors = errors or ErrorFunctions()

    def read(self, frame: str | bytes) -> ReceivedCommand | NotACommand:
        """Return the message in a frame."""
        try:
            message, payload = decode(frame)
        except InvalidMessage as error:
            return error
        if isinstance(message, Control):
            return message
        route = self._routes.get(message.event)
        if route is None:
            self._unknown.note(message.event)
            return message
        if payload is None:
            return message, route, None, None
        return message, route, frame, payload if len(frame) <= KEPT_PARSED else None

    def answer(
        self,
        received: ReceivedCommand,
        peer: Peer,
        request_scope: RequestScope,
        begun: Callable[[], None] | None = None,
    ) -> Coroutine[Any, Any, Answer]:
        """Run a command and return its answer. Every error is answered, and logged if need be.

        Items of a stream are sent meanwhile; ``begun`` is called right before its handler begins.
        Only errors that have to propagate are raised: a cancellation, ``KeyboardInterrupt``.
        """
        route = received[1]
        if route.around is None and not access.isEnabledFor(logging.DEBUG):
            return self._run(received, peer, request_scope, begun)
        message = received[0]

        def run(request_scope: RequestScope) -> Coroutine[Any, Any, Answer]:
            return self._run(received, peer, request_scope, begun)

        attempt = _Attempt(
            *(message, peer, request_scope, run, self._errors, route.timeout, self._timeout),
            route.ends_on_disconnect,
        )
        return self._answer_around(attempt, route.around)

    def refuse(
        self, message: Message, error: ClientError, peer: Peer, request_scope: RequestScope
    ) -> Coroutine[Any, Any, Answer]:
        """Answer a message with an error, without running a command; middleware sees it."""

        async def run(request_scope: RequestScope) -> Answer:
            return refused(message, error)

        attempt = _Attempt(
            *(message, peer, request_scope, run, self._errors, self._timeout, self._timeout)
        )
        return self._answer_around(attempt, self._around)

    @classmethod
    def command_of(cls, frame: FrameType) -> str | None:
        """Return the name of the command that a frame on a stack runs; ``None`` for others."""
        if frame.f_code is cls._run.__code__:
            return str(frame.f_locals["received"][0].event)
        if frame.f_code is cls._answer_around.__code__:
            return str(frame.f_locals["attempt"].message.event)
        return None

    async def _run(
        self,
        received: ReceivedCommand,
        peer: Peer,
        request_scope: RequestScope,
        begun: Callable[[], None] | None,
    ) -> Answer:
        message, route, frame, payload = received
        command, socket = route.command, peer.socket
        if route.ends_on_disconnect:
            if peer.is_closed:
                return Outcome(None, "connection closed")
            request_scope.ends_on_disconnect = True
        request_scope.doing = message.event
        request_scope.limit(route.timeout)
        if route.takes_effect_once:
            return await self._run_once(received, peer, request_scope)

        reply: str | None = None
        failure: BaseException | None = None
        exits: list[Exit] = []  # of the objects that the command depends on
        effects: Effects | None = None
        subscribing: Subscribing | None = None
        if self._has_history:
            subscribing = begin_subscribing(
                socket, message, command.subscribes, holds=not route.is_stream
            )
        try:
            dependencies: tuple[Any, ...] = ()
            if route.needs_scope:
                resolver = route.resolver
                effects = Effects() if resolver.takes_effects else None
                dependencies = await resolver.resolve(peer.scope, message, exits, effects)
                if route.is_protected:  # the user may have changed while they were built
                    check_still_authorised(socket)
                if route.takes_log:
                    assert subscribing is not None  # see `check_subscribes`
                    dependencies, subscribing.log = dependencies[:-1], dependencies[-1]
            result = command.call_handler(socket, frame, payload, dependencies)
            if route.is_stream:
                assert begun is not None
                begun()
                stream = Stream(command, message, peer, request_scope, route.timeout)
                reply = await stream.send(result)
            else:
                returned = await result
                try:
                    reply = command.encode.reply(returned, message.id)
                except Exception as error:
                    error.add_note(note_for_result(command.plan.where, "returned", returned))
                    raise
            if effects is not None and effects.last_step is not None:
                await effects.last_step()
        except BaseException as error:
            failure = error

        request_scope.due = math.inf
        try:
            unfinished: BaseException | None = None
            if exits:
                waits = route.resolver.finalisers_wait
                unfinished = await request_scope.finalise(exits, failure, waits=waits)
            if failure is None and unfinished is None:
                if effects is not None:
                    await effects.run(f"{message.event!r:.80}", request_scope.finalize_timeout)
                if subscribing is not None and subscribing.made and subscribing.has_lasting():
                    return Outcome(subscribing.in_reply(reply), after=subscribing.answered())
                return reply
            if effects is not None:
                effects.discard()
            return await self._failed(failure, unfinished, message, peer, request_scope, route)
        finally:
            if effects is not None:  # the finalisers may have been interrupted
                effects.discard()
            if subscribing is not None:
                subscribing.end()
            request_scope.doing = None
            request_scope.ends_on_disconnect = False
            failure = None  # its traceback holds this frame

    async def _run_once(
        self, received: ReceivedCommand, peer: Peer, request_scope: RequestScope
    ) -> Answer:
        """Answer a command that takes effect once; its time has begun."""
        message, route, frame, payload = received
        try:
            ended = await self._once.run(
                route.command, route.timeout, message, frame, payload, peer, request_scope
            )
            request_scope.due = math.inf
            if ended.failure is None and ended.unfinished is None:
                return ended.reply
            return await self._failed(
                *(ended.failure, ended.unfinished, message, peer, request_scope, route)
            )
        finally:
            request_scope.doing = None
            request_scope.ends_on_disconnect = False

    async def _failed(
        self,
        failure: BaseException | None,
        unfinished: BaseException | None,
        message: Message,
        peer: Peer,
        request_scope: RequestScope,
        route: Route,
    ) -> Outcome:
        """Return the outcome of a failure of the command, or of its finalisers, or of both."""
        if failure is None:
            assert unfinished is not None
            return await explained(unfinished, message, peer, request_scope, self._errors)
        limit = _limit_of(route.timeout, self._timeout, is_stream=route.is_stream)
        return await explained(
            failure, message, peer, request_scope, self._errors, unfinished, limit
        )

    async def _answer_around(self, attempt: "_Attempt", around: Around | None) -> Answer:
        """Answer with the middleware around, and write a line to the access log if it is on."""
        started = perf_counter()
        result = "cancelled"
        try:
            answer: Answer
            if around is None:
                answer = await attempt.run(attempt.request_scope)
            else:
                answer = _with_the_subscriptions_of(attempt, await attempt.answer_around(around))
            error = answer.error if isinstance(answer, Outcome) else None
            result = repr(error or "ok")[1:-1]  # the program's own text, in one line
            return answer
        finally:
            milliseconds = (perf_counter() - started) * 1000
            event, connection = attempt.message.event, attempt.socket.id
            access.debug("%.80r %.80s %.1f ms %s", event, result, milliseconds, connection)


def _with_the_subscriptions_of(attempt: "_Attempt", outcome: Outcome) -> Outcome:
    """Return the outcome of the middleware, with the subscriptions of the command inside.

    A middleware that answers by an error tells the client that the command has failed.
    """
    last = None if attempt.inner is None else attempt.inner.after
    if outcome.error is None and outcome.after is None and last is not None:
        outcome.frame, outcome.after = last.in_reply(outcome.frame), last
    for after in attempt.afters:
        if outcome.error is not None or after is not outcome.after:
            after.take_back()
    return outcome


def _limit_of(timeout: Timeout, default: Timeout, *, is_stream: bool) -> str:
    """Return the time that a command may take, and whose limit that is, for the log."""
    limit = (
        f"{limit_text('handler_timeout', timeout.seconds)}; a command may have its own, by timeout="
        if timeout is default
        else f"the timeout= of its command or group is {timeout.seconds}"
    )
    item = " for its next item" if is_stream else ""
    return f"{timeout.seconds:g} seconds{item} and was cancelled ({limit})"


@dataclass(slots=True)
class _Attempt:
    """A message on its way through the middleware."""

    message: Message
    peer: Peer
    request_scope: RequestScope
    run: Callable[[RequestScope], Coroutine[Any, Any, Answer]]
    errors: ErrorFunctions
    timeout: Timeout
    default: Timeout
    """Timeout of commands without one of their own."""
    ends_on_disconnect: bool = False
    is_over: bool = False
    """True once the outermost middleware has ended."""
    inner: Outcome | None = None
    """Outcome of the command itself, the last one if the middleware ran it several times."""
    afters: list[AfterReply] = field(default_factory=list)
    """Subscriptions of all runs of the command that have succeeded."""

    @property
    def socket(self) -> Socket:
        return self.peer.socket

    async def answer_around(self, around: Around) -> Outcome:
        """Let the middleware answer, each time that it runs for the whole timeout."""
        self._begin()
        try:
            return await around(self)
        finally:
            self.is_over = True
            self.request_scope.rest()

    def _begin(self) -> None:
        self.request_scope.doing = self.message.event
        self.request_scope.ends_on_disconnect = self.ends_on_disconnect
        self.request_scope.limit(self.timeout)

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
            answer = await self.run(request_scope)
            outcome = answer if isinstance(answer, Outcome) else Outcome(answer)
            self.inner = outcome
            if outcome.after is not None:
                self.afters.append(outcome.after)
        if not self.is_over:
            self._begin()
        return outcome or await self.explain(CommandTimeout())

    def outcome_of(self, result: Any) -> Outcome:
        message = self.message
        if result is None and message.id is None:
            return Outcome(None)
        if isinstance(result, SentEvent):
            result = client_event(result)
        return Outcome(encode_result(message.event, result, message.id))

    async def explain(self, error: BaseException) -> Outcome:
        limit = _limit_of(self.timeout, self.default, is_stream=False)
        return await explained(
            error, self.message, self.peer, self.request_scope, self.errors, limit=limit
        )
