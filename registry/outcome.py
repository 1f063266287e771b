"""What it took to make a blob present."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """False, as a truth value, if there was nothing to do."""

    PRESENT = 0
    MOUNTED = 1
    SENT = 2
