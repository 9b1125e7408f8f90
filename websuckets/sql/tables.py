"""Tables that websuckets keeps in the database of a program."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)

__all__ = ["channels", "events", "log", "metadata", "replies"]

metadata: Final = MetaData()
"""Tables of websuckets, as SQLAlchemy describes them, for migrations: in the ``env.py`` of Alembic
``target_metadata = [Base.metadata, websuckets.sql.metadata]``."""

replies: Final = Table(
    "websuckets_replies",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("frame", Text),  # NULL until the handler has returned
    Column("expires", Double, nullable=False, index=True),  # seconds since the epoch
)
"""Replies of commands that have taken effect, and of the commands that are taking effect."""

log: Final = Table(
    "websuckets_log",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),  # always 1
    Column("life", BigInteger, nullable=False),  # number of the epoch, from 1
    Column("epoch", Text, nullable=False),
)
"""Log of the events of all channels: one row, which is made when it is first needed."""

channels: Final = Table(
    "websuckets_channels",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("life", BigInteger, nullable=False),  # of the last event, as is the rest of the row
    Column("epoch", Text, nullable=False),
    Column("head", BigInteger, nullable=False),  # offset
    Column("size", BigInteger, nullable=False),  # events that are kept
)
"""Channels that have had an event. A row stays, also when all events of the channel are deleted:
without it, the offsets would begin anew within the epoch."""

events: Final = Table(
    "websuckets_events",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("life", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("frame", Text, nullable=False),
    Column("excluded", Text, nullable=False),  # id of a connection, or empty
    Column("expires", Double, nullable=False, index=True),  # seconds since the epoch of clocks
)
"""Events of channels with a history, and for some time those that are not kept any more."""
