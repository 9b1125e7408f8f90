"""The loop that answers the messages of one client."""

import logging
import math
from typing import TypeAlias

from websuckets.commands.dispatcher import Answer, NotACommand, ReceivedCommand, Route
from websuckets.commands.peer import Peer
from websuckets.commands.streams_and_concurrency import ConcurrentCommands
from websuckets.connections.abuse import AbuseCounters
from websuckets.connections.setup import Setup
from websuckets.connections.state import ConnectionState
from websuckets.connections.verification_deadlines import Owner, VerificationDeadlines
from websuckets.exc import ClientError, Expired, InvalidMessage, NotAuthorized
from websuckets.limits import limit_text
from websuckets.middleware import AfterReply, Outcome
from websuckets.protocol.close_codes import NOT_VERIFIED, CloseReason
from websuckets.protocol.messages import Cancel, Control, Message, Ping, encode_pong
from websuckets.runtime.contexts import in_context

__all__ = ["MessageLoop"]

logger: logging.Logger = logging.getLogger("websuckets")

_Unsent: TypeAlias = tuple[str | None, AfterReply | None]
"""A reply that is not sent yet, and what begins when it has been sent."""


class MessageLoop:
    """Loop that receives messages and sends replies, one after the other.

    Streams, and all commands if `Limits.concurrency` is not 1, run in tasks of `concurrent`, and
    `send_answer` sends their answers. Once there is a reason to close the connection, the loop
    ends, and then ``owner`` closes it.
    """

    __slots__ = (
        "_abuse",
        "_deadlines",
        "_owner",
        "_peer",
        "_revocations",
        "_setup",
        "_state",
        "_unsent",
        "concurrent",
        "handling_since",
    )

    def __init__(
        self,
        peer: Peer,
        setup: Setup,
        state: ConnectionState,
        deadlines: VerificationDeadlines,
        owner: Owner,
    ) -> None:
        self._peer = peer
        self._setup = setup
        self._state = state
        self._deadlines = deadlines
        self._owner = owner
        self._abuse = AbuseCounters(setup.limits)
        self._revocations = setup.session._revocations
        self._unsent: _Unsent = None, None  # of a request scope that is spent
        self.concurrent: ConcurrentCommands | None = None
        """Commands that run in tasks of their own; ``None`` in an app that has none."""
        if setup.some_run_beside:
            self.concurrent = ConcurrentCommands(
                *(peer, setup.dispatcher, setup.background, setup.request_scopes, setup.limits),
                *(self._revocations, self.send_answer),
            )
        self.handling_since: int | None = self._revocations.count
        """Number of the last revocation from before the connection began what it handles now;
        ``None`` while it waits for a message."""

    async def run(self) -> None:
        """Answer messages until the connection is to be closed, or the request scope is spent.

        Raises the transport's errors once the connection is closed, and errors to be propagated.
        """
        peer, request_scope, state = self._peer, self._peer.request_scope, self._state
        transport = peer.transport
        dispatcher, is_concurrent = self._setup.dispatcher, self._setup.limits.concurrency != 1
        (reply, after), self._unsent = self._unsent, (None, None)
        try:
            while True:
                if after is not None:
                    await self._send_and_begin(reply, after)
                    after = None
                elif reply is not None:
                    await transport.reply(reply)
                reply = None
                if not state.is_open:
                    return
                self.handling_since = None
                frame = await transport.receive()
                self.handling_since = self._revocations.count
                if not state.is_open:
                    return  # type: ignore[unreachable]  # no: another task may have changed it

                received = dispatcher.read(frame)
                retry_after = self._abuse.retry_after()
                answer: Answer
                if retry_after > 0:
                    answer = await self._refuse_for_now(received, retry_after)
                elif not isinstance(received, tuple):
                    answer = await self._answer_other(received)
                elif is_concurrent or received[1].is_stream:
                    answer = await self._start(received)
                else:
                    answer = await in_context(  # as `OpenScope.run_apart` does
                        peer.scope.context.copy().run,
                        dispatcher.answer(received, peer, request_scope),
                    )
                    if type(answer) is Outcome or not self._abuse.has_no_streak:
                        self._close_if(self._count(received[1], answer))
                if isinstance(answer, Outcome):
                    reply, after = answer.frame, answer.after
                else:
                    reply = answer
                if self._deadlines.may_be_over and self._deadlines.is_over:
                    self._owner.close(NOT_VERIFIED)  # the command might have verified the client
                # A connection that waits keeps nothing of the last message, such as its token.
                del frame, received, answer
                if request_scope.is_spent:
                    self._unsent = reply, after
                    return
        finally:
            self.handling_since = self._revocations.count

    def verification_ended(self) -> None:
        """End the protected streams of a user as whom the client is not verified any longer."""
        if self.concurrent is not None:
            self.concurrent.verification_ended()

    def expiry_was_set(self) -> None:
        """Take note of the time until which the user is verified."""
        self._deadlines.expiry_was_set()

    async def send_answer(self, route: Route, answer: Answer) -> None:
        """Send the answer to a command that ran in a task of its own."""
        close_reason = self._count(route, answer)
        reply = answer.frame if isinstance(answer, Outcome) else answer
        after = answer.after if isinstance(answer, Outcome) else None
        if after is not None:
            await self._send_and_begin(reply, after)
        elif reply is not None:
            await self._peer.transport.reply(reply)
        self._close_if(close_reason)

    async def _send_and_begin(self, reply: str | None, after: AfterReply) -> None:
        """Send a reply, if there is one, and begin what waits for that."""
        await after.hold()
        if reply is not None:
            await self._peer.transport.reply(reply)
        after.begin()

    async def _answer_other(self, received: NotACommand) -> Answer:
        """Answer a message that is not a command of the app."""
        match received:
            case Ping():
                return encode_pong(received)
            case Cancel():
                if self.concurrent is not None:
                    self.concurrent.cancel(received.id)
                return None
            case InvalidMessage():
                error = ClientError("invalid message", received.problems)
            case _:
                error = ClientError("unknown command")
        answer = await self._refuse(_message_of(received), error)
        self._close_if(self._abuse.unknown())
        return answer

    async def _start(self, received: ReceivedCommand) -> Answer:
        """Start a command beside this loop; return an error if that is refused."""
        assert self.concurrent is not None
        error = await self.concurrent.start(received)
        return None if error is None else await self._refuse(received[0], error)

    async def _refuse_for_now(
        self, received: ReceivedCommand | NotACommand, retry_after: float
    ) -> Answer:
        """Refuse a message that came too early by so many seconds."""
        if not self._abuse.was_over_rate:
            limits = self._setup.limits
            logger.warning(
                "%s sends too many messages (%s, %s)",
                self._peer.socket.id,
                limit_text("rate", limits.rate),
                limit_text("burst", limits.burst),
            )
        self._close_if(self._abuse.over_rate())
        details = {"retry_after": math.ceil(retry_after * 1000) / 1000}
        return await self._refuse(_message_of(received), ClientError("rate limited", details))

    async def _refuse(self, message: Message, error: ClientError) -> Answer:
        """Answer a message with an error, without running it."""
        peer = self._peer
        return await peer.scope.run_apart(
            self._setup.dispatcher.refuse(message, error, peer, peer.request_scope)
        )

    def _count(self, route: Route, answer: Answer) -> CloseReason | None:
        """Count a command in the abuse counters; return the reason to close, if any."""
        self._abuse.known()
        if route.is_protected:
            error = answer.exception if isinstance(answer, Outcome) else None
            if not isinstance(error, NotAuthorized):
                self._abuse.authorized()
            elif not isinstance(error, Expired):
                return self._abuse.refused()
        return None

    def _close_if(self, reason: CloseReason | None) -> None:
        if reason is not None:
            self._owner.close(reason)


def _message_of(received: ReceivedCommand | NotACommand) -> Message:
    """Return the message; an empty message for a frame that is not a command."""
    if isinstance(received, tuple):
        return received[0]
    if isinstance(received, InvalidMessage):
        return Message("", id=received.id)
    return Message("") if isinstance(received, Control) else received
