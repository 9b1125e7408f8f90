"""Channels of one run of an app: what is published, received from other nodes, and delivered."""

import logging
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus
from pydantic_core import from_json, to_json

from websuckets.broker import PRESENCE, Broker, Link, PresenceRules
from websuckets.delivery.bounded_log import BoundedLog
from websuckets.delivery.declarations import ChannelDeclarations
from websuckets.delivery.listening import Listener
from websuckets.delivery.logged_delivery import DeliveryCounts, LoggedDelivery
from websuckets.delivery.logged_subscriptions import LoggedSubscriptions
from websuckets.delivery.outbox import Outboxes
from websuckets.delivery.presence_events import PresenceEvents
from websuckets.delivery.revocation_announcements import RevocationAnnouncements, user_id_of
from websuckets.delivery.subscribing import subscriber_in_message, subscribing_on
from websuckets.delivery.subscriptions import Subscriptions, gap
from websuckets.delivery.user_groups import UserGroups
from websuckets.exc import InvalidChannel
from websuckets.history import EventLog, History, MemoryLog, Position, Publication
from websuckets.introspection.strings import plain_string
from websuckets.limits import Limits, limit_text
from websuckets.protocol.events import AnyEvent, client_event
from websuckets.runtime.event_loop import EventLoop
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.tasks import Background, wait_through
from websuckets.session import Session, User, UserId
from websuckets.socket import Socket

__all__ = ["RunningChannels", "publication_of"]

logger: logging.Logger = logging.getLogger("websuckets")

CHANNEL: Final = "channel/"
"""Prefix of the topic of a channel."""

USERS: Final = "users"
"""Topic of messages for users, on whatever node they are; each message names its user."""

TURNS: Final = 4
"""Number of times that a publisher lets other tasks run while messages still wait in outboxes: many
messages at once must not outrun clients that read as fast as they can."""


class RunningChannels:
    """Channels of one run of the app, with its subscriptions and its link; a `Receiver`."""

    link: Link
    revocations: RevocationAnnouncements
    presence: PresenceRules | None
    _presence: PresenceEvents | None
    _delivery: LoggedDelivery
    _logged: LoggedSubscriptions

    def __init__(
        self,
        session: Session,
        limits: Limits,
        background: Background,
        declared: ChannelDeclarations,
        log: EventLog,
        counts: DeliveryCounts,
    ) -> None:
        self._session = session
        self._limits = limits
        self._background = background
        self._declared = declared
        self._log = log if type(log) is MemoryLog else BoundedLog(log)
        self._counts = counts
        self._longest_name = limits.channel_name
        self._scope = anyio.CancelScope()
        self._comparing = anyio.CancelScope()
        self._ended = anyio.Event()
        self.loop: EventLoop = EventLoop()
        outboxes = Outboxes(limits, background.start_soon)
        self._users = UserGroups(
            lambda group, id: self.link.enter(group, id),
            lambda group, id: self.link.leave(group, id),
        )
        self.subscriptions: Subscriptions = Subscriptions(
            session, outboxes, limits.subscriptions, self._users
        )
        self.presence = None
        if declared.have_presence:
            self.presence = PresenceRules(limits.presence_grace or 0, declared.has_presence)
        self._presence = None

    async def run(self, broker: Broker, *, task_status: TaskStatus[None]) -> None:
        """Keep the link to other nodes until `stop`.

        Raises errors of the broker from before there was a link; later errors are logged.
        """

        def linked(link: Link) -> None:
            self.link = link
            self.revocations = RevocationAnnouncements(
                self._session, self._limits, self._background, link
            )
            self._begin_delivery(link)
            task_status.started()

        try:
            with self._scope:
                await broker.run(self, linked)
        except Exception as error:
            if not hasattr(self, "link"):
                raise
            log_incident(type(broker).__name__, error)
        finally:
            self._ended.set()

    def _begin_delivery(self, link: Link) -> None:
        """Begin to deliver channels with a history, and to tell who comes and leaves."""
        start = self._background.start_soon
        self._delivery = LoggedDelivery(
            *(self._log, self.subscriptions, link, start, _topic, self._counts)
        )
        self._logged = LoggedSubscriptions(
            *(self._delivery, self.subscriptions, self._limits.recovery, start, self._counts)
        )
        if self.presence is not None:
            self._presence = PresenceEvents(
                *(self.presence, self.subscriptions, self._users, link, start)
            )
        if self._declared.have_history:
            start(self._delivery.run, self._comparing)

    async def stop(self) -> None:
        self._comparing.cancel()
        if self._presence is not None:
            self._presence.stop()
        self._scope.cancel()
        await wait_through(self._ended, self._background.timeout)

    def checked(self, name: str) -> str:
        """Return the name as a plain ``str``.

        Raises `InvalidChannel`, `TypeError` for a name that is not a ``str``, and
        `ConfigurationError` for one of a declaration that the app does not include.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"the name of a channel is a str, not {type(name).__name__}; write "
                'f"room {id}", which also tells rooms from other things with an id'
            )
        if not name:
            raise InvalidChannel
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            raise InvalidChannel from None
        if self._longest_name is not None and size > self._longest_name:
            logger.debug(
                "the name of a channel has %d bytes (%s)",
                *(size, limit_text("channel_name", self._longest_name)),
            )
            raise InvalidChannel
        if type(name) is not str:
            self._declared.find(name)
        return plain_string(name)

    def history_of(self, name: str) -> History | None:
        """Return the history of a channel; ``None`` for a channel of which nothing is kept."""
        channel = self._declared.find(name)
        return None if channel is None else channel.history

    async def subscribe(self, user: User, name: str, owner: UserId | None) -> Position | None:
        """Subscribe a connection; return its position in a channel with a history."""
        channel = self._declared.find(name)
        if channel is not None and channel.history is not None:
            current = subscribing_on(user.socket)
            if current is not None:
                current.check(channel)
            position = await self._logged.subscribe(user, name, owner, current)
        else:
            position = None
            self.subscriptions.subscribe(user, name, owner)
            await self.link.subscribe(_topic(name))
        if channel is not None and channel.presence and self._presence is not None:
            if self.subscriptions.has_subscribers(name):  # else all have gone meanwhile
                await self._presence.begin(name)
        return position

    def unsubscribe(self, connection: UUID, name: str) -> None:
        if self.subscriptions.unsubscribe(connection, name):
            self.lost_subscribers([name])

    def lost_subscribers(self, names: Iterable[str]) -> None:
        """Take note that channels have lost their last subscriber on this node."""
        for name in names:
            if self.history_of(name) is None:
                self.link.unsubscribe(_topic(name))
            else:
                self._delivery.end_if_unwanted(name)

    async def publish(self, name: str, frame: bytes, exclude: Socket | None) -> None:
        """Send an event to all subscribers of a channel. Raises `Unavailable`."""
        history = self.history_of(name)
        if history is None:
            self.subscriptions.deliver(name, frame, None if exclude is None else exclude.id)
            self.link.publish(_topic(name), frame)
        else:
            await self._delivery.publish(publication_of(name, history, frame, exclude))
        await self.yield_to_others()

    async def published(self, publication: Publication, position: Position) -> None:
        """Deliver an event that a transaction has appended to the log, and that is committed."""
        self._delivery.published(publication, position)
        await self.yield_to_others()

    async def send_to(self, user_id: UserId, frame: bytes) -> None:
        """Send an event to all connections of a user."""
        self.subscriptions.deliver_to(user_id, frame)
        self.link.publish(USERS, to_json(user_id) + b"\n" + frame)
        await self.yield_to_others()

    def frame_of(self, name: str, event: AnyEvent) -> bytes:
        """Return an event as it is sent.

        Raises `ValueError` for an event that a declared channel does not list.
        """
        sent = client_event(event)
        self._declared.check(name, event)
        return sent.encode()

    def listen(self, name: str, since: Position | None) -> Listener:
        """Return a listener to a channel with a history."""
        channel = self._declared.find(name)
        assert channel is not None
        return Listener(self._delivery, name, since, channel.event_of)

    async def members(self, group: str) -> set[UserId]:
        """Return the users of a group, and the one whom the current message subscribes to it."""
        if self._presence is not None and self._presence.tells(group):
            members = await self._presence.members(group)
        else:
            members = self._users.members(group) | await self.link.members(group)
        socket = subscriber_in_message(group)
        user = None if socket is None else self._session.online.get(socket.id)
        return members if user is None or user.id is None else {*members, user.id}

    async def yield_to_others(self) -> None:
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()
            if not self.subscriptions.outboxes.writing:
                break

    def receive(self, topic: str, message: bytes) -> None:
        if topic == USERS:
            user_id, _, message = message.partition(b"\n")
            _check(message)
            self.subscriptions.deliver_to(user_id_of(user_id), message)
            return
        if topic.startswith(PRESENCE):
            assert self._presence is not None  # nothing else subscribes to these topics
            self._presence.receive(topic.removeprefix(PRESENCE), message)
            return
        name = topic.removeprefix(CHANNEL)
        if self.history_of(name) is None:
            _check(message)
            self.subscriptions.deliver(name, message)
        else:
            self._delivery.receive(name, message, _check)

    def missed(self, topics: Iterable[str] | None) -> None:
        if topics is None:
            if self._presence is not None:
                self._presence.missed()
            topics = (USERS, *map(_topic, self.subscriptions.channels))
        for topic in topics:
            name = topic.removeprefix(CHANNEL)
            if topic == USERS:
                self.subscriptions.announce_gap_to_users()
            elif self.history_of(name) is None:
                self.subscriptions.deliver(name, gap(name))
            else:
                self._delivery.compare_soon()

    def announced(self, announcement: bytes) -> None:
        self.revocations.announced(announcement)

    def missed_announcements(self) -> None:
        if hasattr(self, "revocations"):  # else nobody can be connected yet
            self.revocations.missed()


def publication_of(
    name: str, history: History, frame: bytes, exclude: Socket | None
) -> Publication:
    """Return an event that is to be appended to the log of a channel."""
    return Publication(name, history, frame, "" if exclude is None else str(exclude.id))


def _topic(name: str) -> str:
    """Return the topic of a channel."""
    return CHANNEL + name


def _check(frame: bytes) -> None:
    """Raise `ValueError` for a frame that is not an event: clients must get nothing else."""
    content = from_json(frame, allow_inf_nan=False, cache_strings="keys")
    if not (
        isinstance(content, dict)
        and content.keys() == {"event", "payload"}
        and isinstance(content["event"], str)
    ):
        raise ValueError("no event")
