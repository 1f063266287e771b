"""Keeps deliveries on the disk: those that come while others are written are written together, by one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread

from packer.listener.records import Arrival

AT_ONCE = 50
"""Deliveries that are written together, at most."""

_Waiting = tuple[Arrival, asyncio.Future[tuple[int, bool]]]


class Keeper:
    """Keeps deliveries by means of `accept_all`, which is called in a thread and is all or nothing."""

    def __init__(self, accept_all: Callable[[Sequence[Arrival]], list[tuple[int, bool]]]) -> None:
        self._accept_all = accept_all
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._thread = anyio.CapacityLimiter(1)
        """Its own, so that who looks at pages does not keep senders waiting."""

    async def keep(self, arrival: Arrival) -> tuple[int, bool]:
        """The number of the event, on the disk, and whether it is new."""
        kept: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append((arrival, kept))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await kept

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            try:
                found = await anyio.to_thread.run_sync(
                    self._accept_all, [arrival for arrival, _ in batch], limiter=self._thread
                )
            except Exception as error:  # noqa: BLE001 - it is told to all who wait for it
                for _, kept in batch:
                    if not kept.done():
                        kept.set_exception(error)
            else:
                for (_, kept), one in zip(batch, found, strict=True):
                    if not kept.done():
                        kept.set_result(one)
