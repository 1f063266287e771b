"""In which way a registry takes blobs: known for some, learnt from the answers of all others.

Distribution specification 1.1, "Pushing blobs". What is known comes from the documents and issues of each registry;
`docs/adr/0012-transfer.md` says which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from threading import Lock

CHUNK_SIZE = 64 << 20
"""Bytes of one PATCH where a blob goes piece by piece; smaller blobs go whole."""


class Way(Enum):
    """How the bytes of a blob are sent after a session was opened."""

    WHOLE = "one PUT"
    STREAM = "one PATCH"
    CHUNKS = "many PATCHes"


@dataclass
class Habits:
    """The way that a registry takes, the bytes that a layer may have, where a limit is known, and those of a PATCH."""

    way: Way = Way.CHUNKS
    max_layer: int | None = None
    chunk: int = CHUNK_SIZE


_TABLE: tuple[tuple[str, Way, int | None], ...] = (
    (r"ghcr\.io", Way.WHOLE, 10_000_000_000),
    (r"(.+\.)?pkg\.dev|(.+\.)?gcr\.io", Way.WHOLE, None),
    (r"public\.ecr\.aws", Way.WHOLE, 10_000 << 20),
    (r".+\.amazonaws\.com(\.cn)?", Way.WHOLE, 52_000 << 20),
    (r".+\.azurecr\.(io|cn|us)", Way.STREAM, 200 << 30),
    (r"quay\.io", Way.STREAM, 20 << 30),
    (r"(.+\.)?docker\.io", Way.STREAM, None),
)


def habits_of(host: str) -> Habits:
    """What is known of a registry before it is asked. A host that nobody has described gets the specification."""
    name = re.sub(r":[0-9]+$", "", host)
    return next((Habits(way, limit) for pattern, way, limit in _TABLE if re.fullmatch(pattern, name)), Habits())


class HabitBook:
    """The habits of all registries that this process has met."""

    def __init__(self) -> None:
        self._habits: dict[str, Habits] = {}
        self._lock = Lock()

    def of(self, host: str) -> Habits:
        """Those of one registry: known ones, and what was learnt since."""
        with self._lock:
            return self._habits.setdefault(host, habits_of(host))
