"""Effect and reply of a command in one transaction of a database; needs the extra ``sql``."""

from importlib.util import find_spec

if find_spec("sqlalchemy") is None:
    raise ImportError(
        'websuckets.sql needs SQLAlchemy: install websuckets with its extra "sql", from a '
        'checkout by: pip install ".[sql]"'
    )

from websuckets.sql.creation import create_tables
from websuckets.sql.provider import SqlProvider
from websuckets.sql.sqlite import sqlite_engine
from websuckets.sql.tables import metadata

__all__ = ["SqlProvider", "create_tables", "metadata", "sqlite_engine"]
