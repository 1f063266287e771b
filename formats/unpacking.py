"""What is packed inside a file, streamed within bounds: compressed data, and the members of zip and tar archives.

Nothing is unpacked to disk, and nothing is believed of a length: a piece is read only up to a bound.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

MAX_MEMBERS = 256
"""Members of an archive that are looked into."""

MAX_END = 22 + (64 << 10)
"""Bytes at the end of a file among which a zip archive's end record is: it has a comment of up to 64 KiB behind it."""

MAX_DIRECTORY = 2 << 20
"""Bytes of a zip archive's directory: some twenty thousand tensors."""

_CHUNK = 64 << 10
_MAX_STREAMS = 64
_LZMA_MEMORY = 32 << 20
_TAR_BLOCK = 512
_MAX_SIZE = 1 << 50
_STORAGE = re.compile(r"(.*)/(?:data|constants|tensors)/\d+")


class PackedError(Exception):
    """What is packed cannot be looked at within bounds."""


class Member(NamedTuple):
    """A file in an archive, and a stream over its content, which cannot seek and is good until the next member."""

    name: str
    stream: BinaryIO


class Directory(NamedTuple):
    """The names in a zip archive, and the members that may be more than raw tensors."""

    names: frozenset[str]
    members: Iterator[Member]


def decompressor(start: bytes) -> Callable[[], Any] | None:
    """What makes a decompressor for data that begins with `start`; None if it is not compressed."""
    if start.startswith(b"\x1f\x8b\x08"):
        return lambda: zlib.decompressobj(wbits=31)
    if start[:1] == b"x" and len(start) > 1 and (start[0] << 8 | start[1]) % 31 == 0:
        return zlib.decompressobj
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", start):
        return bz2.BZ2Decompressor
    if start.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    return None


class Decompressed(io.RawIOBase):
    """The content of compressed data, several streams in a row included; `PackedError` where it is damaged."""

    def __init__(self, stream: BinaryIO, make: Callable[[], Any], limit: int) -> None:
        super().__init__()
        self._stream, self._make, self._limit = stream, make, limit
        self._object, self._waiting, self._streams = make(), b"", 1

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: object) -> int:
        """Some of the content; 0 at its end."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        while True:
            data, ended = self._step(len(view))
            if data or ended:
                view[: len(data)] = data
                return len(data)

    def _step(self, size: int) -> tuple[bytes, bool]:
        if self._object.eof and not self._next_stream():
            return b"", True
        fed = b"" if not getattr(self._object, "needs_input", True) else self._waiting or self._more()
        if not fed and getattr(self._object, "needs_input", True):
            return b"", True
        try:
            data = self._object.decompress(fed, size)
        except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError, MemoryError) as error:
            raise PackedError(str(error)) from error
        if fed:
            self._waiting = getattr(self._object, "unconsumed_tail", b"")
        return data, False

    def _next_stream(self) -> bool:
        rest = (self._object.unused_data or self._more()).lstrip(b"\0")
        self._streams += 1
        if not rest or decompressor(rest) is None:
            return False
        if self._streams > _MAX_STREAMS:
            raise PackedError("too many streams")
        self._object, self._waiting = self._make(), rest
        return True

    def _more(self) -> bytes:
        if self._limit <= 0:
            raise PackedError("too much compressed data")
        piece = self._stream.read(min(_CHUNK, self._limit))
        self._limit -= len(piece)
        return piece


class _Guard:
    """A file as zipfile wants it, which refuses to read more at once than a directory may hold."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = stream.seek(0, io.SEEK_END)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._stream.tell(), io.SEEK_END: self._size}[whence]
        if not 0 <= base + offset <= self._size:
            raise PackedError("an offset lies outside the archive")
        return self._stream.seek(base + offset)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(MAX_DIRECTORY + 1 if size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(data) > MAX_DIRECTORY:
            raise PackedError("its directory is too large")
        return data


_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, MemoryError)
"""What zipfile raises on hostile archives."""


def zip_directory(stream: BinaryIO) -> Directory:
    """A zip archive's names and members, but for the raw tensors in PyTorch's; `PackedError` where it hides them."""
    try:
        archive = zipfile.ZipFile(cast(Any, _Guard(stream)))
    except _ZIP_ERRORS as error:
        raise PackedError(str(error)) from error
    infos = archive.infolist()
    names = frozenset(info.filename for info in infos)
    asked = [info for info in infos if not info.filename.endswith("/") and not _is_storage(info.filename, names)]
    if len(asked) > MAX_MEMBERS:
        raise PackedError(f"{len(asked)} members")
    return Directory(names, _zip_members(archive, asked))


def ends_as_zip(stream: BinaryIO) -> bool:
    """Whether a zip archive, perhaps behind something else, ends at the end of the stream, and has members.

    https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.15 and 4.3.16; found as zipfile finds it.
    """
    size = stream.seek(0, io.SEEK_END)
    base = stream.seek(max(size - MAX_END, 0))
    tail = stream.read(MAX_END)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        return False
    if tail[max(at - 20, 0) : at].startswith(b"PK\6\7"):
        return True
    directory = base + at - int.from_bytes(tail[at + 12 : at + 16], "little")
    if directory < 0:
        return False
    stream.seek(directory)
    return stream.read(4) == b"PK\1\2"


def _is_storage(name: str, names: frozenset[str]) -> bool:
    match = _STORAGE.fullmatch(name)
    return bool(match and not names.isdisjoint((f"{match[1]}/data.pkl", f"{match[1]}/constants.pkl")))


def _zip_members(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> Iterator[Member]:
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise PackedError(f"a compression of {info.filename[:100]} that no weights use")
        try:
            stream = archive.open(info)
        except _ZIP_ERRORS as error:
            raise PackedError(str(error)) from error
        with stream:
            yield Member(info.filename, cast(BinaryIO, _Forward(stream)))


class _Forward(io.RawIOBase):
    """A zip member as a stream that does not seek (it would decompress to get there), its errors `PackedError`."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._inner = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        try:
            data = self._inner.read(len(view))
        except _ZIP_ERRORS as error:
            raise PackedError(str(error)) from error
        view[: len(data)] = data
        return len(data)


def is_tar(start: bytes) -> bool:
    """Whether a tar archive begins with `start`, of at least 512 bytes."""
    return start[257:262] == b"ustar"


def tar_members(stream: BinaryIO) -> Iterator[Member]:
    """The files in a tar archive, each with its first 64 KiB; `PackedError` for more than are looked into.

    https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06
    """
    position = 0
    for _ in range(MAX_MEMBERS):
        stream.seek(position)
        header = stream.read(_TAR_BLOCK)
        if len(header) < _TAR_BLOCK or not header.strip(b"\0"):
            return
        size = _tar_number(header[124:136])
        if not 0 <= size <= _MAX_SIZE:
            raise PackedError("a size that no file has")
        name = header[:100].split(b"\0")[0].decode("utf-8", "replace")
        if header[156:157] in b"\x000" and size:
            yield Member(name, io.BytesIO(stream.read(min(size, _CHUNK))))
        position += _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK
    raise PackedError("too many members")


def _tar_number(octets: bytes) -> int:
    if octets[0] & 0x80:
        return int.from_bytes((octets[0] & 0x7F, *octets[1:]), "big")
    try:
        return int(octets.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise PackedError("a size is malformed") from error
