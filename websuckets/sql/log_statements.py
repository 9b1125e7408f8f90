"""Statements of the log of events in SQL, each of which sees and changes it as one step.

The row of a channel has the offset of its last event. Whoever appends changes this row first, and
so holds its lock until the commit: offsets have no gap, and no event comes before one that was
committed earlier. A row belongs to one life of the log, which an epoch names. When the number of
the life in ``websuckets_log`` has grown, the next event of each channel begins anew with offset 1.
A statement that still sees the life before counts on in the life that it finds in the channel, so
that a channel never goes back.
"""

import json
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Double,
    Executable,
    Text,
    bindparam,
    case,
    column,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from websuckets.history import HistoryLost, LoggedEvent, Position, Publication
from websuckets.sql.errors import execute
from websuckets.sql.tables import channels, events, log
from websuckets.sql.texts import Hidden, restored, stored, stored_as_is

__all__ = ["append", "begin_epoch", "begin_new_epoch", "positions", "read"]

ONE: Final = 1
"""The ``id`` of the one row of `log`."""


class _Statements(NamedTuple):
    """Statements for a dialect, which SQLAlchemy compiles once for each engine."""

    positions: Executable
    begin_epoch: Executable
    begin_new_epoch: Executable


def _statements(insert: Any, is_one_of_these: Any) -> _Statements:
    row = {"id": ONE, "life": 1, "epoch": bindparam("new_epoch")}
    first = insert(log).values(row).inline()
    new = {"life": log.c.life + 1, "epoch": bindparam("new_epoch")}
    # A row without the columns of tables that have none, so that their lack is seen in one step.
    nothing = select(literal(1)).subquery()
    return _Statements(
        positions=select(log.c.epoch, channels.c.channel, channels.c.head).select_from(
            nothing.outerjoin(log, log.c.id == ONE).outerjoin(
                channels, (channels.c.life == log.c.life) & is_one_of_these
            )
        ),
        begin_epoch=first.on_conflict_do_nothing(index_elements=["id"]),
        begin_new_epoch=first.on_conflict_do_update(index_elements=["id"], set_=new),
    )


def _counting(insert: Any, given: Any) -> Any:
    """Return the statement that adds numbers of events to the heads of channels.

    ``given`` selects the channel, the number and the size, and the life and epoch of the log.
    """
    counting = insert(channels).from_select(["channel", "life", "epoch", "head", "size"], given)
    new = counting.excluded
    is_new = channels.c.life < new.life
    return counting.on_conflict_do_update(
        index_elements=["channel"],
        set_={
            "life": case((is_new, new.life), else_=channels.c.life),
            "epoch": case((is_new, new.epoch), else_=channels.c.epoch),
            "head": case((is_new, new.head), else_=channels.c.head + new.head),
            "size": new.size,
        },
    ).returning(channels.c.channel, channels.c.life, channels.c.epoch, channels.c.head)


def _rows_of(name: str, **types: Any) -> Any:
    """Return arrays, which are parameters named as ``types``, as the columns of one table."""
    arrays = [bindparam(f"{name}_{each}", type_=ARRAY(kind)) for each, kind in types.items()]
    columns = [column(each, kind) for each, kind in types.items()]
    rows = func.unnest(*arrays).table_valued(*columns, with_ordinality="nth")
    return rows.render_derived(name=name)


def _row_of(name: str, **types: Any) -> Any:
    """Return parameters named as ``types``, each a value, as the columns of one row."""
    values = [bindparam(f"{name}_{each}", type_=kind).label(each) for each, kind in types.items()]
    return select(*values, literal(1).label("nth")).subquery(name)


def _appending(given: Any) -> Executable:
    """Return the statement by which PostgreSQL counts and inserts events.

    ``given`` makes a table of parameters.
    """
    counts = given("counts", channel=Text, number=BigInteger, size=BigInteger)
    heads = _counting(
        postgresql.insert,
        select(counts.c.channel, log.c.life, log.c.epoch, counts.c.number, counts.c.size)
        .join_from(counts, log, log.c.id == ONE)
        .order_by(counts.c.nth),  # in which the rows are locked
    ).cte("heads")
    new = given("new", channel=Text, behind=BigInteger, frame=Text, excluded=Text, expires=Double)
    inserted = (
        insert(events)
        .from_select(
            ["channel", "life", "offset", "frame", "excluded", "expires"],
            select(
                new.c.channel,
                heads.c.life,
                heads.c.head - new.c.behind,
                new.c.frame,
                new.c.excluded,
                new.c.expires,
            ).join_from(new, heads, heads.c.channel == new.c.channel),
        )
        .cte("inserted")
    )
    return select(heads).add_cte(inserted)


APPEND_ONE, APPEND_MANY = _appending(_row_of), _appending(_rows_of)
"""Statements of PostgreSQL; one event is so frequent that it has one of its own."""

COUNT: Final = _counting(
    sqlite.insert,
    select(
        bindparam("channel", type_=Text),
        log.c.life,
        log.c.epoch,
        bindparam("number", type_=BigInteger),
        bindparam("size", type_=BigInteger),
    ).where(log.c.id == ONE),
)
"""Statement by which SQLite counts events, before it inserts them."""

INSERT: Final = insert(events).inline()

STATEMENTS: Final = {
    "postgresql": _statements(
        postgresql.insert,
        channels.c.channel == func.any(bindparam("channels", type_=ARRAY(Text))),
    ),
    "sqlite": _statements(
        sqlite.insert,
        channels.c.channel.in_(
            select(func.json_each(bindparam("channels", type_=Text)).table_valued("value").c.value)
        ),
    ),
}
"""Statements by the name of SQLAlchemy's dialect."""

READ: Final = (
    select(log.c.epoch, channels.c.head, events.c.offset, events.c.frame, events.c.excluded)
    .select_from(log)
    .outerjoin(
        channels,
        (channels.c.channel == bindparam("of_channel")) & (channels.c.life == log.c.life),
    )
    .outerjoin(
        events,
        (events.c.channel == channels.c.channel)
        & (events.c.life == channels.c.life)
        & (events.c.offset > bindparam("since"))
        & (events.c.offset <= bindparam("last"))
        & (events.c.offset > channels.c.head - channels.c.size)
        & (events.c.expires > bindparam("now")),
    )
    .where(log.c.id == ONE)
    .order_by(events.c.offset)
)
"""Statement that reads a page, with the head also for a position behind all events."""

LARGEST: Final = 2**62
"""Offset to which no log comes, and to which a page may be added within 64 bits."""


class _Head(NamedTuple):
    """A channel after its events were counted."""

    life: int
    epoch: str
    offset: int


def append(
    connection: Connection, publications: Sequence[Publication], now: float
) -> list[Position] | None:
    """Append events, and return the positions behind them; ``None`` if the log has no epoch yet.

    The rows of channels are locked in the order in which ``publications`` name them. ``now`` is the
    time in seconds.
    """
    names = [stored(publication.channel) for publication in publications]
    numbers = Counter(names)
    sizes = {name: given.history.size for name, given in zip(names, publications, strict=True)}
    left = Counter(names)
    rows: list[dict[str, Any]] = []
    for name, given in zip(names, publications, strict=True):
        left[name] -= 1
        rows.append(
            {
                "channel": name,
                "behind": left[name],
                "frame": stored_as_is(given.frame.decode()),
                "excluded": stored_as_is(given.excluded),
                "expires": now + given.history.seconds,
            }
        )
    counts = [{"channel": name, "number": numbers[name], "size": sizes[name]} for name in sizes]
    if _statements_for(connection) is STATEMENTS["postgresql"]:
        heads = _append_at_once(connection, counts, rows)
    else:
        heads = _append_in_turn(connection, counts, rows)
    if heads is None:
        return None
    return [
        Position(heads[row["channel"]].epoch, heads[row["channel"]].offset - row["behind"])
        for row in rows
    ]


_Rows: TypeAlias = list[dict[str, Any]]
_Heads: TypeAlias = dict[str, _Head] | None


def _append_at_once(connection: Connection, counts: _Rows, rows: _Rows) -> _Heads:
    tables = {"counts": counts, "new": rows}
    if len(rows) == 1:
        values = {f"{name}_{key}": of[0][key] for name, of in tables.items() for key in of[0]}
        found = execute(connection, APPEND_ONE, values)
    else:
        arrays = {
            f"{name}_{key}": [row[key] for row in of]
            for name, of in tables.items()
            for key in of[0]
        }
        found = execute(connection, APPEND_MANY, arrays)
    return {row.channel: _Head(row.life, row.epoch, row.head) for row in found} or None


def _append_in_turn(connection: Connection, counts: _Rows, rows: _Rows) -> _Heads:
    heads: dict[str, _Head] = {}
    for count in counts:
        found = execute(connection, COUNT, count).one_or_none()
        if found is None:
            return None
        heads[found.channel] = _Head(found.life, found.epoch, found.head)
    for row in rows:
        head = heads[row["channel"]]
        row |= {"life": head.life, "offset": head.offset - row["behind"]}
    execute(connection, INSERT, rows)
    return heads


def positions(connection: Connection, names: Sequence[str]) -> list[Position] | None:
    """Return the positions behind the last events of channels; ``None`` if the log has no epoch."""
    kept = [stored(name) for name in names]
    given: Any = kept
    if connection.dialect.name == "sqlite":
        given = Hidden(json.dumps(kept, ensure_ascii=False))
    found = execute(connection, _statements_for(connection).positions, {"channels": given}).all()
    epoch = found[0].epoch
    if epoch is None:
        return None
    heads = {row.channel: row.head for row in found}
    return [Position(epoch, heads.get(name, 0)) for name in kept]


def read(
    connection: Connection, channel: str, since: Position, limit: int, now: float
) -> list[LoggedEvent]:
    """Return the first ``limit`` events behind a position; ``now`` is the time in seconds.

    Raises `HistoryLost`.
    """
    start = since.offset
    if 0 <= start < LARGEST:
        last = start + min(limit, LARGEST)
        values = {"of_channel": stored(channel), "since": start, "last": last, "now": now}
        found = execute(connection, READ, values).all()
        if found and found[0].epoch == since.epoch:
            head = found[0].head or 0
            page = [
                LoggedEvent(row.offset, restored(row.frame).encode(), restored(row.excluded))
                for row in found
                if row.offset is not None
            ]
            if start <= head and len(page) == min(last, head) - start:
                return page
    raise HistoryLost(f"events of {channel!r:.80} are not kept any more")


def begin_epoch(connection: Connection) -> None:
    """Make the first epoch, unless there is one: another node may have made it meanwhile."""
    _begin(connection, _statements_for(connection).begin_epoch)


def begin_new_epoch(connection: Connection) -> None:
    """Replace the epoch by a new one."""
    _begin(connection, _statements_for(connection).begin_new_epoch)


def _begin(connection: Connection, statement: Executable) -> None:
    execute(connection, statement, {"new_epoch": secrets.token_hex(8)})


def _statements_for(connection: Connection) -> _Statements:
    name = connection.dialect.name
    if name not in STATEMENTS:
        raise RuntimeError(f"SqlProvider keeps events in SQLite and PostgreSQL, not in {name}")
    return STATEMENTS[name]
