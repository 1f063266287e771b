"""Blobs made of other blobs: regions one after the other, copied by nobody until somebody reads them."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import BinaryIO, cast

from registry.blob import BUFFER, Blob, BytesBlob, digest_stream
from registry.descriptor import OCTETS, Descriptor
from registry.errors import ContentError


@dataclass(frozen=True)
class Region:
    """`length` bytes of a blob from the byte `start` on."""

    blob: Blob
    start: int
    length: int


@dataclass(frozen=True)
class JoinedBlob:
    """Regions of other blobs, one after the other; nothing is copied, and nothing read before `open()`.

    The streams of the blobs must be able to seek. `buffer` is how many bytes are read at once.
    """

    regions: tuple[Region, ...]
    media_type: str = OCTETS
    buffer: int = BUFFER

    @classmethod
    def of(cls, parts: Iterable[Region | bytes]) -> JoinedBlob:
        """The blob of `parts`, neighbours in one file made one region."""
        joined: list[Region] = []
        for part in parts:
            region = Region(BytesBlob.of(OCTETS, part), 0, len(part)) if isinstance(part, bytes) else part
            last = joined[-1] if joined else None
            if last and last.blob is region.blob and last.start + last.length == region.start:
                joined[-1] = replace(last, length=last.length + region.length)
            elif region.length:
                joined.append(region)
        return cls(tuple(joined))

    @property
    def size(self) -> int:
        """Bytes of all regions."""
        return sum(region.length for region in self.regions)

    @cached_property
    def descriptor(self) -> Descriptor:
        """Reads every region, once."""
        with self.open() as stream:
            return Descriptor(self.media_type, digest_stream(stream), self.size)

    def open(self) -> BinaryIO:
        """A stream over the regions, which can seek."""
        return cast(BinaryIO, io.BufferedReader(_JoinedReader(self.regions), self.buffer))


class Chain(io.RawIOBase):
    """Streams one after another; each is opened when the one before is at its end."""

    def __init__(self, parts: Iterator[BinaryIO]) -> None:
        super().__init__()
        self._parts = parts
        self._current = next(parts, None) or io.BytesIO()

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """The next bytes; 0 at the end of the last stream."""
        while True:
            if count := self._current.readinto(buffer):  # type: ignore[attr-defined]
                return int(count)
            following = next(self._parts, None)
            if following is None:
                return 0
            self._current.close()
            self._current = following

    def close(self) -> None:
        """Closes the stream that is being read."""
        self._current.close()
        super().close()


class _JoinedReader(io.RawIOBase):
    """The regions as one stream; the blob that is being read stays open until another one's turn."""

    def __init__(self, regions: Sequence[Region]) -> None:
        super().__init__()
        self._regions = regions
        self._starts = list(accumulate((region.length for region in regions), initial=0))
        self._position = 0
        self._blob: Blob | None = None
        self._stream: BinaryIO = io.BytesIO()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: object) -> int:
        if self._position >= self._starts[-1]:
            return 0
        at = bisect_right(self._starts, self._position) - 1
        region, inside = self._regions[at], self._position - self._starts[at]
        view = memoryview(buffer)[: region.length - inside]  # type: ignore[arg-type]
        self._go(region.blob, region.start + inside)
        count = int(self._stream.readinto(view))  # type: ignore[attr-defined]
        if view and not count:
            raise ContentError("a file ended early while it was read", expected=f"{region.length - inside} bytes more")
        self._position += count
        return count

    def _go(self, blob: Blob, position: int) -> None:
        if blob is not self._blob:
            self._stream.close()
            self._blob, self._stream = blob, blob.open()
        self._stream.seek(position)

    def close(self) -> None:
        self._stream.close()
        super().close()
