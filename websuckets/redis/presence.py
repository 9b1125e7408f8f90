"""Users on each node, as Redis keeps them."""

import secrets
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from coredis import BaseConnection
from coredis.exceptions import RedisError
from pydantic_core import to_json

from websuckets.redis.connection import AT_ONCE, Command, RedisConnection, asked, asked_each
from websuckets.redis.malformed import MalformedCounter
from websuckets.redis.told_users import NODE_BYTES, ToldUsers, user_id_in
from websuckets.session import UserId

__all__ = ["Presence"]

LIFETIME: Final = 2.5
"""Heartbeats for which a node counts as alive after its last heartbeat."""

OLD_NAMES: Final = 10
"""Number of its earlier names that a node removes itself; others are removed as of dead nodes."""


class Presence:
    """Users of this node and of all other nodes, by group; lives as long as the node's link.

    Each connection to Redis writes all users of this node anew, under a name of its own, before the
    data of an earlier connection is removed: lost records are there again, and no user is
    missing in between. A name without a heartbeat for some time does not count any more, and other
    nodes remove it.

    After Redis has refused a change, its data is out of date. Then each heartbeat writes all users
    of this node anew, until no write is refused.

    ``told`` has the groups of which nodes are told who comes and leaves.
    """

    def __init__(
        self, redis: RedisConnection, root: str, malformed: MalformedCounter, told: ToldUsers
    ) -> None:
        self._redis = redis
        self._root = root
        self._malformed = malformed
        self._told = told
        self._lifetime = round(LIFETIME * redis.heartbeat * 1000)
        self._groups: dict[str, set[bytes]] = {}
        self._name = ""
        self._old_names: deque[str] = deque(maxlen=OLD_NAMES)
        self._is_sure = False

    def enter(self, group: str, user_id: UserId) -> None:
        """Add a user of this node; send the commands of `changed` to Redis afterwards."""
        self._groups.setdefault(group, set()).add(to_json(user_id))

    def leave(self, group: str, user_id: UserId) -> None:
        """Remove a user of this node; send the commands of `changed` to Redis afterwards."""
        users = self._groups[group]
        users.discard(to_json(user_id))
        if not users:
            del self._groups[group]

    def changed(self, group: str, user_id: UserId) -> list[Command]:
        """Return the commands that tell Redis whether this user is in the group now."""
        user = to_json(user_id)
        users = self._groups.get(group, set())
        if user in users:
            return self._additions(group, [user])
        if self._told.tells(group):
            return [self._told.left(group, self._name, self._sets(self._name, group), [user])]
        commands: list[Command] = [(b"SREM", self._key("users", self._name, group), user)]
        if not users:
            commands.append((b"SREM", self._key("groups", self._name), group))
        return commands

    def was_refused(self) -> None:
        """Note that Redis refused a change, so its copy may be out of date."""
        self._is_sure = False

    async def begin(self, connection: BaseConnection) -> None:
        """Write all users under a new name; later changes have to be sent afterwards."""
        self._is_sure = False
        name = secrets.token_hex(NODE_BYTES)
        mark: Command = (b"SET", self._key("node", name), b"1", b"PX", self._lifetime)
        await asked(connection, [mark, (b"SADD", self._key("nodes"), name)])
        if self._name:
            self._old_names.append(self._name)
        self._name = name
        for group, users in [(group, list(users)) for group, users in self._groups.items()]:
            for start in range(0, len(users), AT_ONCE):
                some = users[start : start + AT_ONCE]
                await asked(connection, self._additions(group, some))
        self._is_sure = True
        while self._old_names:
            await self._remove(connection, self._old_names[-1])
            self._old_names.pop()

    async def beat(self, connection: BaseConnection) -> None:
        """Renew the mark that this node is alive, and remove nodes that are dead.

        If this node counted as dead, because Redis was stopped or has lost the mark, or if a change
        was refused, `begin` is called again.
        """
        if not self._is_sure:
            await self.begin(connection)
        mark: Command = (b"PEXPIRE", self._key("node", self._name), self._lifetime)
        listed: Command = (b"SADD", self._key("nodes"), self._name)
        if await asked(connection, [mark, listed]) != [1, 0]:
            await self.begin(connection)
        found = (await asked(connection, [(b"SMEMBERS", self._key("nodes"))]))[0]
        names = _texts(found)
        for alien in (name for name in found if not _texts([name])):
            self._malformed.found(self._key("nodes"))
            await asked(connection, [(b"SREM", self._key("nodes"), alien)])
        lives = await asked(connection, [(b"EXISTS", self._key("node", name)) for name in names])
        for name in (name for name, lives in zip(names, lives, strict=True) if not lives):
            await self._remove(connection, name)
        await self._told.settle(connection)

    async def remove(self, connection: BaseConnection) -> None:
        """Remove all users of this node from Redis."""
        await self._remove(connection, self._name)

    async def members(self, group: str) -> set[UserId]:
        """Return the users of a group on other nodes. Raises `Unavailable`."""
        names = _texts(await self._redis.ask(b"SMEMBERS", self._key("nodes")))
        others = [name for name in names if name != self._name]
        marks = await self._redis.ask_all((b"EXISTS", self._key("node", name)) for name in others)
        living = [name for name, lives in zip(others, marks, strict=True) if lives]
        keys = [self._key("users", name, group) for name in living]
        found = await self._redis.ask_each((b"SMEMBERS", key) for key in keys)
        members: set[UserId | None] = set()
        for key, users in zip(keys, found, strict=True):
            if isinstance(users, RedisError):  # the key is not a set
                self._malformed.found(key)
            else:
                members.update(self._id(user, key) for user in users)
        return {id for id in members if id is not None}

    def _id(self, user: bytes, key: str) -> UserId | None:
        id = user_id_in(user)
        if id is None:
            self._malformed.found(key)
        return id

    async def _remove(self, connection: BaseConnection, name: str) -> None:
        """Remove all data of a name, and the name last, so that a failed removal is repeated."""
        groups = self._key("groups", name)
        some: Command = (b"SRANDMEMBER", groups, AT_ONCE)
        while taken := (await asked_each(connection, [some]))[0]:
            if isinstance(taken, RedisError):  # the key is not a set
                self._malformed.found(groups)
                break
            for group in filter(self._told.tells, _texts(taken)):
                await self._leave(connection, name, group)
            users = [self._key("users", name, group) for group in _texts(taken)]
            await asked(connection, [(b"DEL", *users), (b"SREM", groups, *taken)])
        marks: Command = (b"DEL", self._key("node", name), groups)
        await asked(connection, [marks, (b"SREM", self._key("nodes"), name)])

    async def _leave(self, connection: BaseConnection, name: str, group: str) -> None:
        """Remove the users of a name from a group of which nodes are told."""
        sets = self._sets(name, group)
        some: Command = (b"SRANDMEMBER", sets[0], AT_ONCE)
        while users := (await asked_each(connection, [some]))[0]:
            if isinstance(users, RedisError):  # the key is not a set
                self._malformed.found(sets[0])
                break
            known = [user for user in users if self._id(user, sets[0]) is not None]
            left = self._told.left(group, name, sets, known)
            await asked(connection, [left, (b"SREM", sets[0], *users)])

    def _additions(self, group: str, users: list[bytes]) -> list[Command]:
        if self._told.tells(group):
            return [self._told.entered(group, self._name, self._sets(self._name, group), users)]
        return [
            (b"SADD", self._key("groups", self._name), group),
            (b"SADD", self._key("users", self._name, group), *users),
        ]

    def _sets(self, name: str, group: str) -> tuple[str, str]:
        """Return the keys of the sets of a name: of its users in a group, and of its groups."""
        return self._key("users", name, group), self._key("groups", name)

    def _key(self, *parts: str) -> str:
        return ":".join((self._root, *parts))


def _texts(names: Iterable[Any]) -> list[str]:
    """Return the names that are UTF-8, as texts; no node has written any other name."""
    texts = []
    for name in names:
        with suppress(UnicodeDecodeError):
            texts.append(name.decode())
    return texts
