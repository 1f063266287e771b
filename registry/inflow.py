"""A blob on its way from a server: read forward, taken up again where the connection broke."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, cast

from registry.blob import BUFFER, CHUNK
from registry.errors import TransferError
from registry.retry import Patience
from registry.wire import Answer, check_range

Get = Callable[[int], Answer]
"""Asks for everything from an offset on; the answer is 206, or 200 with the whole from a server without Range."""


class Inflow(io.RawIOBase):
    """The bytes up to `end` of a content of `size` bytes, from `start` on, as `get` fetches them.

    What breaks is asked for again from where it broke, as patience allows. Nothing is fetched before it is read. A jump
    ends the connection and opens another.
    """

    def __init__(
        self, get: Get, size: int, origin: str, patience: Patience, start: int = 0, end: int | None = None
    ) -> None:
        super().__init__()
        self._get, self._size, self._origin, self._patience = get, size, origin, patience
        self._position, self._end = start, size if end is None else end
        self._answer = cast(Answer | None, None)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere; costs a new request when something is read there."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        target = max(base + offset, 0)
        if target != self._position:
            self._drop()
            self._position = target
        return target

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._position

    def readinto(self, buffer: object) -> int:
        """The next bytes; 0 at the end."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        while True:
            try:
                piece = self._read(len(view))
            except TransferError as error:
                self._drop()
                self._patience.wait(error)
                continue
            view[: len(piece)] = piece
            self._position += len(piece)
            self._patience.moved(len(piece))
            return len(piece)

    def _read(self, count: int) -> bytes:
        if self._answer is None and self._position >= self._end > 0:
            return b""
        self._answer = self._answer or self._ask()
        if self._end < self._size:
            count = min(count, self._end - self._position)
        piece = self._answer.read(count)  # of the whole, what is too much is let through: who checks will say so
        if not piece and self._position < self._end:
            raise TransferError(
                "the content ended early",
                subject=self._origin,
                expected=f"{self._end} bytes",
                found=f"{self._position} bytes",
            ).passing()
        return piece

    def _ask(self) -> Answer:
        """The answer, at the first byte that is wanted; `ContentError` if it is for a content of another size."""
        start = self._position
        answer = self._get(start)
        if not check_range(answer, start, self._end, self._size, self._origin):
            left = start
            while left and (piece := answer.read(min(left, CHUNK))):
                left -= len(piece)
        return answer

    def _drop(self) -> None:
        if self._answer:
            self._answer.close()
            self._answer = None

    def close(self) -> None:
        """End the connection."""
        self._drop()
        super().close()


def buffered(raw: io.RawIOBase) -> BinaryIO:
    """A raw stream with a buffer."""
    return cast(BinaryIO, io.BufferedReader(raw, BUFFER))
