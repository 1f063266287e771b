"""Steps side by side: the first failure stops all, and an interruption is not kept waiting."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import BinaryIO, TypeVar, cast

from registry.blob import Blob
from registry.descriptor import Descriptor
from registry.errors import PackerError

T = TypeVar("T")
R = TypeVar("R")

Step = Callable[[Event], None]
"""Does something, and gives up when the event is set."""

_GRACE = 2.0
"""Seconds that steps get to give up in when the user interrupts: one that waits for a server would take minutes."""


def run_steps(following: Callable[[], Step | None], workers: int) -> None:
    """Do the steps that `following` gives, `workers` at a time, until it gives None; several threads ask it.

    Raises what the first step to fail raised, when all others have ended.
    """
    stop, ended = Event(), SimpleQueue[BaseException | None]()

    def work() -> None:
        try:
            while not stop.is_set() and (step := following()):
                step(stop)
            ended.put(None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the thread that waits raises it
            ended.put(error)  # before the others give up, and say so
            stop.set()

    threads = [Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        failures = [failure for _ in threads if (failure := ended.get())]
    except BaseException:
        stop.set()
        deadline = time.monotonic() + _GRACE
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        raise
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def run_each(action: Callable[[T, Event], R], items: Sequence[T], workers: int) -> list[R]:
    """What `action` makes of each item, in the items' order, `workers` at a time; fails as `run_steps` does."""
    made, left = dict[int, R](), iter(range(len(items)))

    def make(number: int, stop: Event) -> None:
        made[number] = action(items[number], stop)

    def following() -> Step | None:
        number = next(left, None)
        return None if number is None else partial(make, number)

    run_steps(following, min(workers, max(len(items), 1)))
    return [made[number] for number in range(len(items))]


class StoppedError(PackerError):
    """What ends one step when another has failed."""

    def __init__(self) -> None:
        super().__init__("stopped, because something else failed")


@dataclass(frozen=True)
class Stoppable:
    """A blob whose streams fail when it is time to stop."""

    inner: Blob
    stop: Event

    @property
    def descriptor(self) -> Descriptor:
        """The inner blob's."""
        return self.inner.descriptor

    def open(self) -> BinaryIO:
        """A stream over the same bytes."""
        return cast(BinaryIO, _StoppableReader(self.inner.open(), self.stop))


class _StoppableReader(io.RawIOBase):
    def __init__(self, stream: BinaryIO, stop: Event) -> None:
        super().__init__()
        self._stream, self._stop = stream, stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: object) -> int:
        if self._stop.is_set():
            raise StoppedError
        return int(self._stream.readinto(buffer))  # type: ignore[attr-defined]

    def close(self) -> None:
        self._stream.close()
        super().close()
