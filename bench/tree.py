"""Measuring a command with all processes that it starts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

from bench.measure import Cost, once

PAUSE = 0.05
"""Seconds between two looks."""

_RESIDENT = re.compile(r"^VmRSS:\s*(\d+) kB", re.MULTILINE)


def once_with_children(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Cost:
    """As `once`, but `megabytes` is the peak of all its processes together, pages of files that they mapped among them.

    It is looked at twenty times a second; it is never less than the kernel's own peak of the largest process.
    """
    ended, peaks = Event(), [0]
    watcher = Thread(target=_watch, args=(ended, peaks))
    watcher.start()
    try:
        cost = once(command, env)
    finally:
        ended.set()
        watcher.join()
    return replace(cost, megabytes=max(cost.megabytes, peaks[0] / 1024))


def _watch(ended: Event, peaks: list[int]) -> None:
    while not ended.wait(PAUSE):
        peaks[0] = max(peaks[0], sum(map(_kilobytes, _below(os.getpid()))))


def _below(process: int) -> Iterator[int]:
    """The processes that one has started, and theirs."""
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from _below(child)


def _kilobytes(process: int) -> int:
    with suppress(OSError):
        found = _RESIDENT.search(Path(f"/proc/{process}/status").read_text())
        return int(found[1]) if found else 0
    return 0
