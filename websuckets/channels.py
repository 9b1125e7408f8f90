"""Messages for many: channels to which connections subscribe, and users wherever they are."""

import logging
from collections.abc import Iterable
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus
from pydantic_core import from_json, to_json

from websuckets.broker import Broker, Link
from websuckets.delivery.declarations import Channel, ChannelDeclarations, ChannelName
from websuckets.delivery.outbox import Outboxes
from websuckets.delivery.revocation_announcements import RevocationAnnouncements, user_id_of
from websuckets.delivery.subscriptions import ONLINE, Subscriptions
from websuckets.exc import InvalidChannel
from websuckets.history import History
from websuckets.introspection.strings import plain_string
from websuckets.limits import Limits, limit_text
from websuckets.protocol.events import AnyEvent, client_event
from websuckets.protocol.messages import ClientEvent
from websuckets.runtime.event_loop import EventLoop
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.once import running_once
from websuckets.runtime.tasks import Background, wait_through
from websuckets.security import check_still_authorised
from websuckets.session import Session, User, UserId, watch
from websuckets.socket import Socket

__all__ = ["Channel", "ChannelName", "Channels", "History"]

logger: logging.Logger = logging.getLogger("websuckets")

CHANNEL: Final = "channel/"
"""Prefix of the topic of a channel."""

USERS: Final = "users"
"""Topic of messages for users, on whatever node they are; each message names its user."""

TURNS: Final = 4
"""Number of times that a publisher lets other tasks run while messages still wait in outboxes: many
messages at once must not outrun clients that read as fast as they can."""


class Channels:
    """Channels by which the program publishes events to subscribed connections (APP scope).

    The program subscribes a connection, which stays subscribed until the program unsubscribes it,
    or until it ends. A publisher waits for no reader: events that a connection does not take at
    once wait in its outbox, which `Limits` bounds. A connection gets the events that one publisher
    sends to a channel in their order, and each event at most once.

    Where a `Broker` connects several nodes, subscriptions and users of all nodes are reached. While
    the nodes are not connected, events still reach the connections of this node. Once they are
    connected again, each client that may have missed an event gets the event ``channel gap``, whose
    payload names the channel: ``{"channel": "news"}``, or ``null`` for events sent to a user.

    Names that are not encodable as UTF-8, empty, or longer than `Limits.channel_name` raise
    `InvalidChannel`. A name that an included `Channel` covers is a channel of that declaration; the
    name of a declaration that the app does not include raises `ConfigurationError`.
    """

    def __init__(self, session: Session, declarations: ChannelDeclarations | None = None) -> None:
        self._session = session
        self._declarations = declarations or ChannelDeclarations()
        self._node: _RunningChannels | None = None
        watch(session, self)

    async def subscribe(self, socket: Socket, name: str, *, public: bool = False) -> None:
        """Subscribe the connection ``socket`` to the channel ``name``.

        The subscription ends when the program unsubscribes the connection, when the connection
        ends, or when its user stops being verified: by the log-out, the revocation, or the next
        user of the connection. A ``public`` subscription outlives its user, and so does a
        subscription that was made while nobody was verified.

        Does nothing for a connection that is subscribed already, or closed. Raises
        `TooManySubscriptions`, `NotAuthorized` for a command whose `CurrentUser` is not verified
        any more, and `ValueError` for a connection that is not open yet.
        """
        running_once.refuse("subscribe a connection")
        node = self._running
        name = node.checked(name)
        _check_socket(socket, "subscribe")
        user = self._session.online.get(socket.id)
        if user is None:
            if socket.close_code is None:
                raise ValueError(f"{socket!r} is not an open connection of this app")
            return
        if not public:
            check_still_authorised(socket)
        node.subscriptions.subscribe(user, name, None if public else user.id)
        await node.link.subscribe(CHANNEL + name)

    async def unsubscribe(self, socket: Socket, name: str) -> None:
        """Unsubscribe ``socket`` from the channel ``name``; do nothing if it is not subscribed."""
        node = self._running
        name = node.checked(name)
        _check_socket(socket, "unsubscribe")
        if node.subscriptions.unsubscribe(socket.id, name):
            node.link.unsubscribe(CHANNEL + name)

    async def publish(self, name: str, event: AnyEvent, exclude: Socket | None = None) -> None:
        """Send an event to every subscriber of the channel ``name`` but ``exclude``.

        Raises `TypeError` for an event that is neither a `ClientEvent` nor an `Event`, and
        `ValueError` for an event that the declaration of the channel does not list.
        """
        node = self._running
        name = node.checked(name)
        frame = client_event(event).encode()
        self._declarations.check(name, event)
        node.subscriptions.deliver(name, frame, None if exclude is None else exclude.id)
        node.link.publish(CHANNEL + name, frame)
        await node.yield_to_others()

    async def send_to(self, user_id: UserId, event: AnyEvent) -> None:
        """Send an event to every connection that is verified as ``user_id``, if there is any.

        Raises `TypeError` for an event that is neither a `ClientEvent` nor an `Event`.
        """
        node = self._running
        frame = client_event(event).encode()
        node.subscriptions.deliver_to(user_id, frame)
        node.link.publish(USERS, to_json(user_id) + b"\n" + frame)
        await node.yield_to_others()

    def check(self, name: str | None, event: AnyEvent) -> ClientEvent:
        """Return the event as it would be sent; raise the errors that publishing it would raise.

        ``name`` is that of the channel, or ``None`` for an event that is sent to a user. Later
        changes to the payload are not seen.
        """
        encoded = client_event(event)
        if name is not None:
            self._declarations.check(self._running.checked(name), event)
        return encoded

    async def members(self, name: str) -> set[UserId]:
        """Return the ids of verified users who are subscribed to the channel ``name``.

        Users of other nodes are among them as far as this node knows them now.
        """
        return await self._running.members(self._running.checked(name))

    async def online(self) -> set[UserId]:
        """Return the ids of all verified users who are connected."""
        return await self._running.members(ONLINE)

    async def _start(self, limits: Limits, background: Background, broker: Broker) -> None:
        """Start the channels when the app starts; they run until `_stop`."""
        node = _RunningChannels(self._session, limits, background, self._declarations)
        await background.start(node.run, broker)
        self._node = node
        self._session._other_nodes = node.revocations
        await node.link.subscribe(USERS)

    async def _stop(self) -> None:
        node, self._node = self._node, None
        self._session._other_nodes = None
        if node is not None:
            await node.stop()

    @property
    def _running(self) -> "_RunningChannels":
        if self._node is None:
            raise RuntimeError(
                "Channels: the app does not run; use its channels in handlers, hooks and tasks, "
                "from on_startup on"
            )
        self._node.loop.check(_OTHER_LOOP)
        return self._node

    def __repr__(self) -> str:
        return f"Channels({0 if self._node is None else len(self._node.subscriptions.channels)})"

    # Methods of a `SessionObserver`: clients that are left behind call them after the end, too.

    def verified(self, user: User, id: UserId) -> None:
        if self._node is not None:
            self._node.subscriptions.verified(user, id)

    def demoted(self, user: User, id: UserId) -> None:
        if self._node is not None:
            for name in self._node.subscriptions.demoted(user, id):
                self._node.link.unsubscribe(CHANNEL + name)

    def left(self, user: User) -> None:
        if self._node is not None:
            for name in self._node.subscriptions.left(user):
                self._node.link.unsubscribe(CHANNEL + name)


_OTHER_LOOP: Final = (
    "Channels: the app runs in another event loop, and connections belong to that one: call this "
    "there, from a thread by anyio.from_thread or asyncio.run_coroutine_threadsafe"
)


class _RunningChannels:
    """Channels of one run of the app, with its subscriptions and its link; a `Receiver`."""

    link: Link
    revocations: RevocationAnnouncements

    def __init__(
        self,
        session: Session,
        limits: Limits,
        background: Background,
        declarations: ChannelDeclarations,
    ) -> None:
        self._session = session
        self._declarations = declarations
        self._limits = limits
        self._background = background
        self._longest_name = limits.channel_name
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self.loop = EventLoop()
        outboxes = Outboxes(limits, background.start_soon)
        self.subscriptions = Subscriptions(
            session, outboxes, limits.subscriptions, self._enter, self._leave
        )

    async def run(self, broker: Broker, *, task_status: TaskStatus[None]) -> None:
        """Keep the link to other nodes until `stop`.

        Raises errors of the broker from before there was a link; later errors are logged.
        """

        def linked(link: Link) -> None:
            self.link = link
            self.revocations = RevocationAnnouncements(
                self._session, self._limits, self._background, link
            )
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

    async def stop(self) -> None:
        self._scope.cancel()
        await wait_through(self._ended, self._background.timeout)

    def checked(self, name: str) -> str:
        """Return the name as a plain ``str``.

        Raises `InvalidChannel`, `TypeError` for a name that is not a ``str``, and
        `ConfigurationError` for the name of a declaration that the app does not include.
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
        if isinstance(name, ChannelName):
            self._declarations.find(name)
        return plain_string(name)

    async def members(self, group: str) -> set[UserId]:
        return self.subscriptions.members(group) | await self.link.members(group)

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
        else:
            _check(message)
            self.subscriptions.deliver(topic.removeprefix(CHANNEL), message)

    def missed(self, topics: Iterable[str] | None) -> None:
        if topics is None:
            self.subscriptions.announce_gap()
            return
        for topic in topics:
            if topic == USERS:
                self.subscriptions.announce_gap_to_users()
            else:
                self.subscriptions.announce_gap_in(topic.removeprefix(CHANNEL))

    def announced(self, announcement: bytes) -> None:
        self.revocations.announced(announcement)

    def missed_announcements(self) -> None:
        if hasattr(self, "revocations"):  # else nobody can be connected yet
            self.revocations.missed()

    def _enter(self, group: str, id: UserId) -> None:
        self.link.enter(group, id)

    def _leave(self, group: str, id: UserId) -> None:
        self.link.leave(group, id)


def _check(frame: bytes) -> None:
    """Raise `ValueError` for a frame that is not an event: clients must get nothing else."""
    content = from_json(frame, allow_inf_nan=False, cache_strings="keys")
    if not (
        isinstance(content, dict)
        and content.keys() == {"event", "payload"}
        and isinstance(content["event"], str)
    ):
        raise ValueError("no event")


def _check_socket(socket: object, method: str) -> None:
    if isinstance(socket, User):
        raise TypeError(
            f"Channels.{method}(socket, name): it takes the socket, not "
            f"{type(socket).__name__}; write user.socket"
        )
