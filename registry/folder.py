"""A folder that files are written into: all of them, or, as far as names tell, none.

Files are made in a hidden folder inside the target and renamed when every one is whole. A run that was killed leaves
that folder behind; the next one compares what is in it with what should be, and goes on behind the last right byte.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from threading import Event
from typing import BinaryIO, NamedTuple

from registry.blob import CHUNK, Blob, FileBlob
from registry.disk import require_free
from registry.errors import ContentError, UsageError
from registry.join import JoinedBlob, Region
from registry.names import RelativePath

STAGING = ".packer-staging"
"""The hidden folder."""

WRITERS = 2
"""Files that are written at the same time: memory and fast disks take more than one processor can give."""

_PIECE = 16 << 20
"""Bytes that the kernel copies in one call, after which progress is told."""

_CANNOT = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
_SPACE = "free some; what is written stays, and is not written again"


class NamedBlob(NamedTuple):
    """What a file is to be: its path below the folder, its size in bytes and its content."""

    name: RelativePath
    size: int
    blob: Blob


def _ignore(_: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Folder:
    """A folder to write to; `advance` is told, by several threads, of the bytes that are written or were there."""

    path: Path
    advance: Callable[[int], None] = _ignore

    def write(self, files: Sequence[NamedBlob]) -> list[Path]:
        """Write the files, which get their names in this order, and return their paths.

        A file that is there with the same content stays. `UsageError` if the folder holds anything else, or another
        packer is writing to it; `SpaceError` if the disk is too full.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            names = {file.name for file in files}
            self._refuse_others(names)
            self._remove_stale(names)
            there = sum(path.stat().st_size for file in files if (path := self._found(file.name)).exists())
            require_free(self.path, sum(file.size for file in files) - there, _SPACE)
            staged = self._stage_all(files)
            for file, path in zip(files, staged, strict=True):
                (self.path / file.name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(self.path / file.name)
            _remove_folders(self.path / STAGING)
        return [self.path / file.name for file in files]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError("another packer is writing to this folder", subject=str(self.path)) from error
            yield
        finally:
            os.close(descriptor)

    def _refuse_others(self, names: set[RelativePath]) -> None:
        for path in self.path.rglob("*"):
            name = path.relative_to(self.path)
            if path.is_file() and name.as_posix() not in names and name.parts[0] != STAGING:
                raise UsageError(
                    "this folder holds something else",
                    subject=str(self.path),
                    expected="an empty folder, a new one, or what is left of the same run",
                    found=name.as_posix(),
                    hint="name another folder",
                )

    def _remove_stale(self, names: set[RelativePath]) -> None:
        """Remove what another run, with another result, has left in the hidden folder."""
        staging = self.path / STAGING
        for path in staging.rglob("*"):
            if not path.is_dir() and path.relative_to(staging).as_posix() not in names:
                path.unlink()

    def _found(self, name: RelativePath) -> Path:
        """Where what is there of a file lies."""
        final = self.path / name
        return final if final.exists() else self.path / STAGING / name

    def _stage_all(self, files: Sequence[NamedBlob]) -> list[Path]:
        """The paths under which the files are whole; the first failure, or an interruption, stops all writers."""
        stop = Event()
        with ThreadPoolExecutor(WRITERS) as pool:
            try:
                return list(pool.map(lambda file: self._stage(file, stop), files))
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _stage(self, file: NamedBlob, stop: Event) -> Path:
        """The path under which the file is whole, unless it is time to stop."""
        path = self._found(file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _common(file.blob, path) if path.exists() else 0
        self.advance(whole)
        if path.exists() and whole == file.size == path.stat().st_size:
            return path
        if path == self.path / file.name:
            raise UsageError(
                "this folder holds another file of that name", subject=str(path), hint="name another folder"
            )
        with path.open("r+b" if path.exists() else "xb", buffering=0) as target:
            target.truncate(whole)
            target.seek(whole)
            for count in _copy(file.blob, file.size, whole, target.fileno()):
                self.advance(count)
                if stop.is_set():
                    return path
            os.fsync(target.fileno())
        return path


def _common(blob: Blob, path: Path) -> int:
    """How many bytes at the front of a file are those of the blob."""
    same = 0
    with blob.open() as one, path.open("rb") as other:
        while (expected := one.read(CHUNK)) and (found := other.read(len(expected))):
            if expected != found:
                pairs = zip(expected, found, strict=False)
                return same + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            same += len(expected)
    return same


def _copy(blob: Blob, size: int, start: int, target: int) -> Iterator[int]:
    """Append the blob from the byte `start` on to a file descriptor; yields the bytes of each piece."""
    at = 0
    with ExitStack() as stack:
        streams: dict[int, BinaryIO] = {}
        for region in blob.regions if isinstance(blob, JoinedBlob) else (Region(blob, 0, size),):
            skip = max(min(start - at, region.length), 0)
            at += region.length
            if skip == region.length:
                continue
            key = id(region.blob)
            if key not in streams:
                streams[key] = stack.enter_context(region.blob.open())
            part = Region(region.blob, region.start + skip, region.length - skip)
            yield from (_in_kernel if isinstance(region.blob, FileBlob) else _by_hand)(part, streams[key], target)


def _in_kernel(region: Region, source: BinaryIO, target: int) -> Iterator[int]:
    """By copy_file_range, which shares the blocks on file systems that can, or by sendfile where it does not work."""
    at, end = region.start, region.start + region.length
    call: Callable[[int, int, int, int], int] = _copy_file_range
    while at < end:
        try:
            count = call(source.fileno(), target, at, min(end - at, _PIECE))
        except OSError as error:
            if error.errno not in _CANNOT or call is _sendfile:
                raise
            call = _sendfile
            continue
        if not count:
            raise ContentError("a file ended early while it was copied", expected=f"{end - at} bytes more")
        at += count
        yield count


def _copy_file_range(source: int, target: int, at: int, count: int) -> int:
    return os.copy_file_range(source, target, count, at)


def _sendfile(source: int, target: int, at: int, count: int) -> int:
    return os.sendfile(target, source, at, count)


def _by_hand(region: Region, source: BinaryIO, target: int) -> Iterator[int]:
    source.seek(region.start)
    left = region.length
    while left:
        piece = source.read(min(left, CHUNK))
        if not piece:
            raise ContentError("a file ended early while it was copied", expected=f"{left} bytes more")
        yield from _written(target, piece)
        left -= len(piece)


def _written(target: int, piece: bytes) -> Iterator[int]:
    view = memoryview(piece)
    while view:
        count = os.write(target, view)
        view = view[count:]
        yield count


def _remove_folders(folder: Path) -> None:
    """Remove what is left of the hidden folder: folders."""
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        path.rmdir()
    if folder.is_dir():
        folder.rmdir()
