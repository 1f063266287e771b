"""Server-sent events: one when something has changed (HTML standard, "Server-sent events").

One task asks the store for all who listen, and only while somebody does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import suppress

import anyio.to_thread

from packer.listener.web.refusals import RefusedError

EVERY = 1.0
"""Seconds between two looks at the store."""

HEARTBEAT = 15.0
"""Seconds of silence, after which a comment says that the connection lives."""

MAX_LISTENERS = 100

_FIRST = b"retry: 3000\ndata: changed\n\n"
"""What changed since the page was made is not known, so something may have."""

_CHANGED = b"data: changed\n\n"
_ALIVE = b": alive\n\n"


class Changes:
    """Tells listeners that something has changed. `mark` is something that differs then, asked in a thread."""

    def __init__(self, mark: Callable[[], Hashable]) -> None:
        self._mark = mark
        self._bells: set[asyncio.Event] = set()
        self._is_closed = False

    def close(self) -> None:
        """Let all listeners go; to be called in the loop."""
        self._is_closed = True
        for bell in self._bells:
            bell.set()

    def listen(self) -> AsyncIterator[bytes]:
        """What one listener is sent; `RefusedError` if there are too many."""
        if self._is_closed or len(self._bells) >= MAX_LISTENERS:
            raise RefusedError(503, "listeners", "too many listen already", retry_after=10)
        bell = asyncio.Event()
        self._bells.add(bell)
        return self._told(bell)

    async def _told(self, bell: asyncio.Event) -> AsyncIterator[bytes]:
        try:
            yield _FIRST
            while not self._is_closed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(bell.wait(), HEARTBEAT)
                said = _CHANGED if bell.is_set() else _ALIVE
                bell.clear()
                if not self._is_closed:
                    yield said
        finally:
            self._bells.discard(bell)

    async def watch(self) -> None:
        """Look for changes until cancelled."""
        known: Hashable = None
        while True:
            known = await self._look(known) if self._bells else None
            await asyncio.sleep(EVERY)

    async def _look(self, known: Hashable) -> Hashable:
        try:
            mark = await anyio.to_thread.run_sync(self._mark)
        except Exception:  # noqa: BLE001 - a database that does not answer now may later
            return known
        if known != mark:
            for bell in self._bells:
                bell.set()
        return mark
