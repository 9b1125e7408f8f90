"""Subscriptions that one message makes to channels with a history, until its answer is sent.

The problem: a command subscribes to a channel and then reads the state that its client is to show.
Events of the channel that reached the client before its reply would meet a screen without a state;
and where the command fails, its client must not be subscribed.

The solution: a subscription of a command is held, and begins when the reply has been sent, at the
position that the reply names. Until then nothing is kept in memory for it: what was published
meanwhile is read from the log. A command that fails takes its new subscriptions back.

Outside of commands, in hooks, streams and tasks, nobody waits for a reply: a subscription
begins at once, and an event ``subscribed`` tells the client its position.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeAlias

from websuckets.delivery.declarations import Channel
from websuckets.history import MessageLog
from websuckets.protocol.messages import ClientEvent, Message, with_subscribed
from websuckets.socket import Socket

__all__ = ["Made", "Subscribing", "begin_subscribing", "subscriber_in_message", "subscribing_on"]

Seen: TypeAlias = Mapping[str, tuple[str, int]]
"""Epochs and offsets that a client has seen, by the names of their channels."""


@dataclass(frozen=True, slots=True)
class Made:
    """A subscription that a message has made, or an earlier one that it has set back."""

    answer: Mapping[str, Any]
    """Position for the client: ``epoch``, ``offset`` and, where the client asked, ``recovered``."""
    hold: Callable[[], None]
    """Function that keeps back all events until ``begin``, because the reply comes next."""
    earlier_sent: Callable[[], Awaitable[None]]
    """Function that waits until what waits for the connection has been sent."""
    tell: Callable[[bytes], None]
    """Function that sends a frame to the connection."""
    begin: Callable[[], None]
    """Function that begins the delivery."""
    take_back: Callable[[], None]
    """Function that undoes the subscription."""
    lasts: Callable[[], bool]
    """Function that returns false once the subscription has ended."""


@dataclass(slots=True)
class Subscribing:
    """Subscriptions that a message makes, from its beginning until its reply has been sent."""

    socket: Socket
    command: str = ""
    declared: tuple[Channel, ...] = ()
    """Channels that the command declares by ``subscribes=``."""
    since: Seen | None = None
    has_id: bool = False
    holds: bool = True
    """True in a command, whose subscriptions begin after its reply."""
    log: MessageLog | None = None
    """Log through the transaction of the handler; ``None`` where the message has none."""
    made: dict[str, Made] = field(default_factory=dict)
    is_over: bool = False
    """True once the message has been handled; tasks that it started may run on."""
    _is_answered: bool = False
    _is_told: bool = False
    _is_held: bool = False

    def check(self, channel: Channel) -> None:
        """Raise `RuntimeError` for a channel to which the command must not subscribe.

        The command declares its channels, so that the position is read in its transaction.
        """
        if channel not in self.declared:
            raise RuntimeError(
                f"command {self.command!r:.80} subscribes to {channel!r}, which has a history, and "
                "does not declare it; write @group.command(..., subscribes=[...]) with this channel"
            )

    def add(self, channel: str, made: Made) -> None:
        """Take note of a subscription; one to the same channel takes the place of the first."""
        earlier, self.made[channel] = self.made.get(channel), made
        if earlier is not None:
            earlier.take_back()

    def has_lasting(self) -> bool:
        """Forget the subscriptions that have ended meanwhile; return true if any is left."""
        self.made = {channel: made for channel, made in self.made.items() if made.lasts()}
        return bool(self.made)

    def in_reply(self, reply: str | None) -> str | None:
        """Return the reply of the message together with the positions.

        Without an id no client could tell the reply from events: the positions are then an event of
        their own, which `begin` sends.
        """
        self._is_told = bool(reply) and self.has_id
        return with_subscribed(reply, self._answers()) if reply and self._is_told else reply

    def answered(self) -> Self:
        """Leave the subscriptions to the sender of the reply, because the message succeeded."""
        self._is_answered = True
        return self

    def end(self) -> None:
        """Make no more subscriptions; undo them unless the message succeeded."""
        self.is_over = True
        if not self._is_answered:
            self.take_back()

    async def hold(self) -> None:
        """Wait until earlier events of all channels are sent, because the reply comes next.

        The sender of the reply, if it was interrupted, calls this again.
        """
        if not self._is_held:
            self._is_held = True
            for subscription in self.made.values():
                subscription.hold()
        for subscription in self.made.values():
            await subscription.earlier_sent()
            break

    def begin(self) -> None:
        """Begin the delivery of all subscriptions, because the reply has been sent."""
        if not self._is_told:
            event = ClientEvent("subscribed", self._answers()).encode()
            for subscription in self.made.values():
                subscription.tell(event)
                break
        made, self.made = self.made, {}
        for subscription in made.values():
            subscription.begin()

    def take_back(self) -> None:
        """Undo all subscriptions, because the message has failed."""
        made, self.made = self.made, {}
        for subscription in made.values():
            subscription.take_back()

    def _answers(self) -> dict[str, Mapping[str, Any]]:
        return {channel: made.answer for channel, made in self.made.items()}


_current: Final[ContextVar[Subscribing | None]] = ContextVar("websuckets.subscribing", default=None)


def begin_subscribing(
    socket: Socket, message: Message, declared: tuple[Channel, ...], *, holds: bool
) -> Subscribing:
    """Return where a message makes its subscriptions, whose context is the current one."""
    has_id = message.id is not None
    subscribing = Subscribing(socket, message.event, declared, message.since, has_id, holds)
    _current.set(subscribing)
    return subscribing


def subscribing_on(socket: Socket) -> Subscribing | None:
    """Return where the current message makes subscriptions of this connection, if it does.

    Returns ``None`` for other connections than that of the message, outside of messages, and in
    tasks that a message has started, once the message has ended.
    """
    current = _current.get()
    if current is None or current.is_over or current.socket is not socket:
        return None
    return current


def subscriber_in_message(channel: str) -> Socket | None:
    """Return the connection that the current message has subscribed to ``channel``, if it has.

    Returns ``None`` once the message has been handled, or the subscription has ended.
    """
    current = _current.get()
    if current is None or current.is_over:
        return None
    made = current.made.get(channel)
    return current.socket if made is not None and made.lasts() else None
