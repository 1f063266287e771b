"""Reading a binary header forward, in windows, never past what the file holds."""

from __future__ import annotations

import struct
from typing import BinaryIO

from formats.findings import Rule
from formats.snapshot import ModelFile

WINDOW = 256 << 10
"""Bytes read at once; a header over the network takes one request for each window."""


class Cursor:
    """A place in a file. `truncated` is the rule that is broken where the file ends too soon; `order` is `<` or `>`."""

    def __init__(self, stream: BinaryIO, file: ModelFile, truncated: Rule) -> None:
        self._stream, self._file, self._truncated = stream, file, truncated
        self._window, self._at, self._base = b"", 0, 0
        self.order = "<"

    @property
    def position(self) -> int:
        """The offset in the file of the next byte."""
        return self._base + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which must be bounded by the caller."""
        self._need(count)
        data = self._window[self._at : self._at + count]
        self._at += count
        return data

    def window(self, count: int) -> tuple[bytes, int]:
        """The bytes at hand, of which the next one is at the place that comes with them; `count` at least follow."""
        self._need(count)
        return self._window, self._at

    def back(self, position: int) -> None:
        """Return to an offset."""
        self._jump(position)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        self._jump(self.position + count)

    def scalar(self, code: str) -> int | float | bool:
        """The next number, in `struct`'s word for it."""
        form = self.order + code
        value: int | float | bool = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def number(self, code: str) -> int:
        """The next integer."""
        return int(self.scalar(code))

    def skip_texts(self, count: int, limit: int) -> int:
        """Pass over `count` texts, each a length of eight bytes and its bytes; how many are left after `limit` bytes.

        This is where a vocabulary goes by.
        """
        unpack = struct.Struct(self.order + "Q").unpack_from
        end = self.position + limit
        while count and self.position < end:
            self._need(8)
            window, at, last = self._window, self._at, len(self._window) - 8
            while count and at <= last:
                at += 8 + unpack(window, at)[0]
                count -= 1
            self._jump(self._base + at)
        return count

    def _jump(self, position: int) -> None:
        if position > self._file.size:
            self._end(position)
        if self._base <= position <= self._base + len(self._window):
            self._at = position - self._base
        else:
            self._stream.seek(position)
            self._window, self._at, self._base = b"", 0, position

    def _need(self, count: int) -> None:
        """Have `count` bytes in the window."""
        rest = len(self._window) - self._at
        if rest >= count:
            return
        if self.position + count > self._file.size:
            self._end(self.position + count)
        self._window = self._window[self._at :] + self._stream.read(max(count - rest, WINDOW))
        self._base, self._at = self._base + self._at, 0
        if len(self._window) < count:
            self._end(self.position + count)

    def _end(self, wanted: int) -> None:
        self._truncated.reject(
            self._file.name, expected=f"{wanted} bytes, inside its header", found=f"{self._file.size} bytes"
        )
