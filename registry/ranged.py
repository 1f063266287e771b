"""Blobs that are far away and are read in ranges: a header costs some kilobytes, whatever the size of its file.

RFC 9110, section 14. A server may ignore a Range and send the whole; its answer is then read forward and dropped,
within a bound, so that nobody fetches gigabytes who asked for a header.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, NamedTuple, cast

from registry.blob import digest_stream
from registry.descriptor import OCTETS, Descriptor
from registry.errors import ResponseError, TransferError

WINDOW = 64 << 10
"""Bytes that are asked for at least."""

MAX_REQUEST = 4 << 20
"""Bytes that are asked for at most."""

MAX_UNRANGED = 64 << 20
"""Bytes of one content that are read from a server that ignores Range."""


class Answer(NamedTuple):
    """What a server answers: the body holds the range that was asked for, or the whole content."""

    body: BinaryIO
    is_partial: bool


Request = Callable[[int, int], Answer]
"""Asks for the bytes from the first number up to the second; whoever calls closes the body."""


@dataclass(frozen=True, eq=False)
class RangedBlob:
    """`size` bytes far away, whose streams seek. `origin` names them, `hint` says how to fetch them whole.

    A range cannot be checked against a digest: what is published must be read in another way.
    """

    request: Request
    size: int
    origin: str
    hint: str
    known: Descriptor | None = None

    @cached_property
    def descriptor(self) -> Descriptor:
        """What is known; without that, everything is fetched and read, once."""
        if self.known:
            return self.known
        with self.open() as stream:
            return Descriptor(OCTETS, digest_stream(stream), self.size)

    @cached_property
    def head(self) -> bytes:
        """The first window, kept: small files and headers are read more than once."""
        buffer = bytearray(min(WINDOW, self.size))
        with _Reader(self) as reader:
            count = reader.fetch(0, memoryview(buffer)) if buffer else 0
        return bytes(buffer[:count])

    def open(self) -> BinaryIO:
        """A stream over the bytes; nothing is fetched before it is read."""
        return cast(BinaryIO, io.BufferedReader(_Reader(self), WINDOW))


class _Reader(io.RawIOBase):
    """Reads by one request for each call; from a server that ignores Range, by one for all."""

    def __init__(self, blob: RangedBlob) -> None:
        super().__init__()
        self._blob, self._position = blob, 0
        self._whole: BinaryIO | None = None
        self._whole_at = self._dropped = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._blob.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)[: max(self._blob.size - self._position, 0)]  # type: ignore[arg-type]
        if not view:
            return 0
        head = self._blob.head
        if self._position < len(head):
            piece = head[self._position : self._position + len(view)]
            view[: len(piece)] = piece
            count = len(piece)
        else:
            count = self.fetch(self._position, view[:MAX_REQUEST])
        self._position += count
        return count

    def fetch(self, start: int, view: memoryview) -> int:
        """Some bytes from `start` on, by the server; a connection that breaks is tried once more."""
        try:
            return self._fetch(start, view)
        except ResponseError:
            raise
        except TransferError:
            self._drop()
            return self._fetch(start, view)

    def _fetch(self, start: int, view: memoryview) -> int:
        if self._whole is None or self._whole_at > start:
            answer = self._blob.request(start, start + len(view))
            if answer.is_partial:
                with closing(answer.body) as body:
                    return self._taken(body, view)
            self._drop()
            self._whole, self._whole_at = answer.body, 0
        while self._whole_at < start:
            self._account(min(start - self._whole_at, WINDOW))
            self._advance(len(self._whole.read(min(start - self._whole_at, WINDOW))))
        self._account(len(view))
        count = self._taken(self._whole, view)
        self._whole_at += count
        return count

    def _taken(self, body: BinaryIO, view: memoryview) -> int:
        """Fill the view from a body, or end with what it has; that there is nothing is an error."""
        taken = 0
        while taken < len(view) and (piece := body.read(len(view) - taken)):
            view[taken : taken + len(piece)] = piece
            taken += len(piece)
        if not taken:
            raise TransferError(
                "the answer ended early",
                subject=self._blob.origin,
                expected=f"{len(view)} bytes more",
                hint="run it again",
            )
        return taken

    def _advance(self, count: int) -> None:
        if not count:
            raise TransferError("the answer ended early", subject=self._blob.origin, hint="run it again")
        self._whole_at += count

    def _account(self, count: int) -> None:
        self._dropped += count
        if self._dropped > MAX_UNRANGED:
            raise ResponseError(
                "the server does not answer Range requests, so to read on is to fetch the whole: "
                f"{self._blob.size / (1 << 20):,.0f} MiB",
                subject=self._blob.origin,
                expected=f"206 Partial Content, or what is needed within the first {MAX_UNRANGED >> 20} MiB",
                found="200 OK",
                hint=self._blob.hint,
            )

    def _drop(self) -> None:
        if self._whole:
            self._whole.close()
            self._whole = None

    def close(self) -> None:
        self._drop()
        super().close()
