"""Trying again: what may pass by itself, a bounded number of times, for a bounded time, and never in silence."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from registry.errors import TransferError

T = TypeVar("T")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
"""What is shown of a digest in a note."""

Log = Callable[[str], None]


ENOUGH = 4 << 20
"""Bytes that must move between two failures, so that who sends one byte at a time does not keep us for ever."""


def silent(_: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Retry:
    """How often something is tried again, and for how long one waits for it in all. Times are in seconds.

    The pause before the n-th repetition is at most `first` doubled n times, never more than `most`, and a random part
    of it, so that many clients do not come back at once; what a server asks for (`Retry-After`) counts if it is longer.
    """

    count: int = 10
    first: float = 0.5
    most: float = 30.0
    total: float = 300.0

    def pause(self, repetition: int) -> float:
        """Before the repetition of that number, from 0."""
        return min(self.first * 2.0**repetition, self.most) * random.uniform(0.5, 1)  # noqa: S311 - no secret


@dataclass
class Patience:
    """What is left of a `Retry` for one thing that is done."""

    retry: Retry
    log: Log = silent
    spent: int = 0
    waited: float = 0.0
    progress: int = 0

    def wait(self, error: TransferError) -> None:
        """Sleep before a repetition, and tell why; raises the error if it does not pass by itself or patience ends."""
        if error.retry_after is None or self.spent >= self.retry.count:
            raise error
        pause = max(self.retry.pause(self.spent), error.retry_after)
        if self.waited + pause > self.retry.total:
            raise error
        self.spent, self.waited, self.progress = self.spent + 1, self.waited + pause, 0
        subject = _DIGEST.sub(r"\1", error.subject)
        self.log(f"{subject}: {error.what}; trying again in {pause:.1f} s ({self.spent} of {self.retry.count})")
        time.sleep(pause)

    def moved(self, count: int) -> None:
        """`count` bytes more have arrived for good. Enough of them, and patience is what it was at the beginning."""
        self.progress += count
        if self.progress >= ENOUGH:
            self.spent, self.waited, self.progress = 0, 0.0, 0


def persistent(action: Callable[[], T], retry: Retry, log: Log) -> T:
    """The result of `action`, which is repeated while its `TransferError`s may pass by themselves."""
    patience = Patience(retry, log)
    while True:
        try:
            return action()
        except TransferError as error:
            patience.wait(error)
