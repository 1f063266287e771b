"""GNU tar, both ways: layers that are not written anywhere, and members taken from a stream.

A layer is headers, regions of files and padding until somebody reads it. GNU format because sizes beyond 8 GiB must
fit and PAX headers are misread by scanners (`docs/adr/0003-layers.md`).
https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, cast

from registry.blob import CHUNK, digest_stream
from registry.descriptor import IMAGE_LAYER, Descriptor
from registry.errors import ContentError
from registry.join import Chain

BLOCK = 512
MAX_NAME = 64 << 10
"""Bytes of a long name that are accepted from a foreign tar."""

MAX_MEMBERS = 20_000
"""Members of a tar far away whose headers are asked for."""


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
    """The regular files of a tar in GNU or USTAR format, as they come; `ContentError` naming `origin` otherwise.

    Folders are passed over. Links and devices are passed over too: nothing that is made from this stream can point
    anywhere. Memory is bounded by `MAX_NAME` and `CHUNK`, whatever the headers say. The stream is read to its end,
    so that its digest is checked.
    """
    long_name = ""
    while (info := _next_header(stream, origin)) is not None:
        if info.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _long_name(stream, info, origin)
            continue
        name, long_name = long_name or info.name, ""
        content = _content(stream, info.size, origin)
        if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield Entry(name, info.size, content)
        elif info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
            raise _pax(origin)
        for _ in content:
            pass
    for _ in iter(lambda: stream.read(CHUNK), b""):
        pass


def walk_tar(stream: BinaryIO, origin: str) -> Iterator[tuple[str, int, int]]:
    """The regular files of a tar whose stream seeks, without their content: name, offset of the first byte, size.

    Reads headers alone. `ContentError` as `read_tar` has it, and for more than `MAX_MEMBERS`.
    """
    long_name, position, whole = "", 0, stream.seek(0, io.SEEK_END)
    for _ in range(MAX_MEMBERS):
        stream.seek(position)
        info = _next_header(stream, origin)
        if info is None:
            return
        start, position = position + BLOCK, position + BLOCK + info.size + -info.size % BLOCK
        if position > whole:
            raise ContentError("a tar member is truncated", subject=origin, expected=f"{position} bytes", found=whole)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _long_name(stream, info, origin)
            continue
        if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
            raise _pax(origin)
        if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield long_name or info.name, start, info.size
        long_name = ""
    raise ContentError("a tar has too many members", subject=origin, expected=f"at most {MAX_MEMBERS}", found="more")


def _pax(origin: str) -> ContentError:
    return ContentError("PAX headers are not supported in layers", subject=origin, expected="GNU or USTAR tar")


def _next_header(stream: BinaryIO, origin: str) -> tarfile.TarInfo | None:
    block = stream.read(BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        # a name that is too long for its field may be cut inside a letter; the whole name came before
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise ContentError(f"this is not a tar header ({error})", subject=origin) from error
    if info.size < 0:
        raise ContentError("a tar member has a negative size", subject=origin, found=info.size)
    return info


def _long_name(stream: BinaryIO, info: tarfile.TarInfo, origin: str) -> str:
    if info.size > MAX_NAME:
        raise ContentError("a tar member has an absurd name", subject=origin, expected=f"at most {MAX_NAME} bytes")
    try:
        return b"".join(_content(stream, info.size, origin)).rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise ContentError("a tar member's name is not UTF-8", subject=origin) from error


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
    if len(stream.read(-size % BLOCK)) != -size % BLOCK:
        raise ContentError(
            "a tar member is truncated", subject=origin, expected="its last block filled", found="the end"
        )
