"""Blobs made of other blobs: regions one after the other, copied by nobody until somebody reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import BinaryIO, cast

from registry.blob import CHUNK, Blob, BytesBlob, digest_stream
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

    The streams of the blobs must be able to seek.
    """

    regions: tuple[Region, ...]
    media_type: str = OCTETS

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
        """A stream over the regions; each blob is opened when the one before is at its end."""
        return cast(BinaryIO, io.BufferedReader(Chain(map(_open_region, self.regions)), CHUNK))


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


class _Window(io.RawIOBase):
    """At most `length` bytes of a stream; the stream's end before them is a `ContentError`."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        super().__init__()
        self._stream, self._left = stream, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)[: self._left]  # type: ignore[arg-type]
        count = int(self._stream.readinto(view)) if self._left else 0  # type: ignore[attr-defined]
        if self._left and not count:
            raise ContentError("a file ended early while it was copied", expected=f"{self._left} bytes more")
        self._left -= count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _open_region(region: Region) -> BinaryIO:
    stream = region.blob.open()
    stream.seek(region.start)
    return cast(BinaryIO, _Window(stream, region.length))
