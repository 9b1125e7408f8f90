"""Commands that run in tasks of their own, and their cancellation: streams, and concurrent ones."""

import logging
from collections.abc import Awaitable, Callable

import anyio
from websockets import CloseCode

from websuckets.commands.dispatcher import Answer, Dispatcher, ReceivedCommand, Route
from websuckets.commands.outcomes import refused
from websuckets.commands.peer import Peer
from websuckets.exc import ClientError, NotAuthorized
from websuckets.limits import Limits, limit_text
from websuckets.protocol.messages import Message, encode_event
from websuckets.runtime.failures import Cancelled, Meaning, judge_end
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope, RequestScopes
from websuckets.runtime.revocations import Revocations
from websuckets.runtime.tasks import Background, wait_through

__all__ = ["ConcurrentCommands"]

logger: logging.Logger = logging.getLogger("websuckets")


class ConcurrentCommands:
    """Commands that one connection has running, each in a task and a scope of its own.

    An instance lives as long as the connection. ``answered`` is called with the outcome of each
    command, and sends it.
    """

    __slots__ = (
        "_all_gone",
        "_answered",
        "_background",
        "_dispatcher",
        "_has_told",
        "_limits",
        "_one_gone",
        "_peer",
        "_request_scopes",
        "_revocations",
        "_running",
    )

    def __init__(
        self,
        peer: Peer,
        dispatcher: Dispatcher,
        background: Background,
        request_scopes: RequestScopes,
        limits: Limits,
        revocations: Revocations,
        answered: Callable[[Route, Answer], Awaitable[None]],
    ) -> None:
        self._peer = peer
        self._dispatcher = dispatcher
        self._background = background
        self._request_scopes = request_scopes
        self._limits = limits
        self._has_told = False  # the log, that the client wants too many streams
        self._revocations = revocations
        self._answered = answered
        self._running: set[_RunningCommand] = set()
        self._one_gone: anyio.Event | None = None  # set while a command waits for room
        self._all_gone: anyio.Event | None = None

    async def start(self, received: ReceivedCommand) -> ClientError | None:
        """Start a command beside the messages that follow; return the error if that is refused.

        For a stream, this returns when the handler has begun, so that what the handler does first
        comes before those messages; for any other command, as soon as not too many run. A command
        that waited for its turn while the connection was closed is not run.
        """
        running = _RunningCommand(received)
        if running.route.is_stream:
            if (error := self._why_not(running.message)) is not None:
                return ClientError(error)
        else:
            await self._wait_for_room()
        # The task gets a copy of the context in which the task is started.
        self._peer.scope.context.run(self._background.start_soon, self._run, running)
        self._running.add(running)
        if running.route.is_stream:
            await running.begun.wait()
        return None

    def cancel(self, id: str | int) -> None:
        """End the stream that answers the command ``id``, if one runs, with its last reply."""
        for running in self._streams:
            if running.answers(id):
                running.life.cancel()

    def disconnected(self) -> None:
        """Cancel commands that run for the client alone, because the client is gone."""
        self._cancel_streams()
        for running in self._running:
            if running.request_scope is not None and running.request_scope.ends_on_disconnect:
                running.life.cancel()

    def verification_ended(self) -> None:
        """End the streams of protected commands, with an error as their last reply."""
        for running in self._streams:
            if running.route.is_protected:
                running.error = NotAuthorized()
                running.life.cancel()

    def cancel_all(self) -> None:
        """Cancel all commands, without a last reply of streams."""
        self._cancel_streams()
        for running in self._running:
            running.life.cancel()

    async def drain(self) -> None:
        """End streams, without a last reply, and wait until all commands have ended."""
        self._cancel_streams()
        if self._running:
            await self._next_all_gone().wait()

    async def stop(self, *, at_once: bool) -> None:
        """Drain as `drain` does, also when this is cancelled; ``at_once`` cancels commands, too."""
        if at_once:
            self.cancel_all()
        else:
            self._cancel_streams()
        if self._running:
            await wait_through(self._next_all_gone())

    def _why_not(self, message: Message) -> str | None:
        """Return the error if another stream cannot be started."""
        most = self._limits.streams
        # Streams that are over count: their last replies may wait for a client that does not read.
        if most is not None and len(self._streams) >= most:
            if not self._has_told:
                self._has_told = True
                logger.info(
                    "%s wants too many streams (%s)",
                    *(self._peer.socket.id, limit_text("streams", most)),
                )
            return "too many streams"
        id = message.id
        if id is not None and any(running.answers(id) for running in self._streams):
            return "id in use"
        return None

    async def _wait_for_room(self) -> None:
        most = self._limits.concurrency
        while most is not None and len(self._running) - len(self._streams) >= most:
            self._one_gone = self._one_gone or anyio.Event()
            await self._one_gone.wait()

    @property
    def _streams(self) -> list["_RunningCommand"]:
        return [running for running in self._running if running.route.is_stream]

    def _cancel_streams(self) -> None:
        for running in self._streams:
            running.is_over = True
            running.life.cancel()

    def _next_all_gone(self) -> anyio.Event:
        self._all_gone = self._all_gone or anyio.Event()
        return self._all_gone

    def _gone(self, running: "_RunningCommand") -> None:
        self._running.discard(running)
        if self._one_gone is not None:
            self._one_gone.set()
            self._one_gone = None
        if self._all_gone is not None and not self._running:
            self._all_gone.set()
            self._all_gone = None

    async def _run(self, running: "_RunningCommand") -> None:
        try:
            with self._revocations.handling():
                await self._answer(running)
        except BaseException as error:  # an error that the dispatcher could not answer
            ended = Cancelled.ENDED if running.is_over else Cancelled.NOTHING
            failure = judge_end(error, lambda: ended, self._peer.is_of_its_end)
            match failure.meaning:
                case Meaning.PROPAGATE:
                    raise
                case Meaning.IGNORE:
                    logger.debug("%s is gone", self._peer.socket.id)
                case _:
                    log_incident(f"{running.message.event!r}", error)
                    await self._peer.socket.close(CloseCode.INTERNAL_ERROR)
        finally:
            running.begun.set()
            self._gone(running)

    async def _answer(self, running: "_RunningCommand") -> None:
        answer: Answer = None
        has_answered = False
        if self._peer.transport.has_stopped_receiving:  # while the command waited for its turn
            return
        with running.life, self._request_scopes.begin(running.life) as running.request_scope:
            answer = await self._dispatcher.answer(
                running.received, self._peer, running.request_scope, running.begun.set
            )
            has_answered = True
        if running.life.cancelled_caught and running.route.is_stream:
            answer, has_answered = running.last_answer(), True
        if has_answered and not running.is_over:
            running.is_over = True  # the id is free before the client has the reply
            await self._answered(running.route, answer)


class _RunningCommand:
    """A command that runs; when the command is over, its scope may still be finalised."""

    def __init__(self, received: ReceivedCommand) -> None:
        self.received = received
        self.message, self.route, *_ = received
        self.life = anyio.CancelScope()
        self.request_scope: RequestScope | None = None
        self.begun = anyio.Event()
        self.error: ClientError | None = None
        """Error in the last reply of a cancelled stream; ``None`` if its client cancelled it."""
        self.is_over = False

    def last_answer(self) -> Answer:
        """Return the answer to a stream that was cancelled."""
        message = self.message
        if self.error is not None:
            return refused(message, self.error)
        return None if message.id is None else encode_event(message.event, None, message.id)

    def answers(self, id: str | int) -> bool:
        """Tell whether this command has the ``id`` and is still to be answered."""
        return self.message.id == id and not self.is_over
