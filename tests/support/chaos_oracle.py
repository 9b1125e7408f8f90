"""Oracle of the chaos run: judges histories, and returns every promise that was broken."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from chaos_history import (
    Acknowledged,
    At,
    Disturbance,
    Effect,
    GapTold,
    Histories,
    Left,
    Log,
    Seen,
    Subscribed,
    Value,
)

LEASE: Final = 6.5
"""Seconds for which a claim in Redis lives on, at least, when its node cannot renew it: it has a
lease of 10 seconds, which is renewed every third of it."""

WINDOW: Final = 12.0
"""Seconds behind an effect in which its transaction commits and its reply is stored, at most."""

NEAR: Final = 3.0
"""Seconds between two disturbances in which a node does not come to itself, as a rule."""


class Violation(NamedTuple):
    """Broken promise."""

    kind: str
    text: str


class Verdict(NamedTuple):
    violations: list[Violation]
    in_window: int
    """Commands with several effects whose node died or lost its claim before it stored a reply."""
    unknown: int
    """Commands with several effects whose node lost the database's answer to a commit."""
    unlogged: int
    """Effects whose event is in no log, which a log in Redis allows."""


def judge(histories: Histories) -> Verdict:
    """Return all violations, those of one kind together."""
    streams = Streams(histories)
    violations = [
        *_effects(histories),
        *_items(histories),
        *streams.violations,
        *_events(histories, streams.events),
        *_logs(histories),
        *_ends(histories),
    ]
    in_window = unknown = 0
    for command, effects in _several(histories):
        if _is_explained(histories, effects, _lost_replies):
            in_window += 1
        elif _is_explained(histories, effects, _lost_replies_and_commits):
            unknown += 1
        else:
            at = "; ".join(
                f"{effect.id} by {effect.node} ({_circumstances(histories, effect)})"
                for effect in effects
            )
            violations.append(Violation("effect twice", f"{command}: effects {at}"))
    known = {effect for effect, _ in streams.events.values()}
    known |= {effect for log in histories.logs.values() for effect, _ in log.events.values()}
    unlogged = sum(
        effect.id not in known and _keeps_all(histories, effect.board)
        for effect in histories.effects
    )
    return Verdict(violations, in_window, unknown, unlogged)


def _keeps_all(histories: Histories, channel: str) -> bool:
    log = histories.logs.get(channel)
    return log is None or log.head <= histories.size.get(channel, 0)


# Effects


def _effects(histories: Histories) -> Iterator[Violation]:
    of_command = defaultdict(set)
    for effect in histories.effects:
        of_command[effect.command].add(effect.id)
        if effect.command in histories.doomed:
            yield Violation("effect of a rolled-back transaction", f"{effect.command}: {effect.id}")
    acknowledged: dict[str, set[int]] = defaultdict(set)
    for records in histories.records.values():
        for record in records:
            if isinstance(record, Acknowledged):
                acknowledged[record.command].add(record.effect)
    for command, effects in acknowledged.items():
        if command in histories.doomed:
            yield Violation("acknowledged although it was rolled back", command)
        for lost in effects - of_command[command]:
            yield Violation("acknowledged without its effect", f"{command}: effect {lost}")
        if len(effects) > 1:
            yield Violation("different replies", f"{command}: effects {sorted(effects)}")


def _several(histories: Histories) -> Iterator[tuple[str, list[Effect]]]:
    """Yield commands with more than one effect, and their effects in the order of time."""
    of_command = defaultdict(list)
    for effect in histories.effects:
        of_command[effect.command].append(effect)
    for command, effects in of_command.items():
        if len(effects) > 1:
            yield command, sorted(effects, key=lambda effect: effect.id)


Reasons: TypeAlias = Callable[[Histories, str], Iterable[Disturbance]]


def _is_explained(histories: Histories, effects: list[Effect], reasons: Reasons) -> bool:
    """Tell whether each effect but the last was made by a node that could not store its reply.

    A store that shares the transaction has no such excuse.
    """
    return histories.log == "redis" and all(
        any(
            reason.begin < effect.at + WINDOW and reason.end > effect.at
            for reason in reasons(histories, effect.node)
        )
        for effect in effects[:-1]
    )


def _lost_replies_and_commits(histories: Histories, node: str) -> Iterator[Disturbance]:
    """Yield also what kept a process from knowing that it had committed.

    The client gets an error then, and sends its command again.
    """
    yield from _lost_replies(histories, node)
    for each in histories.disturbances:
        if each.node == node and each.cause == "no database":
            yield each


def _lost_replies(histories: Histories, node: str) -> Iterator[Disturbance]:
    """Yield what kept a process from storing a reply in time.

    It died, or it was stopped or without its Redis for longer than the lease of its claims.
    """
    of_node = [each for each in histories.disturbances if each.node == node]
    yield from (each for each in of_node if each.cause == "killed")
    long: Disturbance | None = None
    for each in sorted(of_node, key=lambda disturbance: disturbance.begin):
        if each.cause not in ("stopped", "no redis"):
            continue
        if long is not None and each.begin - long.end < NEAR:
            long = long._replace(end=max(long.end, each.end))
        else:
            long = each
        if long.end - long.begin > LEASE:
            yield long


def _circumstances(histories: Histories, effect: Effect) -> str:
    """Return what happened to the node of an effect at the time."""
    found = [
        f"{each.cause} from {each.begin - effect.at:+.1f} to {each.end - effect.at:+.1f} s"
        for each in histories.disturbances
        if each.node == effect.node
        and each.begin < effect.at + WINDOW
        and each.end > effect.at - NEAR
    ]
    return ", ".join(found) or "nothing happened"


def _items(histories: Histories) -> Iterator[Violation]:
    expected: dict[tuple[str, str], Value] = defaultdict(lambda: Value(0, 0))
    for effect in histories.effects:
        value, version = expected[effect.board, effect.item]
        expected[effect.board, effect.item] = Value(value + effect.amount, version + 1)
    found = {
        (board, item): value
        for board, items in histories.items.items()
        for item, value in items.items()
    }
    for board, item in sorted(expected.keys() | found.keys()):
        theirs, ours = found.get((board, item)), expected.get((board, item))
        if theirs != ours:
            text = f"{board} {item}: {theirs} in the database, {ours} by its effects"
            yield Violation("item that is not the sum of its effects", text)


# Streams of events


class _Stream:
    """Events of one channel on one connection."""

    def __init__(self, epoch: str, following: int) -> None:
        self.epoch: str | None = epoch
        self.following: int | None = following
        """Next offset; ``None`` after a gap that was told."""
        self.most: int | None = None
        """Highest offset that may come next after a gap."""
        self.unsent: int | None = None
        """Next offset that the connection has not got before it was told the present position, to
        which it was subscribed already; 0 for any offset."""
        self.pending: list[Seen] = []
        """Events of an epoch that is not known yet."""


class Streams:
    """Streams of all clients, whose order is checked as they are read."""

    def __init__(self, histories: Histories) -> None:
        self.violations: list[Violation] = []
        self.events: dict[tuple[str, str, int], tuple[int, str]] = {}
        """Effect and command of each event that anybody has seen, by channel, epoch and offset."""
        for client, records in histories.records.items():
            self._client = client
            self._streams: dict[str, _Stream] = {}
            self._last: dict[str, At] = {}
            for record in records:
                match record:
                    case Subscribed():
                        self._subscribed(record, histories)
                    case Seen():
                        self._seen(record)
                    case GapTold(channel) if channel in self._streams:
                        self._gap_told(channel, histories)
                    case Left():
                        self._streams = {}
            self._check_ends(histories)

    def _found(self, kind: str, text: str) -> None:
        self.violations.append(Violation(kind, f"{self._client}: {text}"))

    def _subscribed(self, record: Subscribed, histories: Histories) -> None:
        stream = self._streams.get(record.channel)
        if record.recovered is False:
            self._check_reload(record, histories)
        start = record.at
        if record.recovered:
            assert record.since is not None
            start = record.since
            if start.epoch != record.at.epoch or start.offset > record.at.offset:
                self._found("recovered from elsewhere", str(record))
        if stream is not None:
            for seen in stream.pending:
                self._note(record.at.epoch, seen)
        # A connection that is subscribed already begins anew, too: at what the reply tells, or
        # where it was, because somebody else on the connection may not have got more.
        begun = self._streams[record.channel] = _Stream(start.epoch, start.offset + 1)
        if stream is not None and stream.following is None:
            begun.unsent = 0
        elif stream is not None and stream.epoch in (None, start.epoch):
            assert stream.following is not None
            begun.unsent = min(stream.unsent or stream.following, stream.following)

    def _gap_told(self, channel: str, histories: Histories) -> None:
        """Begin anew; a log that keeps enough and loses nothing gives no reason for it."""
        stream, log = self._streams[channel], histories.logs.get(channel)
        keeps_enough = histories.size.get(channel, 0) >= histories.recovery
        if log is not None and log.epoch == stream.epoch and keeps_enough:
            self._found("needless gap", f"{channel} before {stream.following}")
        stream.epoch = stream.following = stream.most = None
        stream.pending = []

    def _check_reload(self, record: Subscribed, histories: Histories) -> None:
        """Check that a client that must reload could not have recovered."""
        since, size = record.since, histories.size.get(record.channel, 0)
        if since is None or since.epoch != record.at.epoch:
            return
        missed = record.at.offset - since.offset
        # Half of what is kept, as others may have appended since the position was read.
        if 0 <= missed <= min(size, histories.recovery) // 2 and size >= histories.recovery:
            self._found("needless reload", f"{record.channel} since {since}, at {record.at}")

    def _seen(self, seen: Seen) -> None:
        stream = self._streams.get(seen.channel)
        where = f"{seen.channel} {seen.offset}"
        if stream is None:
            self._found("event without a subscription", where)
            return
        if stream.following is None:
            if stream.most is not None and seen.offset > stream.most:
                self._found("gap that was not told", f"{where}, but {stream.most} is missing")
        elif seen.offset < stream.following and stream.unsent in (0, seen.offset):
            stream.unsent = seen.offset + 1
            if stream.epoch is not None:
                self._note(stream.epoch, seen)
            return
        elif seen.offset < stream.following:
            self._found("duplicate or out of order", f"{where} instead of {stream.following}")
        elif seen.offset > stream.following:
            self._found("gap that was not told", f"{where} instead of {stream.following}")
        stream.following, stream.unsent = seen.offset + 1, None
        if stream.epoch is None:
            stream.pending.append(seen)
        else:
            self._note(stream.epoch, seen)

    def _note(self, epoch: str, seen: Seen) -> None:
        place, event = (seen.channel, epoch, seen.offset), (seen.effect, seen.command)
        other = self.events.setdefault(place, event)
        if other != event:
            self._found("one offset, two events", f"{place}: {event} and {other}")

    def _check_ends(self, histories: Histories) -> None:
        """Check that a client that is still connected has got everything."""
        for channel, stream in self._streams.items():
            log = histories.logs.get(channel)
            if log is None or (stream.epoch, stream.following) == (log.epoch, log.head + 1):
                continue
            if stream.following is None and stream.epoch == log.epoch:
                if stream.most == log.head + 1:
                    continue
            place = f"{channel} is at {log.epoch} {log.head}"
            self._found("events that never came", f"{place}, next is {stream.following}")


# Events and their logs


def _events(
    histories: Histories, seen: dict[tuple[str, str, int], tuple[int, str]]
) -> Iterator[Violation]:
    committed = {effect.id: effect.command for effect in histories.effects}
    all_events = dict(seen)
    for channel, log in histories.logs.items():
        for offset, event in log.events.items():
            place = (channel, log.epoch, offset)
            if all_events.setdefault(place, event) != event:
                text = f"{place}: {event} in the log, {all_events[place]} was sent"
                yield Violation("one offset, two events", text)
    for place, (effect, command) in all_events.items():
        if committed.get(effect) != command:
            text = f"{place}: effect {effect} of {command}"
            yield Violation("event of a rolled-back transaction", text)
    for effect, times in Counter(effect for effect, _ in all_events.values()).items():
        places = [place for place, event in all_events.items() if event[0] == effect]
        if times > 1:
            yield Violation("event twice in a log", f"effect {effect} at {places}")


def _logs(histories: Histories) -> Iterator[Violation]:
    effects: dict[str, set[int]] = defaultdict(set)
    for effect in histories.effects:
        effects[effect.board].add(effect.id)
    for channel, log in sorted(histories.logs.items()):
        kept = min(histories.size.get(channel, log.head), log.head)
        missing = set(range(log.head - kept + 1, log.head + 1)) - log.events.keys()
        if missing:
            yield Violation("hole in a log", f"{channel}: {_some(missing)}")
        if max(log.events, default=0) > log.head:
            yield Violation("event beyond the head of its log", channel)
        if histories.log == "sql":
            yield from _in_sql(channel, log, effects[channel], kept)
    if histories.log == "sql":
        for channel in effects.keys() - histories.logs.keys():
            yield Violation("effect without its event", f"{channel} has no log")


def _in_sql(channel: str, log: Log, effects: set[int], kept: int) -> Iterator[Violation]:
    """Yield what is wrong in a log whose events exist if and only if their effects do."""
    if log.head != len(effects):
        text = f"{channel}: {log.head} events, {len(effects)} effects"
        yield Violation("effect without its event", text)
    if kept == log.head:
        missing = effects - {effect for effect, _ in log.events.values()}
        if missing:
            yield Violation("effect without its event", f"{channel}: {_some(missing)}")


def _some(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)[:10])) + (" ..." if len(numbers) > 10 else "")


# Ends


def _ends(histories: Histories) -> Iterator[Violation]:
    if histories.log == "sql":
        yield from _screens(histories)
    for text in histories.unfinished:
        yield Violation("not finished in time", text)
    for node, number in histories.open_connections.items():
        if number:
            yield Violation("connection left open", f"{number} on {node}")
    if histories.open_transactions:
        yield Violation("transaction left open", str(histories.open_transactions))
    for node in histories.dead_nodes:
        yield Violation("node that ended by itself", node)


def _screens(histories: Histories) -> Iterator[Violation]:
    for client, boards in histories.screens.items():
        for board, items in boards.items():
            truth = histories.items.get(board, {})
            for item in sorted(items.keys() | truth.keys()):
                if items.get(item) != truth.get(item):
                    shown, real = items.get(item), truth.get(item)
                    text = f"{client}: {board} {item} shows {shown} instead of {real}"
                    yield Violation("screen that differs from the database", text)
