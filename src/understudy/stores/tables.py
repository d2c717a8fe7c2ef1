"""The tables of the record store as they are at the newest revision (``migrations`` leads there).

Text that is compared or ordered is so by code point: SQLite's default, collation "C" in PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import postgresql

METADATA = MetaData()

_NAME = String().with_variant(postgresql.VARCHAR(collation="C"), "postgresql")

RECORDS = Table(
    "records",
    METADATA,
    Column("kind", _NAME, primary_key=True),
    Column("name", _NAME, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("created_at_s", Double, nullable=False),
    Column("modified_at_s", Double, nullable=False),
    Column("status", _NAME),
    Column("body", Text, nullable=False),
    Index("records_by_creation", "kind", "created_at_s", "name"),
)

EVENTS = Table(
    "events",
    METADATA,
    # SQLite gives out rowids only to a column of the exact type INTEGER.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("subject", _NAME, nullable=False),
    Column("kind", _NAME, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("detail", Text, nullable=False),
    Index("events_by_subject", "subject", "sequence"),
    sqlite_autoincrement=True,  # a number is never given out twice
)
