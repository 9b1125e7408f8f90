"""Log of Redis for the events of channels: a hash and a stream for each channel.

The problem: all nodes append to the log of a channel, which counts its events without a gap; the
answer of Redis to an append may be lost, though the event is there; and Redis may lose anything, or
all, of what it keeps.

The solution: each step is one script.

- A hash has the epoch of the channel and the offset of its last event, and a stream the events. The
  id of an entry is the offset, and then the time in milliseconds at which the event came, so that
  the id tells the age of the event. It is the time of Redis: one clock for all nodes, while those
  of the nodes may differ.
- `append` counts, adds the entry, removes what the channel does not keep any more, and publishes
  the hint for other nodes. So neither of the two is there without the other; a hint may get lost
  all the same.
- The position of a publication is kept for `REMEMBERED` seconds under the publication's id. Where a
  connection is lost before the answer came, the publication is appended again, for `TIME_TO_RETRY`
  seconds: it is there once, and has the position that it got first.
- A stream ends with its last event. The hash stays for at least a week longer than the stream:
  while the hash is there, a client that has seen all events goes on when it is back, and the epoch
  of a channel on which a node has clients never ends.
- What cannot be continued begins a new epoch: a channel without a hash, or with a hash that no node
  has written; a stream that is ahead of its hash. An event that is not in the stream is a loss to
  those who read it, and to nobody else.
- All channels share one key, whose random text names their generation. A hash of another generation
  counts for nothing, so `new_epoch` writes this one key.

The envelope of hints is that of the log, not that of the node's link. So a node also gets the hints
of its own events, which cost it little, as they are not behind its cursor; but where the answer to
an append was lost, or the one who asked was cancelled, the clients of that node learn of the event
at once.

The log is as safe as Redis keeps it. A failover to a replica that does not have the last events yet
takes them back: the head of a channel is then lower than before, and nodes that have seen more tell
their clients of a gap. Who restores Redis from a copy has to call `new_epoch`.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final

import anyio

from websuckets.exc import Unavailable
from websuckets.history import HistoryLost, LoggedEvent, Position, Publication
from websuckets.redis.broker import RedisBroker
from websuckets.redis.connection import AT_ONCE, Command, ConnectionLost
from websuckets.redis.messages import MESSAGE, Envelope
from websuckets.redis.scripts import NOW, OF_KIND
from websuckets.redis.topics import channel_of

__all__ = ["RedisLog"]

REMEMBERED: Final = 300.0
"""Seconds for which a publication that is appended again is known."""

TIME_TO_RETRY: Final = 3.0
"""Seconds for which a publication is appended again after the loss of a connection: a node needs
less to connect to a server that is there."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.2
"""Seconds between two attempts to append again, at first and at most."""

EPOCH: Final = 16
"""Characters of an epoch."""

DAY: Final = 86_400.0

HASH_LIFETIME: Final = 14 * DAY
"""Seconds for which a hash outlives its stream, counted from the last event; a hash without a
stream lives for as long, counted from its last renewal."""

RENEWED_AT: Final = 7 * DAY
"""Seconds that are left of a hash when it is renewed for being asked for.

Nodes ask for the positions of all channels that they have clients on, again and again; to renew
each hash each time would be a flood of writes.
"""

LONGEST: Final = 100 * 365 * DAY
"""Seconds after which the events of a channel end, at most: Redis refuses times far away."""

OLD_AT_ONCE: Final = 100
"""Events that are too old and are removed by one append, at most: Redis does nothing else then.

Nobody can read those that are left, and the next appends remove them.
"""

MOST: Final = 2**62
"""Number of events that a channel keeps, at most: Redis counts with 64 bits."""

HIGHEST: Final = 10**15
"""Number above each offset: the numbers of scripts are exact up to 2^53."""

STATE: Final = (
    OF_KIND
    + NOW
    + f"""
local malformed = 0
local function expect(key, kind)
    if not is_of_kind(key, kind) then malformed = malformed + 1 end
end
local function generation_at(key)
    expect(key, 'string')
    return redis.call('GET', key) or ''
end
local function log_at(key, generation)
    expect(key, 'hash')
    local found = redis.call('HMGET', key, 'epoch', 'offset', 'generation', 'lifetime')
    local epoch, offset = found[1], found[2]
    if not epoch and not offset then return end
    if not (epoch and offset) or #epoch ~= {EPOCH} or string.match(epoch, '%X')
        or #offset >= {len(str(HIGHEST))} or not string.match(offset, '^%d+$') then
        malformed = malformed + 1
        return
    end
    if found[3] ~= generation then return end
    return epoch, tonumber(offset), tonumber(found[4] or '')
end
local function text(number)
    return string.format('%.0f', number)
end
local function time_of(entry)
    return tonumber(string.match(entry[1], '%d+$'))
end
"""
)
"""Functions for what the keys of a channel have, which count what no node has written.

The epoch, the last offset and the lifetime of events in milliseconds are those of the hash, if it
is of this generation.
"""

APPEND: Final = (
    STATE
    + f"""
local hash, stream, generations, sent = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lifetime, excluded, frame = tonumber(ARGV[3]), ARGV[5], ARGV[6]
expect(sent, 'string')
local position = redis.call('GET', sent)
local epoch, offset = string.match(position or '', '^(%x+) (%d+)$')
if epoch and #offset < {len(str(HIGHEST))} then return {{malformed, epoch, offset}} end
if position then malformed = malformed + 1 end
local generation = generation_at(generations)
epoch, offset = log_at(hash, generation)
if not epoch then epoch, offset = ARGV[1], 0 end
local time = now()

local function add()
    offset = offset + 1
    redis.call('HSET', hash, 'epoch', epoch, 'offset', text(offset), 'generation', generation,
        'lifetime', ARGV[3])
    if offset == 1 then redis.call('UNLINK', stream) else expect(stream, 'stream') end
    return redis.pcall('XADD', stream, 'MAXLEN', ARGV[2], text(offset) .. '-' .. text(time),
        'excluded', excluded, 'frame', frame)
end

local added = add()
if type(added) == 'table' and offset > 1 then
    malformed = malformed + 1
    epoch, offset = ARGV[1], 0
    added = add()
end
if type(added) == 'table' then return added end
for _ = 1, {OLD_AT_ONCE} do
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if not first or time_of(first) > time - lifetime then break end
    redis.call('XDEL', stream, first[1])
end
redis.call('PEXPIRE', stream, ARGV[3])
redis.call('PEXPIRE', hash, ARGV[4])
redis.call('SET', sent, epoch .. ' ' .. text(offset), 'PX', {round(REMEMBERED * 1000)})
redis.pcall('PUBLISH', ARGV[7], ARGV[8] .. epoch .. '\\n' .. text(offset) .. '\\n' .. excluded
    .. '\\n' .. frame)
return {{malformed, epoch, text(offset)}}
"""
)
"""Script that appends an event, unless it has done so before.

Where memory is full, or a replica is missing, Redis refuses the first write of a script and no
later one, so the first write is one that needs memory. The first event of an epoch removes a stream
that another epoch has left; an entry that Redis does not accept shows that the hash is older than
the stream.
"""

READ: Final = (
    STATE
    + """
local epoch, last, lifetime = log_at(KEYS[1], generation_at(KEYS[3]))
local since = tonumber(ARGV[2])
if epoch ~= ARGV[1] or since > last then return {malformed} end
if since == last then return {malformed, {}} end
expect(KEYS[2], 'stream')
local found = redis.call('XRANGE', KEYS[2], text(since + 1) .. '-0', '+', 'COUNT', ARGV[3])
if #found == 0 or (lifetime and time_of(found[1]) <= now() - lifetime) then return {malformed} end
return {malformed, found}
"""
)
"""Script that reads a page; the answer has no page if the log has lost it.

An event that is too old is lost, though it is an append that removes it.
"""

POSITIONS: Final = (
    STATE
    + """
local generation = generation_at(KEYS[1])
local answers = {0}
for number = 2, #KEYS do
    local hash = KEYS[number]
    local epoch, offset = log_at(hash, generation)
    if not epoch then
        epoch, offset = ARGV[1], 0
        redis.call('HSET', hash, 'epoch', epoch, 'offset', '0', 'generation', generation)
        redis.call('PEXPIRE', hash, ARGV[2])
    elseif redis.call('PTTL', hash) < tonumber(ARGV[3]) then
        redis.call('PEXPIRE', hash, ARGV[2])
    end
    answers[#answers + 1] = epoch
    answers[#answers + 1] = text(offset)
end
answers[1] = malformed
return answers
"""
)
"""Script that gives epochs and offsets one after the other; it begins an epoch where none is."""


class RedisLog:
    """An `EventLog` of all nodes with the same Redis, by the connection of the broker (APP scope).

    Read the essay above about what the log promises.
    """

    def __init__(self, broker: RedisBroker) -> None:
        self._redis = broker.redis
        self._root = broker.root
        self._malformed = broker.malformed
        self._head = Envelope().head(MESSAGE)
        self._generations = f"{self._root}:epochs"

    @property
    def is_shared(self) -> bool:
        return True

    @property
    def publishes_hints(self) -> bool:
        return True

    async def append(self, publication: Publication) -> Position:
        command = self._appending(publication)
        try:
            answer = await self._redis.ask(*command)
        except ConnectionLost:
            answer = await self._repeated(command)
        malformed, epoch, offset = answer
        self._count(malformed)
        return Position(epoch.decode(), int(offset))

    async def read(self, channel: str, since: Position, limit: int) -> Sequence[LoggedEvent]:
        lost = HistoryLost(f"events of {channel!r:.80} are not kept any more")
        if not 0 <= since.offset < HIGHEST:
            raise lost
        keys = (self._hash(channel), self._stream(channel), self._generations)
        values = (since.epoch.encode("utf-8", "surrogatepass"), since.offset, limit)
        malformed, *pages = await self._redis.ask(b"EVAL", READ, len(keys), *keys, *values)
        self._count(malformed)
        if not pages:
            raise lost
        events: list[LoggedEvent] = []
        for offset, entry in enumerate(pages[0], since.offset + 1):
            event = self._event(entry)
            if event is None or event.offset != offset:
                raise lost
            events.append(event)
        return events

    async def position(self, channel: str) -> Position:
        (position,) = await self.positions([channel])
        return position

    async def positions(self, channels: Sequence[str]) -> Sequence[Position]:
        positions: list[Position] = []
        for start in range(0, len(channels), AT_ONCE):
            keys = (self._generations, *map(self._hash, channels[start : start + AT_ONCE]))
            values = (_new_epoch(), _milliseconds(HASH_LIFETIME), _milliseconds(RENEWED_AT))
            malformed, *found = await self._redis.ask(b"EVAL", POSITIONS, len(keys), *keys, *values)
            self._count(malformed)
            positions += [
                Position(epoch.decode(), int(offset))
                for epoch, offset in zip(found[::2], found[1::2], strict=True)
            ]
        return positions

    async def new_epoch(self) -> None:
        await self._redis.ask(b"SET", self._generations, _new_epoch())

    def _appending(self, publication: Publication) -> Command:
        channel, history = publication.channel, publication.history
        keys = (
            self._hash(channel),
            self._stream(channel),
            self._generations,
            f"{self._root}:published:{publication.id}:{channel}",
        )
        seconds = min(history.seconds, LONGEST)
        values = (
            _new_epoch(),
            min(history.size, MOST),
            _milliseconds(seconds),
            _milliseconds(seconds + HASH_LIFETIME),
            publication.excluded,
            publication.frame,
            channel_of(self._root, f"channel/{channel}"),
            self._head,
        )
        return (b"EVAL", APPEND, len(keys), *keys, *values)

    async def _repeated(self, command: Command) -> Any:
        """Return the answer to a command that may have been run. Raises `Unavailable`."""
        pause = FIRST_PAUSE
        with anyio.move_on_after(TIME_TO_RETRY):
            while True:
                await anyio.sleep(pause)
                with suppress(Unavailable):
                    return await self._redis.ask(*command)
                pause = min(2 * pause, LONGEST_PAUSE)
        raise Unavailable

    def _event(self, entry: Any) -> LoggedEvent | None:
        """Return the event of an entry of a stream; ``None`` for what no node has written."""
        match entry:
            case [bytes() as name, [b"excluded", bytes() as excluded, b"frame", bytes() as frame]]:
                with suppress(UnicodeDecodeError):
                    return LoggedEvent(int(name.partition(b"-")[0]), frame, excluded.decode())
        self._count(1)
        return None

    def _hash(self, channel: str) -> str:
        return f"{self._root}:log:{channel}"

    def _stream(self, channel: str) -> str:
        return f"{self._root}:events:{channel}"

    def _count(self, malformed: int) -> None:
        for _ in range(malformed):
            self._malformed.found(f"{self._root}:log")


def _new_epoch() -> str:
    return token_hex(EPOCH // 2)


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
