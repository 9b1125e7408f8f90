"""Announcements that no node may miss, such as revocations of users.

Messages of channels are lost for a node that is away. A node that missed a revocation would go on
serving a user who must not be served. So announcements are kept in Redis, in a list that has a
bound: a counter numbers the announcements, and each node knows the number of the last one that it
has read. A node reads new announcements when its connection is there again, when another node
sends a hint, and with each heartbeat, so nothing depends on a message that may be lost.

A node can also find that it cannot know its losses: more was announced meanwhile than is kept,
Redis was restarted without its data, or a replica that lacks the last announcements took over. The
list's epoch, a random text of its life, and the last announcement that the node has read, which
has to be there still, show each of these.
"""

import secrets
from typing import Any, Final

from coredis import BaseConnection

from websuckets.broker import Receiver
from websuckets.redis.connection import AT_ONCE, RedisConnection, asked
from websuckets.redis.malformed import MalformedCounter
from websuckets.redis.scripts import OF_KIND

__all__ = ["Announcements"]

MOST: Final = 10_000
"""Number of announcements that are kept for nodes that are away."""

KEPT: Final = 24 * 60 * 60 * 1000
"""Milliseconds for which announcements are kept after the last heartbeat of any node."""

BEGIN: Final = (
    OF_KIND
    + """
local function begin(epoch, kept)
    if not is_of_kind(KEYS[1], 'hash') then redis.call('DEL', KEYS[2]) end
    if not is_of_kind(KEYS[2], 'list') then redis.call('DEL', KEYS[1]) end
    local found = redis.call('HMGET', KEYS[1], 'epoch', 'count')
    if not found[1] or not tonumber(found[2]) then
        redis.call('DEL', KEYS[1], KEYS[2])
        redis.call('HSET', KEYS[1], 'epoch', epoch, 'count', '0')
    end
    redis.call('PEXPIRE', KEYS[1], kept)
    redis.call('PEXPIRE', KEYS[2], kept)
end
"""
)

ANNOUNCE: Final = (
    BEGIN
    + """
begin(ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'count', 1)
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[4]), -1)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
"""
)
"""Script that adds an announcement and publishes a hint.

A node that misses the hint finds the announcement with its next heartbeat.
"""

READ: Final = (
    BEGIN
    + """
begin(ARGV[1], ARGV[2])
local state = redis.call('HMGET', KEYS[1], 'epoch', 'count')
local count, known = tonumber(state[2]), tonumber(ARGV[4])
local first = count - redis.call('LLEN', KEYS[2]) + 1
local is_sure = state[1] == ARGV[3] and known <= count and known + 1 >= first
if is_sure and known > 0 then
    is_sure = redis.call('LINDEX', KEYS[2], known - first) == ARGV[5]
end
if not is_sure then
    return {'lost', state[1], count, redis.call('LINDEX', KEYS[2], -1) or ''}
end
local found = redis.call('LRANGE', KEYS[2], known - first + 1, known - first + ARGV[6])
return {'sure', unpack(found)}
"""
)
"""Script that returns the first announcements after the last one that the node knows.

Where these cannot be told, the script returns ``lost`` and where to go on.
"""


class Announcements:
    """Announcements of all nodes, as one node sees them; lives as long as the node's link."""

    def __init__(
        self,
        redis: RedisConnection,
        names: tuple[str, str],
        channel: str,
        receiver: Receiver,
        malformed: MalformedCounter,
    ) -> None:
        self._redis = redis
        self._names = names
        self._channel = channel
        self._receiver = receiver
        self._malformed = malformed
        self._id = secrets.token_hex(8).encode()
        self._epoch = b""
        self._known = 0
        self._last = b""

    async def announce(self, announcement: bytes, hint: bytes) -> None:
        """Keep an announcement for all other nodes. Raises `Unavailable`."""
        entry = b"%s %s\n%s" % (self._id, secrets.token_hex(8).encode(), announcement)
        values = (MOST, self._channel, hint)
        await self._redis.ask(*self._script(ANNOUNCE, entry, *values))

    async def read(self, connection: BaseConnection) -> None:
        """Hand on the announcements of other nodes since the last call, or report a loss."""
        while True:
            place = (self._epoch, self._known, self._last, AT_ONCE)
            ((outcome, *found),) = await asked(connection, [self._script(READ, *place)])
            if outcome == b"lost":
                self._epoch, self._known, self._last = found
                self._receiver.missed_announcements()
                return
            for entry in found:
                self._known += 1
                self._last = entry
                self._receive(entry)
            if len(found) < AT_ONCE:
                return

    def _receive(self, entry: bytes) -> None:
        head, _, announcement = entry.partition(b"\n")
        if head.partition(b" ")[0] == self._id:  # announced by this node
            return
        try:
            self._receiver.announced(announcement)
        except ValueError:
            self._malformed.found(self._names[1])

    def _script(self, script: str, *values: Any) -> tuple[Any, ...]:
        epoch = secrets.token_hex(8)
        return (b"EVAL", script, len(self._names), *self._names, epoch, KEPT, *values)
