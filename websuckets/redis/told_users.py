"""Users who have come to groups and have not left them yet, on all nodes, as Redis keeps them.

The problem: nodes are to be told once of a user who comes to a group, by the first of the user's
connections to any node, and once of a user who has left it, though connections end on several
nodes at the same time, and though a node may die.

The solution: for each group there is a hash with the nodes of each user. One step of Redis, a
script, changes the hash and publishes what follows from it, so that exactly one change of a user is
the first or the last one, and messages come in the order of the changes. A user whose last node is
removed stays in the hash, with no node, until a moment that a sorted set keeps; a node that enters
the user meanwhile takes the user out of the sorted set. Otherwise the first node that removes the
user from the sorted set, after that moment, tells all. Each node looks into the sorted set with
each heartbeat, so a node that dies leaves nobody untold.

A hash loses nothing when a node dies: others remove its users one by one (`Presence`), by the same
script as the node itself.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import anyio
from coredis import BaseConnection
from coredis.exceptions import WrongTypeError
from pydantic_core import from_json

from websuckets.broker import PRESENCE, PresenceRules
from websuckets.redis.connection import AT_ONCE, Command, RedisConnection, asked
from websuckets.redis.malformed import MalformedCounter
from websuckets.redis.messages import FROM_ALL
from websuckets.redis.scripts import NOW, OF_KIND
from websuckets.session import UserId, is_user_id

__all__ = ["NODE_BYTES", "ToldUsers", "user_id_in"]

NODE_BYTES: Final = 8
"""Bytes in the name of a node, which is written with two digits for each."""

LONGEST: Final = 100 * 365 * 24 * 60 * 60.0
"""Seconds of the longest grace: the numbers of scripts are exact that far."""

EARLY: Final = 0.002
"""Seconds that are added to a time at which Redis is asked: it counts in milliseconds."""

COMMON: Final = (
    OF_KIND
    + NOW
    + f"""
local size = {2 * NODE_BYTES}
is_of_kind(KEYS[1], 'hash')
is_of_kind(KEYS[2], 'zset')
local function without(nodes, node)
    local others = {{}}
    for first = 1, #nodes, size do
        local other = string.sub(nodes, first, first + size - 1)
        if other ~= node then others[#others + 1] = other end
    end
    return table.concat(others)
end
local function tell(channel, head, joined, left)
    if #joined + #left == 0 then return end
    return redis.pcall('PUBLISH', channel, head .. '{{"joined":[' .. table.concat(joined, ',')
        .. '],"left":[' .. table.concat(left, ',') .. ']}}')
end
"""
)
"""Beginning of the scripts: the nodes of a user are one text, and members of the sorted set are the
user and the group, with a line break between, which the JSON of a user does not have."""

ENTER: Final = (
    COMMON
    + """
local node, group, joined = ARGV[1], ARGV[2], {}
is_of_kind(KEYS[3], 'set')
is_of_kind(KEYS[4], 'set')
for number = 5, #ARGV do
    local user = ARGV[number]
    local nodes = redis.call('HGET', KEYS[1], user)
    local others = without(nodes or '', node)
    if others == nodes or not nodes then redis.call('HSET', KEYS[1], user, others .. node) end
    if not nodes then joined[#joined + 1] = user end
    redis.call('SADD', KEYS[3], user)
    redis.call('ZREM', KEYS[2], user .. '\\n' .. group)
end
redis.call('SADD', KEYS[4], group)
return tell(ARGV[3], ARGV[4], joined, {})
"""
)
"""Script that enters users of one node, and tells of those who were nowhere before."""

LEAVE: Final = (
    COMMON
    + """
local node, group, due = ARGV[1], ARGV[2], now() + tonumber(ARGV[3])
is_of_kind(KEYS[3], 'set')
is_of_kind(KEYS[4], 'set')
for number = 4, #ARGV do
    local user = ARGV[number]
    local nodes = redis.call('HGET', KEYS[1], user)
    if not nodes and redis.call('SISMEMBER', KEYS[3], user) == 1 then nodes = node end
    local others = without(nodes or '', node)
    if nodes and others ~= nodes then
        redis.call('HSET', KEYS[1], user, others)
        if others == '' then
            redis.call('ZADD', KEYS[2], string.format('%.0f', due), user .. '\\n' .. group)
        end
    end
    redis.call('SREM', KEYS[3], user)
end
if redis.call('SCARD', KEYS[3]) == 0 then redis.call('SREM', KEYS[4], group) end
"""
)
"""Script that removes users of one node; those who are on no other node leave later.

A user who is not in the hash, though the node has entered the user, shows that the hash was lost.
"""

DUE: Final = (
    OF_KIND
    + NOW
    + """
is_of_kind(KEYS[1], 'zset')
local time = string.format('%.0f', now())
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', time, 'LIMIT', 0, ARGV[1])
local next = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. time, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {next[2] and string.format('%.0f', next[2] - time) or '', unpack(due)}
"""
)
"""Script that returns the milliseconds until the next users leave, and those who do so now."""

SETTLE: Final = (
    COMMON
    + """
local group, time, left = ARGV[1], now(), {}
for number = 4, #ARGV do
    local user = ARGV[number]
    local due = redis.call('ZSCORE', KEYS[2], user .. '\\n' .. group)
    if due and tonumber(due) <= time then
        redis.call('ZREM', KEYS[2], user .. '\\n' .. group)
        if (redis.call('HGET', KEYS[1], user) or '') == '' then
            redis.call('HDEL', KEYS[1], user)
            left[#left + 1] = user
        end
    end
end
return tell(ARGV[2], ARGV[3], {}, left)
"""
)
"""Script that removes users who have left from the sorted set; the one that does tells all."""


class ToldUsers:
    """Users of all nodes, in the groups of which nodes are told; lives as long as the node's link.

    ``rules`` are those of the node, and ``channel`` is a function that returns the channel of Redis
    that carries a topic.
    """

    def __init__(
        self,
        redis: RedisConnection,
        root: str,
        malformed: MalformedCounter,
        rules: PresenceRules | None,
        channel: Callable[[str], str],
    ) -> None:
        self._redis = redis
        self._root = root
        self._malformed = malformed
        self._rules = rules
        self._channel = channel
        self._grace = 0.0 if rules is None else min(rules.grace, LONGEST)
        self._leaving = f"{root}:leaving"
        self._settles_at = math.inf

    def tells(self, group: str) -> bool:
        """Tell whether nodes are told of who comes to the group and leaves it."""
        return self._rules is not None and self._rules.tells(group)

    def entered(self, group: str, node: str, keys: tuple[str, str], users: list[bytes]) -> Command:
        """Return the command that enters users of a node in a group.

        ``keys`` are those of the sets of the node: of the users, and of the groups.
        """
        told = (self._channel(PRESENCE + group), FROM_ALL)
        return self._script(ENTER, self._keys(group, *keys), node, group, *told, *users)

    def left(self, group: str, node: str, keys: tuple[str, str], users: list[bytes]) -> Command:
        """Return the command that removes users of a node from a group, see `entered`."""
        self._settle_in(self._grace)
        milliseconds = round(self._grace * 1000)
        return self._script(LEAVE, self._keys(group, *keys), node, group, milliseconds, *users)

    @property
    def pause(self) -> float:
        """Seconds until `settle` has to be called; infinite if nobody is known to leave."""
        if self._settles_at == math.inf:
            return math.inf
        return max(0.0, self._settles_at - anyio.current_time())

    async def settle(self, connection: BaseConnection) -> None:
        """Tell of users who have left, if their time has come and no other node has told."""
        if self._rules is None:
            return
        self._settles_at = math.inf
        while True:
            command = self._script(DUE, (self._leaving,), AT_ONCE)
            ((pause, *due),) = await asked(connection, [command])
            groups: dict[str, list[bytes]] = defaultdict(list)
            for member in due:
                if not self._is_well_formed(member, groups):
                    self._malformed.found(self._leaving)
                    await asked(connection, [(b"ZREM", self._leaving, member)])
            await asked(connection, [self._settled(*of_group) for of_group in groups.items()])
            if len(due) < AT_ONCE:
                break
        if pause:
            self._settle_in(int(pause) / 1000)

    async def present(self, group: str) -> set[UserId]:
        """Return the users who have come and have not left yet. Raises `Unavailable`.

        Users are removed who are only on nodes that nobody remembers, and they leave: somebody has
        deleted the list of nodes, or a node of another version, which knows nothing of this hash,
        has removed a dead node.
        """
        key = self._key(group)
        (found,) = await self._redis.ask_each([(b"HGETALL", key)])
        if isinstance(found, WrongTypeError):
            self._malformed.found(key)
            return set()
        users = {user: _names_in(nodes) for user, nodes in found.items()}
        for user in [user for user in users if user_id_in(user) is None]:
            self._malformed.found(key)
            del users[user]
        for name in await self._forgotten({name for names in users.values() for name in names}):
            of_name = [user for user, names in users.items() if name in names]
            sets = (f"{self._root}:users:{name}:{group}", f"{self._root}:groups:{name}")
            await self._redis.ask(*self.left(group, name, sets, of_name))
        ids = {user_id_in(user) for user in users}
        return {id for id in ids if id is not None}

    async def _forgotten(self, names: set[str]) -> list[str]:
        """Return the names of nodes that are neither alive nor listed. Raises `Unavailable`."""
        listed = f"{self._root}:nodes"
        marks: list[Command] = [(b"EXISTS", f"{self._root}:node:{name}") for name in names]
        marks += [(b"SISMEMBER", listed, name) for name in names]
        answers = await self._redis.ask_all(marks) if names else []
        alive, known = answers[: len(names)], answers[len(names) :]
        return [
            name for name, *is_there in zip(names, alive, known, strict=True) if not any(is_there)
        ]

    def _settled(self, group: str, users: list[bytes]) -> Command:
        told = (self._channel(PRESENCE + group), FROM_ALL)
        return self._script(SETTLE, self._keys(group), group, *told, *users)

    def _settle_in(self, seconds: float) -> None:
        moment = anyio.current_time() + seconds + EARLY
        self._settles_at = min(self._settles_at, moment)

    def _is_well_formed(self, member: bytes, groups: dict[str, list[bytes]]) -> bool:
        """Add a member of the sorted set to the users of its group, if a node has written it."""
        user, _, group = member.partition(b"\n")
        if user_id_in(user) is None:
            return False
        try:
            groups[group.decode()].append(user)
        except UnicodeDecodeError:
            return False
        return True

    def _key(self, group: str) -> str:
        return f"{self._root}:told:{group}"

    def _keys(self, group: str, *others: str) -> tuple[str, ...]:
        return (self._key(group), self._leaving, *others)

    def _script(self, script: str, keys: Iterable[str], *values: Any) -> Command:
        keys = tuple(keys)
        return (b"EVAL", script, len(keys), *keys, *values)


def _names_in(nodes: bytes) -> list[str]:
    """Return the names in the text of the nodes of a user."""
    text = nodes.decode("ascii", "replace")
    size = 2 * NODE_BYTES
    return [text[start : start + size] for start in range(0, len(text), size)]


def user_id_in(user: bytes) -> UserId | None:
    """Return the id of a user that a node has written; ``None`` for anything else."""
    try:
        id = from_json(user)
    except ValueError:
        return None
    return id if is_user_id(id) else None
