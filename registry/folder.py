"""A folder that files are written into: all of them, or, as far as names tell, none.

Files are made in a hidden folder inside the target and renamed when every one is whole. A run that was killed leaves
that folder behind; the next one compares what is in it with what should be, and goes on behind the last right byte.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from threading import Event
from typing import BinaryIO, NamedTuple, Self

from registry.blob import CHUNK, Blob, FileBlob
from registry.disk import require_free
from registry.errors import ContentError, UsageError
from registry.join import JoinedBlob, Region
from registry.names import RelativePath
from registry.parallel import run_each
from registry.retry import Log

STAGING = ".packer-staging"
"""The hidden folder."""

WRITERS = 2
"""Files that are written at the same time: memory and fast disks take more than one processor can give."""

_PIECE = 16 << 20
"""Bytes that the kernel copies in one call, after which progress is told."""

_OPEN = 16
"""Files that are kept open at once to be copied from: a model may come from hundreds."""

_CANNOT = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM))
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
    """A folder to write to; `advance` is told, by several threads, of the bytes that are written or were there.

    Files of the names `spared` in the hidden folder are another's, and stay until all is written.
    """

    path: Path
    advance: Callable[[int], None] = _ignore
    spared: frozenset[str] = frozenset()

    def write(self, files: Sequence[NamedBlob]) -> list[Path]:
        """Write the files, which get their names in this order, and return their paths.

        A file that is there with the same content stays. `UsageError` if the folder holds anything else, or another
        packer is writing to it; `SpaceError` if the disk is too full.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            names = {file.name for file in files}
            self._refuse_others(names)
            self._remove_stale(names)
            there = sum(path.stat().st_size for file in files if (path := self._found(file.name)).exists())
            require_free(self.path, sum(file.size for file in files) - there, _SPACE)
            staged = self._stage_all(files)
            for file, path in zip(files, staged, strict=True):
                (self.path / file.name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(self.path / file.name)
            if (staging := staging_in(self.path)).is_dir():
                shutil.rmtree(staging)  # what is left is there under its name, or was spared
        return [self.path / file.name for file in files]

    def _refuse_others(self, names: set[RelativePath]) -> None:
        for path in self.path.rglob("*"):
            name = path.relative_to(self.path)
            if path.is_file() and name.as_posix() not in names and name.parts[0] != STAGING:
                raise occupied(self.path, name)

    def _remove_stale(self, names: set[RelativePath]) -> None:
        """Remove what another run, with another result, has left in the hidden folder."""
        staging = staging_in(self.path)
        for path in staging.rglob("*"):
            if not path.is_dir() and path.relative_to(staging).as_posix() not in names | self.spared:
                path.unlink()

    def _found(self, name: RelativePath) -> Path:
        """Where what is there of a file lies."""
        final = self.path / name
        return final if final.exists() else self.path / STAGING / name

    def _stage_all(self, files: Sequence[NamedBlob]) -> list[Path]:
        """The paths under which the files are whole; the first failure, or an interruption, stops all writers."""
        return run_each(self._stage, files, WRITERS)

    def _stage(self, file: NamedBlob, stop: Event) -> Path:
        """The path under which the file is whole, unless it is time to stop."""
        path = self._found(file.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if path.exists():
            is_itself = isinstance(file.blob, FileBlob) and file.blob.path.absolute() == path.absolute()
            whole = file.size if is_itself else _common(file.blob, path, stop)
        self.advance(whole)
        if stop.is_set() or (path.exists() and whole == file.size == path.stat().st_size):
            return path
        if path == self.path / file.name:
            raise UsageError(
                "this folder holds another file of that name", subject=str(path), hint="name another folder"
            )
        with os.fdopen(open_own(path), "wb", buffering=0) as target:
            target.truncate(whole)
            target.seek(whole)
            for count in _copy(file.blob, file.size, whole, target.fileno()):
                self.advance(count)
                if stop.is_set():
                    return path
            os.fsync(target.fileno())
        return path


def occupied(folder: Path, name: Path) -> UsageError:
    """What is said of a folder with a file in it that no result can have."""
    return UsageError(
        "this folder holds something else",
        subject=str(folder),
        expected="an empty folder, a new one, or what is left of the same run",
        found=name.as_posix(),
        hint="name another folder",
    )


def staging_in(folder: Path) -> Path:
    """The hidden folder of a folder, which need not be there; what is neither file nor folder in it, is removed.

    `UsageError` if something else has its name: what is done in there would be done where a link leads.
    """
    staging = folder / STAGING
    if staging.is_symlink() or (staging.exists() and not staging.is_dir()):
        raise UsageError(
            "something else has the name of the folder that files are made in",
            subject=str(staging),
            expected="a folder, or nothing",
            found="a link" if staging.is_symlink() else "a file",
            hint="remove it, or name another folder",
        )
    for path in list(staging.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            path.unlink()
    return staging


def open_own(path: Path, flags: int = os.O_WRONLY, mode: int = 0o666) -> int:
    """A descriptor to write to a file in the hidden folder, which is made if it is not there, but through no link."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


@contextmanager
def locked(folder: Path, log: Log | None = None) -> Iterator[None]:
    """The folder is ours to write to while the block runs.

    If it is another packer's, that is a `UsageError`; or with a `log`, which is told, we wait until it is free.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if log:
            await_lock(descriptor, log, f"another packer is at work on the same; waiting until it ends ({folder})")
        else:
            _require_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _require_lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError("another packer is writing to this folder", subject=str(folder)) from error


def await_lock(descriptor: int, log: Log, text: str) -> None:
    """Lock what is open under a descriptor; if another process holds it, tell `text` and wait."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log(text)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _common(blob: Blob, path: Path, stop: Event) -> int:
    """How many bytes at the front of a file are those of the blob, as far as there was time to look."""
    same = 0
    with blob.open() as one, path.open("rb") as other:
        while not stop.is_set() and (expected := one.read(CHUNK)) and (found := other.read(len(expected))):
            if expected != found:
                pairs = zip(expected, found, strict=False)
                return same + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            same += len(expected)
    return same


def _copy(blob: Blob, size: int, start: int, target: int) -> Iterator[int]:
    """Append the blob from the byte `start` on to a file descriptor; yields the bytes of each piece."""
    at = 0
    with _Streams() as streams:
        for region in blob.regions if isinstance(blob, JoinedBlob) else (Region(blob, 0, size),):
            skip = max(min(start - at, region.length), 0)
            at += region.length
            if skip == region.length:
                continue
            part = Region(region.blob, region.start + skip, region.length - skip)
            copy = _in_kernel if isinstance(region.blob, FileBlob) else _by_hand
            yield from copy(part, streams.of(region.blob), target)


class _Streams:
    """The streams of the blobs that were read last."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()

    def of(self, blob: Blob) -> BinaryIO:
        """The blob's stream, opened if it is not."""
        key = id(blob)
        if key not in self._open:
            self._open[key] = blob.open()
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return self._open[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._open.values():
            stream.close()


def _in_kernel(region: Region, source: BinaryIO, target: int) -> Iterator[int]:
    """By copy_file_range, which shares the blocks on file systems that can, or by sendfile where that says that it
    cannot, or copies nothing, as it does for files that the kernel makes up.
    """
    at, end = region.start, region.start + region.length
    call: Callable[[int, int, int, int], int] = _copy_file_range
    while at < end:
        try:
            count = call(source.fileno(), target, at, min(end - at, _PIECE))
        except OSError as error:
            if error.errno not in _CANNOT or call is _sendfile:
                raise
            count = 0
        if not count and call is _copy_file_range:
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
