"""What outlasts a run: digests of files, open uploads, and where blobs are. None of it is needed, all saves time.

A SQLite file, because several packers may run at once and any of them may be killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from registry.blob import Blob, BytesBlob, FileBlob, TypedBlob
from registry.descriptor import Digest, digest_of
from registry.join import JoinedBlob
from registry.retry import Log, silent
from registry.upload import Journal, Session

_TABLES = """
create table if not exists digests (mark text primary key, digest text not null, used integer not null);
create table if not exists uploads (
    root text, repository text, digest text, location text, reached integer, least integer, opened integer,
    primary key (root, repository, digest));
create table if not exists places (root text, digest text, repository text, seen integer,
    primary key (root, digest, repository));
"""
_UPLOAD_DAYS, _DAYS = 7, 180
_DAY = 86400
_MAX_PLACES = 3
"""Repositories that are tried for a mount."""


class Memory:
    """A memory that lasts. Whatever goes wrong with its file is told once, and then nothing is remembered."""

    def __init__(self, path: Path | None = None, log: Log = silent) -> None:
        self._path, self._log, self._lock = path, log, Lock()
        self._connection: sqlite3.Connection | None = None

    def recall(self, mark: str) -> Digest | None:
        """The digest of what has this mark (`mark_of`), if it is known."""
        rows = self._do("select digest from digests where mark = ?", mark) if mark else []
        return Digest(rows[0][0]) if rows else None

    def digest(self, mark: str, compute: Callable[[], Digest]) -> Digest:
        """The digest of what has this mark, computed if it is not known; of what has none, always."""
        if known := self.recall(mark):
            return known
        digest = compute()
        if mark:
            self._do("insert or replace into digests values (?, ?, ?)", mark, digest, _now())
        return digest

    def forget(self, digest: Digest) -> None:
        """Forget that anything has this digest."""
        self._do("delete from digests where digest = ?", digest)

    def places(self, root: str, digest: Digest) -> list[str]:
        """Repositories of a registry that had a blob, the last one first."""
        statement = "select repository from places where root = ? and digest = ? order by seen desc limit ?"
        return [str(row[0]) for row in self._do(statement, root, digest, _MAX_PLACES)]

    def saw(self, root: str, repository: str, digest: Digest) -> None:
        """Keep that a repository has a blob."""
        self._do("insert or replace into places values (?, ?, ?, ?)", root, digest, repository, _now())

    def journal(self, root: str, repository: str) -> Journal:
        """The uploads into one repository."""
        return _Uploads(self, root, repository)

    def _do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            if self._path is None:
                return []
            try:
                if self._connection is None:
                    self._connection = _opened(self._path)
                return self._connection.execute(statement, values).fetchall()
            except (sqlite3.Error, OSError) as error:
                self._log(f"{self._path}: nothing will be remembered ({error})")
                self._path = None
                return []


@dataclass
class _Uploads:
    """The uploads into one repository. Each belongs to one process at a time: two would write into each other's."""

    memory: Memory
    root: str
    repository: str
    _claims: dict[Digest, int] = field(default_factory=dict)

    def open_session(self, digest: Digest) -> Session | None:
        if not self._claim(digest):
            return None
        rows = self.memory._do(
            "select location, reached, least from uploads where root = ? and repository = ? and digest = ?",
            *(self.root, self.repository, digest),
        )
        return Session(*rows[0]) if rows else None

    def keep(self, digest: Digest, session: Session | None) -> None:
        if digest not in self._claims:
            return
        key = (self.root, self.repository, digest)
        if session is None:
            self.memory._do("delete from uploads where root = ? and repository = ? and digest = ?", *key)
        else:
            row = (*key, session.location, session.offset, session.least_chunk, _now())
            self.memory._do("insert or replace into uploads values (?, ?, ?, ?, ?, ?, ?)", *row)

    def close(self) -> None:
        for descriptor in self._claims.values():
            os.close(descriptor)
        self._claims.clear()

    def _claim(self, digest: Digest) -> bool:
        """Whether the upload is ours: a byte of a file is locked, which whoever dies gives up."""
        if (memory := self.memory._path) is None:
            return False
        key = hashlib.sha256(f"{self.root} {self.repository} {digest}".encode()).digest()
        place = int.from_bytes(key[:7])
        lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            path = memory.with_suffix(".locks")
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        except OSError:
            os.close(descriptor)
            return False
        self._claims[digest] = descriptor
        return True


def mark_of(blob: Blob) -> str:
    """What tells whether a blob is still the same without reading it: path, inode, size and time of each of its files.

    Empty for a blob that is not made of files and of bytes in memory.
    """
    parts = list[str]()
    try:
        _mark(blob, parts)
    except (LookupError, OSError):
        return ""
    return digest_of("\n".join(parts).encode())


def _mark(blob: Blob, parts: list[str]) -> None:
    while isinstance(blob, TypedBlob) or hasattr(blob, "inner"):
        blob = blob.inner
    match blob:
        case FileBlob():
            status = blob.path.stat()
            place = blob.path.resolve()
            if (status.st_size, status.st_mtime_ns) != (blob.size, blob.mtime_ns):
                raise LookupError("changed")
            parts.append(f"file {place} {status.st_ino} {blob.size} {blob.mtime_ns} {status.st_ctime_ns}")
        case BytesBlob():
            parts.append(f"bytes {blob.descriptor.digest}")
        case JoinedBlob():
            for region in blob.regions:
                _mark(region.blob, parts)
                parts.append(f"region {region.start} {region.length}")
        case _:
            raise LookupError("not of files")


def _now() -> int:
    return int(time.time())


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # places of uploads are secrets
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.executescript(_TABLES)
    connection.execute("delete from uploads where opened < ?", (_now() - _UPLOAD_DAYS * _DAY,))
    connection.execute("delete from digests where used < ?", (_now() - _DAYS * _DAY,))
    connection.execute("delete from places where seen < ?", (_now() - _DAYS * _DAY,))
    return connection
