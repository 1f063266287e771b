"""The tables of the listener's store, in SQLite or PostgreSQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
)
from sqlalchemy.exc import IntegrityError, ProgrammingError

METADATA = MetaData()

EVENTS = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("delivery", Text),
    Column("changes", JSON, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("why", Text, nullable=False),
    UniqueConstraint("path", "delivery"),
)

RUNS = Table(
    "runs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("build", Text, nullable=False, index=True),
    Column("owner", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("after", Integer),
    Column("began", Float, nullable=False),
    Column("beat", Float, nullable=False),
    Column("ended", Float),
    Column("changed", JSON, nullable=False),
    Column("step", JSON, nullable=False),
    Column("result", JSON, nullable=False),
    Column("error", Text, nullable=False),
)
_OPEN = RUNS.c.ended.is_(None)
Index("one_at_a_time", RUNS.c.build, unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN)

LEADS = Table(
    "leads",
    METADATA,
    Column("event", ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    Column("build", Text, primary_key=True),
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), index=True),
)

WANTS = Table(
    "wants",
    METADATA,
    Column("build", Text, primary_key=True),
    Column("since", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("after", Integer),
)

TALLIES = Table(
    "tallies",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("first", Text, primary_key=True),
    Column("second", Text, primary_key=True),
    Column("number", Float, nullable=False),
)

BUSY = 30
"""Seconds that a writer waits for others."""


def open_engine(url: str) -> Engine:
    """The database at a URL, with its tables; of SQLite, with a log that others read while one writes, on the disk
    before a transaction counts.
    """
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"), pool_size=8)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _ready)
        event.listen(engine, "begin", _begin)
    try:
        METADATA.create_all(engine)
    except (IntegrityError, ProgrammingError):  # another has just made some of them
        METADATA.create_all(engine)
    return engine


def _ready(connection: Any, _: object) -> None:
    connection.isolation_level = None  # SQLAlchemy begins, not the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    """A transaction is a writer's from its start: one that reads first could not become one later."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
