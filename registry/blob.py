"""Blobs: bytes that know their name and can be read.

A new kind of blob needs two members, `descriptor` and `open()`; everything else is a function.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from registry.descriptor import OCTETS, Descriptor, Digest, digest_of
from registry.errors import ContentError, TransferError

PIECE = 256 << 10
"""Bytes that are hashed or sent at once: they stay in the processor's cache on their way."""

BUFFER = 64 << 10
"""Bytes of a stream's buffer: less than a piece, so that pieces pass it by."""

B = TypeVar("B")

CHUNK = 1 << 20
"""Bytes moved by one read."""


class Blob(Protocol):
    """A run of bytes with a name. `open()` may be called again; each stream starts at the first byte."""

    @property
    def descriptor(self) -> Descriptor:
        """What the bytes are, their digest and their number."""

    def open(self) -> BinaryIO:
        """A new stream over the bytes; the caller closes it."""


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of a stream in pieces of at most `CHUNK` bytes."""
    while piece := stream.read(CHUNK):
        yield piece


def digest_stream(stream: BinaryIO) -> Digest:
    """The digest of the rest of a stream, in constant memory."""
    return Digest("sha256:" + hashlib.file_digest(cast("io.BufferedReader", stream), "sha256").hexdigest())


def read_all(blob: Blob, limit: int) -> bytes:
    """All bytes of a blob that must be small; `ContentError` if its descriptor says more than `limit`."""
    if blob.descriptor.size > limit:
        raise ContentError(
            "this is too large to be what it is meant to be",
            subject=blob.descriptor.digest,
            expected=f"at most {limit} bytes",
            found=f"{blob.descriptor.size} bytes",
        )
    with blob.open() as stream:
        return stream.read()


@dataclass(frozen=True)
class BytesBlob:
    """A blob in memory."""

    descriptor: Descriptor
    data: bytes

    @classmethod
    def of(cls, media_type: str, data: bytes) -> BytesBlob:
        """The blob that holds `data`."""
        return cls(Descriptor(media_type, digest_of(data), len(data)), data)

    def open(self) -> BinaryIO:
        """A stream over the bytes."""
        return io.BytesIO(self.data)


@dataclass(frozen=True)
class FileBlob:
    """A file where it lies. Its digest is computed when first asked for; `size` costs nothing.

    The file must stay as it was when this was made: a change of size or time is a `TransferError`
    at the next `open()`, so that no digest is ever given to other bytes than were read.
    """

    path: Path
    size: int
    mtime_ns: int
    media_type: str = OCTETS

    @classmethod
    def at(cls, path: Path) -> FileBlob:
        """The blob of a regular file; symbolic links are followed."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    @cached_property
    def descriptor(self) -> Descriptor:
        """Reads the whole file, once."""
        with self.open() as stream:
            return Descriptor(self.media_type, digest_stream(stream), self.size)

    def open(self) -> BinaryIO:
        """A stream over the file, after a look whether it is still the same."""
        stream = self.path.open("rb", buffering=0)
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            stream.close()
            raise TransferError(
                "the file changed while it was being packed",
                subject=str(self.path),
                expected=f"{self.size} bytes, as when it was first looked at",
                found=f"{status.st_size} bytes, or a later modification time",
                hint="let the program that writes it finish, then run the same command again",
            )
        return cast(BinaryIO, io.BufferedReader(stream, BUFFER))


def beneath(blob: object, kind: type[B]) -> B | None:
    """The blob of that kind whose bytes a blob has, beneath whatever wraps it; None if there is none."""
    while not isinstance(blob, kind):
        if (blob := getattr(blob, "inner", None)) is None:
            return None
    return blob


def file_of(blob: Blob) -> FileBlob | None:
    """The file whose bytes a blob has; None if there is none."""
    return beneath(blob, FileBlob)


@dataclass(frozen=True)
class TypedBlob:
    """Another blob's bytes under another media type or with other annotations."""

    inner: Blob
    descriptor: Descriptor

    @classmethod
    def of(cls, inner: Blob, media_type: str, annotations: dict[str, str]) -> TypedBlob:
        """`inner` renamed."""
        return cls(inner, replace(inner.descriptor, media_type=media_type, annotations=annotations))

    def open(self) -> BinaryIO:
        """A stream over the same bytes."""
        return self.inner.open()


class VerifyingReader(io.RawIOBase):
    """A stream that ends well only if it held the bytes of its descriptor.

    A byte too many or too few, or another digest, is a `ContentError` that names `origin`. It is raised by the
    read that would deliver the last bytes, so a reader never sees the end of wrong content.
    """

    def __init__(self, stream: BinaryIO, descriptor: Descriptor, origin: str) -> None:
        super().__init__()
        self._stream, self._descriptor, self._origin = stream, descriptor, origin
        self._hash, self._read = hashlib.sha256(), 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """Some of the next bytes; 0 at the verified end."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        count = int(self._stream.readinto(view))  # type: ignore[attr-defined]
        self._read += count
        if self._read > self._descriptor.size:
            raise self._error(f"{self._descriptor.size} bytes", "more")
        self._hash.update(view[:count])
        if self._read == self._descriptor.size or not count:
            self._check()
        return count

    def _check(self) -> None:
        if self._read != self._descriptor.size:
            raise self._error(f"{self._descriptor.size} bytes", f"{self._read} bytes, then the end")
        found = Digest("sha256:" + self._hash.hexdigest())
        if found != self._descriptor.digest:
            raise self._error(self._descriptor.digest, found)

    def _error(self, expected: str, found: str) -> ContentError:
        return ContentError(
            "the content is not what its descriptor promises",
            subject=self._origin,
            expected=expected,
            found=found,
            hint="the copy is damaged or was tampered with; nothing of it was kept",
        )

    def close(self) -> None:
        """Closes the stream beneath."""
        self._stream.close()
        super().close()


def verified(stream: BinaryIO, descriptor: Descriptor, origin: str) -> BinaryIO:
    """`stream`, checked against `descriptor` while it is read."""
    return cast(BinaryIO, io.BufferedReader(VerifyingReader(stream, descriptor, origin), BUFFER))


@dataclass(frozen=True)
class CheckedBlob:
    """Another blob, whose streams end well only if they held what its descriptor promises."""

    inner: Blob
    origin: str

    @property
    def descriptor(self) -> Descriptor:
        """The inner blob's."""
        return self.inner.descriptor

    def open(self) -> BinaryIO:
        """A stream over the bytes, checked as they are read."""
        return verified(self.inner.open(), self.descriptor, self.origin)


def unchecked(blob: Blob) -> Blob:
    """The blob whose bytes are checked by somebody else: what checks them here is taken out of what wraps them."""
    if isinstance(blob, CheckedBlob):
        return blob.inner
    inner = getattr(blob, "inner", None)
    return cast(Blob, replace(cast(Any, blob), inner=unchecked(inner))) if inner is not None else blob
