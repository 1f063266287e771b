"""Blobs that are far away and are read in ranges: a header costs some kilobytes, whatever the size of its file.

RFC 9110, section 14. A server may ignore a Range and send the whole; its answer is then read forward and dropped,
within bounds, so that nobody fetches gigabytes who asked for a header.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import BinaryIO, NamedTuple, cast

from registry.blob import CHUNK, digest_stream
from registry.descriptor import OCTETS, Descriptor
from registry.errors import ContentError, NotFoundError, ResponseError, TransferError

WINDOW = 64 << 10
"""Bytes that are asked for at the front, and where one read follows the other."""

BUFFER = 4 << 10
"""Bytes that are asked for after a jump, such as from one member of a tar to the next."""

MAX_REQUEST = 4 << 20
"""Bytes that are asked for at most."""

MAX_UNRANGED = 64 << 20
"""Bytes of one content that are taken from a server that ignores Range. The kernel may have received some more."""

MAX_UNRANGED_IN_ALL = 256 << 20
"""The same for all contents of one source together."""


class Answer(NamedTuple):
    """What a server answers: the body holds the range that was asked for, or the whole content."""

    body: BinaryIO
    is_partial: bool


Request = Callable[[int, int], Answer]
"""Asks for the bytes from the first number up to, and without, the second; whoever calls closes the body."""


class Allowance:
    """What may come from one source without Range, all contents and threads together."""

    def __init__(self) -> None:
        self._lock, self._spent = Lock(), 0

    def spend(self, count: int) -> bool:
        """Whether `count` more bytes may come."""
        with self._lock:
            self._spent += count
            return self._spent <= MAX_UNRANGED_IN_ALL


@dataclass(eq=False)
class RangedBlob:
    """`size` bytes far away, whose streams seek. `origin` names them, `hint` says how to fetch them whole.

    A range cannot be checked against a digest: what is published must be read in another way. The first window is
    kept, because small files and headers are read more than once. Streams of several threads are independent.
    """

    request: Request
    size: int
    origin: str
    hint: str
    known: Descriptor | None = None
    allowance: Allowance = field(default_factory=Allowance)
    head: bytes = field(default=b"", init=False, repr=False)
    _unranged: int = field(default=0, init=False, repr=False)

    @cached_property
    def descriptor(self) -> Descriptor:
        """What is known; without that, everything is fetched and read, once."""
        if self.known:
            return self.known
        with io.BufferedReader(_Reader(self), MAX_REQUEST) as stream:
            return Descriptor(OCTETS, digest_stream(cast(BinaryIO, stream)), self.size)

    def open(self) -> BinaryIO:
        """A stream over the bytes; nothing is fetched before it is read."""
        return cast(BinaryIO, io.BufferedReader(_Reader(self), BUFFER))

    def spend(self, count: int) -> None:
        """Account for `count` bytes that come only because the server ignores Range; `ResponseError` if too many."""
        self._unranged += count
        if self._unranged > MAX_UNRANGED or not self.allowance.spend(count):
            raise ResponseError(
                "the server does not answer Range requests, so to read on is to fetch the whole: "
                f"{self.size / (1 << 20):,.0f} MiB",
                subject=self.origin,
                expected=f"206 Partial Content, or what is needed within {MAX_UNRANGED >> 20} MiB of each file and "
                f"{MAX_UNRANGED_IN_ALL >> 20} MiB in all",
                found=f"200 OK, {self._unranged / (1 << 20):,.0f} MiB of this file needed",
                hint=self.hint,
            )


class _Reader(io.RawIOBase):
    """Reads window by window, each by one request; from a server that ignores Range, by one request for all."""

    def __init__(self, blob: RangedBlob) -> None:
        super().__init__()
        self._blob, self._position, self._is_first = blob, 0, True
        self._start, self._window = 0, blob.head
        self._whole: BinaryIO | None = None
        self._whole_at = 0

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
        if not self._start <= self._position < self._start + len(self._window):
            self._fetch(len(view))
        at = self._position - self._start
        piece = memoryview(self._window)[at : at + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        self._drop()
        super().close()

    def _fetch(self, wanted: int) -> None:
        """Have a window for a read of `wanted` bytes; a connection that breaks is tried once more."""
        jumped = not self._is_first and self._position != self._start + len(self._window)
        length = max(wanted, BUFFER) if jumped else max(wanted + BUFFER, WINDOW)
        start, end = self._position, min(self._position + min(length, MAX_REQUEST), self._blob.size)
        try:
            self._window = self._take(start, end)
        except (NotFoundError, ContentError, ResponseError):
            raise
        except TransferError:
            self._drop()
            self._window = self._take(start, end)
        self._start, self._is_first = start, False
        if not start and len(self._window) <= WINDOW:
            self._blob.head = self._window

    def _take(self, start: int, end: int) -> bytes:
        if self._whole is None or self._whole_at > start:
            self._drop()
            answer = self._blob.request(start, end)
            if answer.is_partial:
                with closing(answer.body) as body:
                    return self._exactly(body, end - start)
            self._whole, self._whole_at = answer.body, 0
        self._blob.spend(end - self._whole_at)
        for at in range(self._whole_at, start, CHUNK):
            self._exactly(self._whole, min(CHUNK, start - at))
        data = self._exactly(self._whole, end - start)
        self._whole_at = end
        return data

    def _exactly(self, body: BinaryIO, count: int) -> bytes:
        pieces = []
        while count and (piece := body.read(count)):
            pieces.append(piece)
            count -= len(piece)
        if count:
            raise TransferError(
                "the answer ended early", subject=self._blob.origin, expected=f"{count} bytes more", hint="run it again"
            )
        return b"".join(pieces)

    def _drop(self) -> None:
        if self._whole:
            self._whole.close()
            self._whole = None
