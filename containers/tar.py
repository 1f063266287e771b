"""Tar, both ways: layers that are not written anywhere, and members taken from a stream.

A layer is headers, regions of files and padding until somebody reads it. GNU format is written because sizes beyond
8 GiB must fit and PAX headers are misread by scanners (`docs/adr/0003-layers.md`). GNU, USTAR and PAX are read, as
other tools write them (`docs/adr/0013-foreign-layers.md`).
https://www.gnu.org/software/tar/manual/html_node/Standard.html
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import BinaryIO, NamedTuple, cast

from registry.blob import CHUNK, digest_stream
from registry.descriptor import IMAGE_LAYER, Descriptor
from registry.errors import ContentError
from registry.join import Chain

BLOCK = 512
MAX_NAME = 64 << 10
"""Bytes of a long name, or of the records of one extended header, that are accepted from a foreign tar."""

MAX_MEMBERS = 20_000
"""Members of a tar far away whose headers are asked for, and files of an artifact that is looked at."""

MAX_EXTENSIONS = 8
"""Extended headers and long names that are accepted before one member; no writer is known to need more than two."""

MAX_HEADERS = 64 << 20
"""Bytes of headers, with what extends them, that are asked for of a tar far away: 3 KiB for each of `MAX_MEMBERS`."""

_EXTENDED = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
_EXTENSIONS = _EXTENDED | {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_PARTIAL = frozenset({tarfile.GNUTYPE_SPARSE, b"M"})
_EMPTY = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
)
_LENGTH = re.compile(rb"([0-9]{1,6}) ")
_SIZE = re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True)
class Member:
    """One entry of a layer: a folder (`open` is None, no size), a link (`target`), or a file of `size` bytes."""

    name: str
    size: int = 0
    open: Callable[[], BinaryIO] | None = None
    target: str = ""
    mode: int = 0o644

    def header(self) -> bytes:
        """The header blocks: owner 0, time 0, so that the same input gives the same bytes everywhere."""
        info = tarfile.TarInfo(self.name)
        info.size, info.mode, info.mtime, info.linkname = self.size, self.mode, 0, self.target
        info.type = tarfile.SYMTYPE if self.target else tarfile.REGTYPE if self.open else tarfile.DIRTYPE
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")

    @property
    def padding(self) -> int:
        """Zero bytes that fill the last block."""
        return -self.size % BLOCK


def folder(name: str, mode: int = 0o755) -> Member:
    """A folder, `name` without its final slash."""
    return Member(name + "/", mode=mode)


@dataclass(frozen=True)
class TarLayer:
    """A layer over `members` in the given order. Its digest is computed when first asked for, from one read."""

    members: tuple[Member, ...]

    @cached_property
    def size(self) -> int:
        """Bytes of the tar; needs no read."""
        return sum(len(member.header()) + member.size + member.padding for member in self.members) + 2 * BLOCK

    @cached_property
    def descriptor(self) -> Descriptor:
        """Reads every member, once."""
        with self.open() as stream:
            return Descriptor(IMAGE_LAYER, digest_stream(stream), self.size)

    def open(self) -> BinaryIO:
        """A stream over the tar, made while it is read."""
        return cast(BinaryIO, io.BufferedReader(Chain(self._parts()), CHUNK))

    def _parts(self) -> Iterator[BinaryIO]:
        padding = b""
        for member in self.members:
            yield io.BytesIO(padding + member.header())
            if member.open:
                yield member.open()
            padding = bytes(member.padding)
        yield io.BytesIO(padding + bytes(2 * BLOCK))


@dataclass(frozen=True)
class Entry:
    """A regular file met in a tar stream; `content` must be read before the next entry is asked for."""

    name: str
    size: int
    content: Iterator[bytes]


def read_tar(stream: BinaryIO, origin: str) -> Iterator[Entry]:
    """The regular files of a tar in GNU, USTAR or PAX format, as they come; `ContentError` naming `origin` otherwise.

    Folders are passed over. Links and devices are passed over too: nothing that is made from this stream can point
    anywhere. Memory is bounded by `MAX_NAME` and `CHUNK`, whatever the headers say. The stream is read to its end,
    so that its digest is checked.
    """
    while (found := _next_member(stream, origin)) is not None:
        content = _content(stream, found.size, origin)
        if found.kind is Kind.FILE:
            yield Entry(found.name, found.size, content)
        for _ in content:
            pass
    for _ in iter(lambda: stream.read(CHUNK), b""):
        pass


class NotTarError(ContentError):
    """Where a header should be there is none."""


class Kind(StrEnum):
    """What a member is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    OTHER = "device or pipe"


class Walked(NamedTuple):
    """A member as its headers have it: where its content begins, and of a link the target, cut at 100 bytes."""

    name: str
    start: int
    size: int
    kind: Kind
    mode: int
    owner: int
    target: str


def walk_tar(stream: BinaryIO, origin: str) -> Iterator[tuple[str, int, int]]:
    """The regular files of a tar whose stream seeks, without their content: name, offset of the first byte, size.

    Reads headers alone. `ContentError` as `read_tar` has it, for more than `MAX_MEMBERS`, and for more than
    `MAX_HEADERS`.
    """
    whole = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    for member in walk_members(stream, origin, whole):
        if member.kind is Kind.FILE:
            yield member.name, member.start, member.size


def walk_members(stream: BinaryIO, origin: str, whole: int) -> Iterator[Walked]:
    """Every member of a tar of `whole` bytes, from headers alone; of `stream` only `tell` and seeks forward are used.

    `ContentError` as `walk_tar` has it.
    """
    position, members, headers = 0, 0, 0
    while (found := _next_member(stream, origin)) is not None:
        start = stream.tell()
        members, headers = members + 1, headers + start - position
        if members > MAX_MEMBERS or headers > MAX_HEADERS:
            raise ContentError(
                "a tar has too many members or headers",
                subject=origin,
                expected=f"at most {MAX_MEMBERS} members and {MAX_HEADERS} bytes of headers",
                found="more",
            )
        position = start + found.size
        if position > whole:
            raise ContentError("a tar member is truncated", subject=origin, expected=f"{position} bytes", found=whole)
        yield Walked(
            found.name, start, found.size, found.kind, found.header.mode, found.header.owner, found.header.target
        )
        position += -found.size % BLOCK
        stream.seek(position)


_KINDS = {
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.CHRTYPE: Kind.OTHER,
    tarfile.BLKTYPE: Kind.OTHER,
    tarfile.FIFOTYPE: Kind.OTHER,
}
"""Of members without content."""


class _Header(NamedTuple):
    """One header block: its fields, and its type."""

    name: str
    size: int
    kind: bytes
    mode: int
    owner: int
    target: str


class _Found(NamedTuple):
    """A member after all its headers: `size` are the bytes that follow them, without padding."""

    name: str
    size: int
    kind: Kind
    header: _Header


def _next_member(stream: BinaryIO, origin: str) -> _Found | None:
    """The next member, with what the headers before it say; None at the end. The stream then stands at its content."""
    said: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    for _ in range(MAX_EXTENSIONS + 1):
        header = _next_header(stream, origin)
        if header is None or header.kind not in _EXTENSIONS:
            return _member(header, said, seen, origin)
        said |= _extension(header, _extra(stream, header, origin), origin)
        if header.kind != tarfile.XGLTYPE:
            _refuse_second(header.kind, seen, origin)
            seen.add(header.kind)
    raise ContentError(
        "a tar member has too many extended headers", subject=origin, expected=f"at most {MAX_EXTENSIONS}", found="more"
    )


def _refuse_second(kind: bytes, seen: set[bytes], origin: str) -> None:
    """Readers differ in which of two headers for one member counts; no writer makes two."""
    if kind in seen or (seen and (seen | {kind}) & _EXTENDED):
        raise ContentError(
            "a tar member has two headers that extend it",
            subject=origin,
            expected="one extended header, or one GNU long name and one GNU long link",
        )


def _member(header: _Header | None, said: dict[bytes, bytes], seen: set[bytes], origin: str) -> _Found | None:
    if header is None:
        if seen:
            raise ContentError("an extended tar header has no member", subject=origin, found="the end")
        return None
    if header.kind in _PARTIAL:
        raise _partial(origin)
    name = _text(said[b"path"], origin) if said.get(b"path") else header.name
    size = _size(said[b"size"], origin) if said.get(b"size") else header.size
    if header.kind in _EMPTY or (header.kind == tarfile.AREGTYPE and name.endswith("/")):
        return _Found(name, 0, _KINDS.get(header.kind, Kind.FOLDER), header)  # as Go and Python read it
    return _Found(name, size, Kind.FILE if header.kind in _FILES else Kind.OTHER, header)


def _extension(header: _Header, data: bytes, origin: str) -> dict[bytes, bytes]:
    """What an extended header or a long name says of the member behind it: its path, its size, or nothing."""
    if header.kind == tarfile.GNUTYPE_LONGLINK:
        return {}
    if header.kind == tarfile.GNUTYPE_LONGNAME:
        return {b"path": data.partition(b"\0")[0]}
    said = dict(_records(data, origin))
    if any(key.startswith(b"GNU.sparse.") for key in said):
        raise _partial(origin)
    said = {key: said[key] for key in (b"path", b"size") if key in said}
    if header.kind == tarfile.XGLTYPE and said:
        raise ContentError("a global tar header names every member, or sets its size", subject=origin)
    return said


def _records(data: bytes, origin: str) -> Iterator[tuple[bytes, bytes]]:
    """The records of an extended header, `LENGTH KEY=VALUE` and a line feed each (POSIX.1-2001, pax)."""
    at = 0
    while at < len(data):
        length = _LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        key, equals, value = data[length.end() if length else 0 : max(end - 1, 0)].partition(b"=")
        if not key or not equals or data[end - 1 : end] != b"\n":
            raise ContentError(
                "an extended tar header is malformed",
                subject=origin,
                expected="records of a length, a key and a value",
                found=repr(data[at : at + 40]),
            )
        yield key, value
        at = end


def _size(value: bytes, origin: str) -> int:
    if not _SIZE.fullmatch(value):
        raise ContentError("the size in an extended tar header is no number", subject=origin, found=repr(value[:40]))
    return int(value)


def _text(value: bytes, origin: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ContentError("a tar member's name is not UTF-8", subject=origin) from error


def _partial(origin: str) -> ContentError:
    return ContentError(
        "sparse and multi-volume tar members are not supported",
        subject=origin,
        expected="whole files",
        hint="pack without --sparse and --multi-volume",
    )


def _next_header(stream: BinaryIO, origin: str) -> _Header | None:
    block = stream.read(BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        # a name that is too long for its field may be cut inside a letter; the whole name came before
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise NotTarError(f"this is not a tar header ({error})", subject=origin) from error
    if info.size < 0:
        raise ContentError("a tar member has a negative size", subject=origin, found=info.size)
    if block[257:265] == tarfile.GNU_MAGIC:  # where USTAR has the front of the name, GNU has times
        info.name = block[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    return _Header(info.name, info.size, block[156:157], info.mode, info.uid, info.linkname)


def _extra(stream: BinaryIO, header: _Header, origin: str) -> bytes:
    """The content of an extended header or of a long name."""
    if header.size > MAX_NAME:
        raise ContentError(
            "a tar member has an absurd name or extended header",
            subject=origin,
            expected=f"at most {MAX_NAME} bytes",
            found=header.size,
        )
    return b"".join(_content(stream, header.size, origin))


def _content(stream: BinaryIO, size: int, origin: str) -> Iterator[bytes]:
    left = size
    while left:
        piece = stream.read(min(left, CHUNK))
        if not piece:
            raise ContentError(
                "a tar member is truncated", subject=origin, expected=f"{left} more bytes", found="the end"
            )
        left -= len(piece)
        yield piece
    stream.read(-size % BLOCK)  # `umoci insert` leaves the last block of a layer unfilled
