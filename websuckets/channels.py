"""Messages for many: channels to which connections subscribe, and users wherever they are."""

from collections.abc import AsyncIterator
from typing import Final

from websuckets.broker import Broker
from websuckets.delivery.declarations import Channel, ChannelDeclarations, ChannelName
from websuckets.delivery.logged_delivery import DeliveryCounts
from websuckets.delivery.running_channels import USERS, RunningChannels, publication_of
from websuckets.delivery.subscriptions import ONLINE
from websuckets.history import EventLog, History, Position, Publication
from websuckets.limits import Limits
from websuckets.protocol.events import AnyEvent, client_event
from websuckets.protocol.messages import ClientEvent
from websuckets.runtime.once import running_once
from websuckets.runtime.tasks import Background
from websuckets.security import check_still_authorised
from websuckets.session import Session, User, UserId, watch
from websuckets.socket import Socket

__all__ = ["Channel", "ChannelName", "Channels", "History"]


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
        self._node: RunningChannels | None = None
        self.counts: DeliveryCounts = DeliveryCounts()
        """Counts of clients that have caught up, since the app was created."""
        watch(session, self)

    @property
    def have_history(self) -> bool:
        """True if the app includes a channel with a history."""
        return self._declarations.have_history

    async def subscribe(
        self, socket: Socket, name: str, *, public: bool = False
    ) -> Position | None:
        """Subscribe the connection ``socket`` to the channel ``name``.

        The subscription ends when the program unsubscribes the connection, when the connection
        ends, or when its user stops being verified: by the log-out, the revocation, or the next
        user of the connection. A ``public`` subscription outlives its user, and so does a
        subscription that was made while nobody was verified.

        For a channel with a history, returns the position in its log: events behind the position
        are delivered, and what the handler reads afterwards is not older. In a command, delivery
        begins when the reply has been sent, or at the position that the client has sent as
        ``since``; a command that fails takes its subscription back. Elsewhere, delivery begins at
        once, and an event ``subscribed`` tells the client its position. Returns ``None`` for other
        channels.

        Does nothing for a connection that is subscribed already, or closed. Raises
        `TooManySubscriptions`, `NotAuthorized` for a command whose `CurrentUser` is not verified
        any more, `Unavailable` if the log cannot be reached, and `ValueError` for a connection that
        is not open yet.
        """
        running_once.refuse("subscribe a connection")
        node = self._running
        name = node.checked(name)
        _check_socket(socket, "subscribe")
        user = self._session.online.get(socket.id)
        if user is None:
            if socket.close_code is None:
                raise ValueError(f"{socket!r} is not an open connection of this app")
            return None
        if not public:
            check_still_authorised(socket)
        return await node.subscribe(user, name, None if public else user.id)

    async def unsubscribe(self, socket: Socket, name: str) -> None:
        """Unsubscribe ``socket`` from the channel ``name``; do nothing if it is not subscribed."""
        node = self._running
        name = node.checked(name)
        _check_socket(socket, "unsubscribe")
        node.unsubscribe(socket.id, name)

    async def publish(self, name: str, event: AnyEvent, exclude: Socket | None = None) -> None:
        """Send an event to every subscriber of the channel ``name`` but ``exclude``.

        An event of a channel with a history is appended to its log first. Raises `TypeError` for an
        event that is neither a `ClientEvent` nor an `Event`, `ValueError` for one that the channel
        does not declare, and `Unavailable` if it is not known that the log has the event.
        """
        node = self._running
        name = node.checked(name)
        await node.publish(name, node.frame_of(name, event), exclude)

    async def send_to(self, user_id: UserId, event: AnyEvent) -> None:
        """Send an event to every connection that is verified as ``user_id``, if there is any.

        Raises `TypeError` for an event that is neither a `ClientEvent` nor an `Event`.
        """
        await self._running.send_to(user_id, client_event(event).encode())

    def listen(self, name: str, since: Position | None = None) -> AsyncIterator[AnyEvent]:
        """Return the events of the channel ``name``, for ``async for`` in streams and tasks.

        The events are those behind the position ``since``, or those that come from now on, in their
        order, each once, for as long as the app runs: of the classes that the channel declares, or
        as `ClientEvent`. A slow reader keeps nothing in memory, because what it has not come to is
        read from the log. The loop may be left at any time.

        Iteration raises `HistoryLost` when the log does not keep the next event any more. Raises
        `ValueError` for a channel without a `History`.
        """
        node = self._running
        name = node.checked(name)
        if node.history_of(name) is None:
            raise ValueError(
                f"Channels.listen({name!r:.80}): nothing is kept of this channel; declare it with "
                "a history: Channel(..., history=History())"
            )
        return node.listen(name, since)

    def check(self, name: str | None, event: AnyEvent) -> ClientEvent:
        """Return the event as it would be sent; raise the errors that publishing it would raise.

        ``name`` is that of the channel, or ``None`` for an event that is sent to a user. Later
        changes to the payload are not seen.
        """
        encoded = client_event(event)
        if name is not None:
            self._declarations.check(self._running.checked(name), event)
        return encoded

    def _publication(
        self, name: str, event: ClientEvent, exclude: Socket | None
    ) -> Publication | None:
        """Return an event as it is appended to a log; ``None`` for a channel without a history."""
        node = self._running
        name = node.checked(name)
        history = node.history_of(name)
        return None if history is None else publication_of(name, history, event.encode(), exclude)

    async def _deliver(self, publication: Publication, position: Position) -> None:
        """Deliver an event that a transaction has appended to a log, once it is committed."""
        await self._running.published(publication, position)

    async def members(self, name: str) -> set[UserId]:
        """Return the ids of verified users who are subscribed to the channel ``name``.

        Users of other nodes are among them as far as this node knows them now. In a channel with
        presence, a user stays among them until subscribers are told that the user has left. In a
        channel with a history, the user of a command is among them from its reply on, and in the
        command itself from the subscription on: a command that fails tells nobody of its user. A
        handler that subscribes a connection, and then calls this method, gets the users to whom the
        events ``presence`` of this connection add and from whom they take away.
        """
        return await self._running.members(self._running.checked(name))

    async def online(self) -> set[UserId]:
        """Return the ids of all verified users who are connected."""
        return await self._running.members(ONLINE)

    async def _start(
        self, limits: Limits, background: Background, broker: Broker, log: EventLog
    ) -> None:
        """Start the channels when the app starts; they run until `_stop`."""
        node = RunningChannels(
            *(self._session, limits, background, self._declarations, log, self.counts)
        )
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
    def _running(self) -> RunningChannels:
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
            self._node.lost_subscribers(self._node.subscriptions.demoted(user, id))

    def left(self, user: User) -> None:
        if self._node is not None:
            self._node.lost_subscribers(self._node.subscriptions.left(user))


_OTHER_LOOP: Final = (
    "Channels: the app runs in another event loop, and connections belong to that one: call this "
    "there, from a thread by anyio.from_thread or asyncio.run_coroutine_threadsafe"
)


def _check_socket(socket: object, method: str) -> None:
    if isinstance(socket, User):
        raise TypeError(
            f"Channels.{method}(socket, name): it takes the socket, not "
            f"{type(socket).__name__}; write user.socket"
        )
