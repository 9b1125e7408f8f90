"""Events that tell the subscribers of a channel which users have come, and which have left.

The broker decides who has come and who has left, once for all nodes. Each node keeps, for the
channels with presence that it has subscribers of, the users of whom they know. So what the broker
tells a second time, or of a user who was there already, is told to nobody; and when messages of the
broker were lost, the node compares the users that it knows with those of the broker. It does so
twice: users who have come are told of at once, and departures after the grace, when other nodes
have had the time to enter their users anew.

Nobody is told of one's own coming and going: `Channels.members` has the user of the connection.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import anyio
from pydantic_core import from_json

from websuckets.broker import PRESENCE, Link, PresenceRules
from websuckets.delivery.subscriptions import Subscriptions
from websuckets.delivery.user_groups import UserGroups
from websuckets.exc import Unavailable
from websuckets.protocol.messages import ClientEvent
from websuckets.session import User, UserId, is_user_id

__all__ = ["PresenceEvents"]

Changes: TypeAlias = dict[UserId, bool]
"""Users of whom a subscriber has to be told: true for one who has come."""


class _View:
    """Users of a channel, as far as its subscribers on this node know of them."""

    def __init__(self) -> None:
        self.is_known = False
        """False until the broker has been asked for the users for the first time."""
        self.users: set[UserId] = set()
        self.newer: Changes | None = {}
        """Changes while the broker is asked, whose answer may be older; ``None`` afterwards."""
        self.late: dict[User, Changes] = {}
        """Changes of which a subscriber is told once its subscription gets events."""

    def take(self, changes: Changes) -> None:
        """Add the users who have come, and remove those who have left."""
        for user_id, is_there in changes.items():
            if is_there:
                self.users.add(user_id)
            else:
                self.users.discard(user_id)


class PresenceEvents:
    """Events about the users of channels with presence, on one node while the app runs.

    ``start`` starts a task of a function with arguments.
    """

    def __init__(
        self,
        rules: PresenceRules,
        subscriptions: Subscriptions,
        users: UserGroups,
        link: Link,
        start: Callable[..., None],
    ) -> None:
        self._rules = rules
        self._subscriptions = subscriptions
        self._users = users
        self._link = link
        self._start = start
        self._views: dict[str, _View] = {}
        self._comparing: anyio.CancelScope | None = None
        subscriptions.ended.append(self._ended)
        subscriptions.released = self._released

    def tells(self, channel: str) -> bool:
        """Tell whether a channel has presence."""
        return self._rules.tells(channel)

    async def begin(self, channel: str) -> None:
        """Tell the subscribers of a channel of all changes from now on, until none is left."""
        view = self._views.get(channel)
        if view is None:
            view = self._views[channel] = _View()
        if view.is_known:
            return
        try:
            await self._link.subscribe(PRESENCE + channel)
            await self._load(channel, view)
        finally:
            if not view.is_known:
                view.is_known = True  # as if nobody were there, until the broker says who is
                view.newer = None
                if self._comparing is None:
                    self.missed()

    async def members(self, channel: str) -> set[UserId]:
        """Return the users of a channel, of whom subscribers on this node know, and its own."""
        view = self._views.get(channel)
        if view is not None and view.is_known:
            present = view.users
        else:
            try:
                present = await self._link.present(channel)
            except Unavailable:
                present = set()
        return present | self._users.members(channel)

    def receive(self, channel: str, message: bytes) -> None:
        """Take a message of the broker. Raises `ValueError` for one that is malformed."""
        joined, left = _read(message)
        view = self._views.get(channel)
        if view is not None:
            self._change(channel, view, dict.fromkeys(joined, True) | dict.fromkeys(left, False))

    def missed(self) -> None:
        """Take note that messages of the broker may be lost."""
        self.stop()
        self._comparing = anyio.CancelScope()
        self._start(self._compare, self._comparing)

    def stop(self) -> None:
        if self._comparing is not None:
            self._comparing.cancel()

    # Views

    async def _load(self, channel: str, view: _View) -> None:
        """Ask the broker for the users of a channel for the first time."""
        try:
            users = await self._link.present(channel)
        except Unavailable:
            return
        if not view.is_known:
            assert view.newer is not None
            view.users = users
            view.take(view.newer)
            view.is_known, view.newer = True, None

    def _change(self, channel: str, view: _View, changes: Changes) -> None:
        """Change a view, and tell the subscribers of the changes of which they do not know."""
        if view.newer is not None:
            view.newer |= changes
        if not view.is_known:
            return
        new = {id: there for id, there in changes.items() if there is not (id in view.users)}
        if not new:
            return
        view.take(new)
        frame = _frame(channel, new)
        for user, is_held in list(self._subscriptions.subscribers(channel)):
            if is_held:
                view.late.setdefault(user, {}).update(new)
            elif user.id not in new:
                self._subscriptions.send(user.socket.id, frame)
            else:
                self._tell(user, channel, new)

    def _tell(self, user: User, channel: str, changes: Changes) -> None:
        """Tell a subscriber of the changes of other users."""
        others = {id: is_there for id, is_there in changes.items() if id != user.id}
        if others:
            self._subscriptions.send(user.socket.id, _frame(channel, others))

    def _released(self, user: User, channel: str) -> None:
        """Tell a subscriber, which gets events from now on, what has changed until now."""
        view = self._views.get(channel)
        if view is not None and (late := view.late.pop(user, None)):
            self._tell(user, channel, late)

    def _ended(self, user: User, channel: str) -> None:
        view = self._views.get(channel)
        if view is None:
            return
        view.late.pop(user, None)
        if not self._subscriptions.has_subscribers(channel):
            del self._views[channel]
            self._link.unsubscribe(PRESENCE + channel)

    # Comparison with the broker

    async def _compare(self, life: anyio.CancelScope) -> None:
        """Tell of users who have come meanwhile, and after the grace of those who have left."""
        try:
            with life:
                await self._compare_all(life, departures=False)
                await anyio.sleep(self._rules.grace)
                await self._compare_all(life, departures=True)
        finally:
            if self._comparing is life:
                self._comparing = None

    async def _compare_all(self, life: anyio.CancelScope, *, departures: bool) -> None:
        """Compare all channels; while the broker is away, nobody can: `missed` is called later.

        Once ``life`` is cancelled, another comparison may have begun, and this one tells nothing.
        """
        for channel, view in list(self._views.items()):
            if not view.is_known:
                continue
            newer: Changes = {}
            view.newer = newer
            try:
                users = await self._link.present(channel)
            except Unavailable:
                return
            finally:
                if view.newer is newer:  # else another comparison has begun
                    view.newer = None
            if life.cancel_called:  # the answer may be older than what was told meanwhile
                return
            found: Changes = dict.fromkeys(users - view.users, True)
            if departures:
                gone = view.users - users - self._users.members(channel)
                found |= dict.fromkeys(gone, False)
            if self._views.get(channel) is view:
                found = {id: is_there for id, is_there in found.items() if id not in newer}
                self._change(channel, view, found)


def _frame(channel: str, changes: Changes) -> bytes:
    joined = [id for id, is_there in changes.items() if is_there]
    left = [id for id, is_there in changes.items() if not is_there]
    payload = {"channel": channel, "joined": joined, "left": left}
    return ClientEvent("presence", payload).encode()


KEYS: Final = {"joined", "left"}


def _read(message: bytes) -> tuple[list[UserId], list[UserId]]:
    content: Any = from_json(message)
    if not isinstance(content, dict) or content.keys() != KEYS:
        raise ValueError("no message about presence")
    return _ids(content["joined"]), _ids(content["left"])


def _ids(found: Any) -> list[UserId]:
    if not isinstance(found, list) or not all(map(is_user_id, found)):
        raise ValueError("no ids of users")
    return found
