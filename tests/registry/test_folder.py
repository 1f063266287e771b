"""Writing a folder: whole or not at all, and never a byte twice that was right."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from registry import folder as module
from registry.blob import BytesBlob, FileBlob
from registry.descriptor import OCTETS, Descriptor
from registry.errors import ContentError, SpaceError, TransferError, UsageError
from registry.folder import STAGING, Folder, NamedBlob, open_own
from registry.join import JoinedBlob, Region
from registry.names import relative_path
from tests.parts.interrupt import interrupted


def named(name: str, *parts: bytes | Region) -> NamedBlob:
    blob = JoinedBlob.of(parts)
    return NamedBlob(relative_path(name, name), blob.size, blob)


@pytest.fixture
def source(tmp_path: Path) -> FileBlob:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(5 << 20))
    return FileBlob.at(path)


def test_regions_of_files_and_bytes(tmp_path: Path, source: FileBlob) -> None:
    data = source.path.read_bytes()
    files = [named("a/b", b"head", Region(source, 7, 3 << 20), b"tail"), named("c", Region(source, 0, 5))]
    moved: list[int] = []
    written = Folder(tmp_path / "out", moved.append).write(files)
    assert written == [tmp_path / "out/a/b", tmp_path / "out/c"]
    assert written[0].read_bytes() == b"head" + data[7 : 7 + (3 << 20)] + b"tail"
    assert written[1].read_bytes() == data[:5]
    assert sum(moved) == sum(file.size for file in files)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]


@pytest.mark.parametrize("fails", [None, errno.EXDEV, errno.EPERM, 0])
def test_the_kernel_copies_one_way_or_the_other(
    tmp_path: Path, source: FileBlob, monkeypatch: pytest.MonkeyPatch, fails: int | None
) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: int) -> int:
            calls.append(name)
            if name == "copy_file_range" and fails is not None:
                if fails:
                    raise OSError(fails, os.strerror(fails))
                return 0
            return int(real(*arguments))

        monkeypatch.setattr(os, name, call)

    counted("copy_file_range")
    counted("sendfile")
    Folder(tmp_path / "out").write([named("a", Region(source, 1, source.size - 1))])
    assert (tmp_path / "out/a").read_bytes() == source.path.read_bytes()[1:]
    assert ("sendfile" in calls) == (fails is not None)
    assert "copy_file_range" in calls


def test_a_whole_folder_is_not_written_again(tmp_path: Path, source: FileBlob) -> None:
    files = [named("a", Region(source, 0, source.size)), named("b", b"x")]
    Folder(tmp_path / "out").write(files)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    Folder(tmp_path / "out").write(files)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("left", [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_was_killed_goes_on_behind_the_last_right_byte(
    tmp_path: Path, source: FileBlob, left: int, damaged: bool
) -> None:
    data = source.path.read_bytes()
    staged = tmp_path / "out" / STAGING / "a"
    staged.parent.mkdir(parents=True)
    kept = bytearray(data[:left])
    if damaged and left:
        kept[-1] ^= 1
    staged.write_bytes(kept)
    number = staged.stat().st_ino
    copied = list[int]()
    original = module._copy

    def counting(blob: object, size: int, start: int, target: int) -> object:
        copied.append(size - start)
        return original(blob, size, start, target)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_copy", counting)
        Folder(tmp_path / "out").write([named("a", Region(source, 0, source.size))])
    right = left - 1 if damaged and left else left
    assert sum(copied) == len(data) - right
    assert (tmp_path / "out/a").read_bytes() == data
    assert (tmp_path / "out/a").stat().st_ino == number


def test_a_staged_file_that_is_too_long_is_cut(tmp_path: Path) -> None:
    staged = tmp_path / STAGING / "a"
    staged.parent.mkdir()
    staged.write_bytes(b"right and more")
    Folder(tmp_path).write([named("a", b"right")])
    assert (tmp_path / "a").read_bytes() == b"right"


def test_what_another_run_has_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / STAGING / "deep").mkdir(parents=True)
    (tmp_path / STAGING / "deep" / "model-00001-of-00009.safetensors").write_bytes(b"x")
    (tmp_path / STAGING / "a").write_bytes(b"o")
    Folder(tmp_path).write([named("a", b"one")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one"}


def test_what_is_spared_stays_until_all_is_written(tmp_path: Path) -> None:
    (tmp_path / STAGING).mkdir()
    for name in ("mine", "a", "stale"):
        (tmp_path / STAGING / name).write_bytes(b"1")
    folder = Folder(tmp_path, spared=frozenset({"mine"}))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SpaceError):
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
        folder.write([named("a", b"1"), named("b", b"22")])
    assert {path.name for path in (tmp_path / STAGING).iterdir()} == {"mine", "a"}
    folder.write([named("a", b"1"), named("b", b"22")])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_what_is_there_under_both_names(tmp_path: Path) -> None:
    """As where what had its name already was made once more."""
    (tmp_path / STAGING).mkdir()
    for path in (tmp_path / "a", tmp_path / STAGING / "a"):
        path.write_bytes(b"one")
    Folder(tmp_path).write([named("a", b"one"), named("b", b"two")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one", "b": b"two"}


def test_killed_between_the_names(tmp_path: Path) -> None:
    (tmp_path / STAGING).mkdir()
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / STAGING / "b").write_bytes(b"two")
    Folder(tmp_path).write([named("a", b"one"), named("b", b"two")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one", "b": b"two"}


@pytest.mark.parametrize("there", [{"other": b""}, {"a": b"different"}, {"a": b"longer!"}, {"x/y": b""}])
def test_other_files_are_never_touched(tmp_path: Path, there: dict[str, bytes]) -> None:
    for name, data in there.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match="holds"):
        Folder(tmp_path).write([named("a", b"longer")])
    assert {name: (tmp_path / name).read_bytes() for name in there} == there


def test_only_one_writes(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(UsageError, match="another packer"):
            Folder(tmp_path).write([named("a", b"x")])
    finally:
        os.close(descriptor)


def test_a_full_disk_is_said_before(tmp_path: Path) -> None:
    blob = BytesBlob.of(OCTETS, b"")
    with pytest.raises(SpaceError, match="too full"):
        Folder(tmp_path).write([NamedBlob(relative_path("a", "a"), 1 << 60, blob)])


def test_a_source_that_changes_or_shrinks(tmp_path: Path, source: FileBlob) -> None:
    file = named("a", Region(source, 0, source.size))
    os.truncate(source.path, 10)
    with pytest.raises(TransferError, match="changed while"):
        Folder(tmp_path / "out").write([file])
    short = named("a", Region(FileBlob.at(source.path), 5, 10))
    with pytest.raises(ContentError, match="ended early"):
        Folder(tmp_path / "out2").write([short])
    assert not (tmp_path / "out2/a").exists()


@dataclass
class Broken:
    """A blob that fails when it is opened."""

    descriptor: Descriptor = BytesBlob.of(OCTETS, b"x").descriptor

    def open(self) -> BinaryIO:
        raise TransferError("the source is gone")


def test_a_writer_that_fails_stops_the_other(tmp_path: Path, source: FileBlob) -> None:
    moved: list[int] = []

    def slowly(count: int) -> None:
        moved.append(count)
        time.sleep(0.01)

    large = named("large", *[Region(source, at, 1 << 10) for at in range(0, 4 << 20, 2 << 10)])
    with pytest.raises(TransferError, match="the source is gone"):
        Folder(tmp_path / "out", slowly).write([large, NamedBlob(relative_path("b", ""), 1, Broken())])
    assert sum(moved) < large.size / 2


@dataclass
class Stuck:
    """A blob whose bytes do not come for half a minute."""

    descriptor: Descriptor = BytesBlob.of(OCTETS, b"x").descriptor

    def open(self) -> BinaryIO:
        time.sleep(30)
        raise TransferError("the source is gone")


def test_an_interruption_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    began = time.monotonic()
    with interrupted(0.5), pytest.raises(KeyboardInterrupt):
        Folder(tmp_path / "out").write([NamedBlob(relative_path("a", ""), 1, Stuck()), named("b", b"x")])
    assert time.monotonic() - began < 15


def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    """A model of hundreds of shards is merged under the usual limits."""
    paths = [tmp_path / f"{number}" for number in range(100)]
    for path in paths:
        path.write_bytes(path.name.encode())
    most = [0]

    def counting(_: int) -> None:
        most[0] = max(most[0], len(os.listdir("/proc/self/fd")))

    before = len(os.listdir("/proc/self/fd"))
    Folder(tmp_path / "out", counting).write([named("a", *[Region(FileBlob.at(path), 0, 1) for path in paths])])
    assert (tmp_path / "out/a").read_bytes() == b"".join(path.name[:1].encode() for path in paths)
    assert most[0] - before < 50


_KILLED = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from registry.blob import FileBlob
from registry.folder import Folder, NamedBlob
source = FileBlob.at(Path(sys.argv[1]))
Folder(Path(sys.argv[2]), lambda count: time.sleep(0.05)).write(
    [NamedBlob(f"{number}", source.size, source) for number in range(50)])
"""


def test_killed_for_real(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20))
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", _KILLED, source, out])
    deadline = time.monotonic() + 30
    while not (out / STAGING / "3").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert [path.name for path in out.iterdir()] == [STAGING]
    whole = {path: path.stat().st_mtime_ns for path in (out / STAGING).iterdir() if path.stat().st_size == 1 << 20}
    assert whole
    blob = FileBlob.at(source)
    Folder(out).write([NamedBlob(relative_path(f"{number}", ""), blob.size, blob) for number in range(50)])
    assert all(path.read_bytes() == source.read_bytes() for path in out.iterdir())
    assert len(list(out.iterdir())) == 50
    written_again = [path for path, when in whole.items() if (out / path.name).stat().st_mtime_ns != when]
    assert written_again == []


def test_a_hidden_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/precious").write_bytes(b"1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STAGING).symlink_to(tmp_path / "theirs")
    with pytest.raises(UsageError, match="something else has the name"):
        Folder(tmp_path / "out").write([named("a", b"x")])
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["precious"]
    (tmp_path / "out" / STAGING).unlink()
    (tmp_path / "out" / STAGING).write_bytes(b"")
    with pytest.raises(UsageError, match="something else has the name"):
        Folder(tmp_path / "out").write([named("a", b"x")])


def test_nothing_is_written_through_links_in_the_hidden_folder(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/precious").write_bytes(b"1")
    staging = tmp_path / "out" / STAGING
    staging.mkdir(parents=True)
    (staging / "a").symlink_to(tmp_path / "theirs/precious")
    (staging / "b").symlink_to(tmp_path / "theirs/new")
    (staging / "deep").symlink_to(tmp_path / "theirs")
    os.mkfifo(staging / "c")
    names = ("a", "b", "c", "deep/a")
    Folder(tmp_path / "out").write([named(name, b"two") for name in names])
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == dict.fromkeys(names, b"two")
    assert not any((tmp_path / "out" / name).is_symlink() for name in (*names, "deep"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()} == {"precious": b"1"}


def test_own_files_are_opened_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError):
        open_own(tmp_path / "link")
    assert not (tmp_path / "theirs").exists()
