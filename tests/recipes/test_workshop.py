"""The folder in which a model is quantized: what is found in it again, and what is removed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from formats.snapshot import ModelFile, Origin, Snapshot
from recipes import workshop as module
from recipes.calibration import Samples, read_samples
from recipes.child import Answer
from recipes.task import PARTIAL, Done, Module
from recipes.workshop import DAYS, Workshop
from registry.blob import Blob, BytesBlob, FileBlob
from registry.descriptor import OCTETS
from registry.errors import SpaceError, UsageError
from registry.folder import locked
from registry.join import JoinedBlob, Region
from registry.names import relative_path
from registry.retry import Log

ANSWER = Answer(Done({"a": ("a", "b/c")}, (Module("m", "fp8"), Module("n", why="small"))), 1.5, 10, 0, 7, "cpu")


def quiet(_: object) -> None:
    """Nobody wants to know."""


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """One of several, which is there already, with what it holds when all is whole."""
    workshop = Workshop(tmp_path / "quantized/one", "one", is_single=False)
    with workshop.opened(quiet):
        for name in ("a", "b/c"):
            (workshop.folder / name).parent.mkdir(exist_ok=True)
            (workshop.folder / name).write_bytes(b"whole")
        workshop.record(ANSWER)
    return workshop


def test_what_is_whole_is_found_again(workshop: Workshop) -> None:
    with workshop.opened(quiet):
        assert workshop.recorded() == ANSWER
    (workshop.folder / "b/c").unlink()
    with workshop.opened(quiet):
        assert workshop.recorded() is None
        assert (workshop.folder / "a").read_bytes() == b"whole"


def test_without_a_record_nothing_was_done_to_the_end(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "new", "new", is_single=True)
    with workshop.opened(quiet):
        assert workshop.recorded() is None


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_file_of_another_size_is_not_what_was_made(workshop: Workshop, size: int) -> None:
    os.truncate(workshop.folder / "b/c", size)
    with workshop.opened(quiet):
        assert workshop.recorded() is None


def test_emptied_it_is_still_ours(workshop: Workshop) -> None:
    with workshop.opened(quiet):
        workshop.empty()
        assert names(workshop.folder) == {".packer-key"}
    with workshop.opened(quiet):
        assert workshop.recorded() is None
        assert (workshop.folder / ".packer-key").read_text() == "one"


def test_what_was_moved_out_of_the_only_result_is_moved_back(workshop: Workshop) -> None:
    """As by a run that was killed while files got their names; a file of another size is not ours."""
    single = Workshop(workshop.folder, "one", is_single=True)
    (single.folder / "a").rename(single.folder.parent / "a")
    with single.opened(quiet):
        assert single.recorded() == ANSWER
    assert (single.folder / "a").exists() and not (single.folder.parent / "a").exists()
    (single.folder / "a").unlink()
    (single.folder.parent / "a").write_bytes(b"theirs")
    with single.opened(quiet):
        assert single.recorded() is None
    assert (single.folder.parent / "a").read_bytes() == b"theirs"


def test_nobody_else_works_where_the_only_result_goes(tmp_path: Path) -> None:
    """As a run that gives the files of a result their names, and then removes the folder."""
    single = Workshop(tmp_path / "made/hidden", "one", is_single=True)
    (tmp_path / "made").mkdir()
    with locked(tmp_path / "made"), pytest.raises(UsageError, match="another packer"), single.opened(quiet):
        pass
    assert not single.folder.exists()
    with single.opened(quiet), pytest.raises(UsageError, match="another packer"), locked(tmp_path / "made"):
        pass


def test_others_in_a_cache_have_nothing_beside_it(workshop: Workshop) -> None:
    (workshop.folder / "a").rename(workshop.folder.parent / "a")
    with workshop.opened(quiet):
        assert workshop.recorded() is None
    assert (workshop.folder.parent / "a").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"done": {"files": {}, "modules": [{"colour": 1}], "config": {}}}']
)
def test_a_record_that_another_version_wrote_is_none(workshop: Workshop, text: str) -> None:
    (workshop.folder / ".packer-record.json").write_text(text)
    with workshop.opened(quiet):
        assert workshop.recorded() is None


def test_what_was_being_written_is_removed_and_the_rest_stays(workshop: Workshop) -> None:
    (workshop.folder / f"{PARTIAL}xyz").write_bytes(b"half")
    (workshop.folder / f"b/{PARTIAL}xyz").write_bytes(b"half")
    (workshop.folder / f"{PARTIAL}model").mkdir()
    (workshop.folder / f"{PARTIAL}model/{PARTIAL}xyz").write_bytes(b"half")
    with workshop.opened(quiet):
        assert names(workshop.folder) == {"a", "b/c", ".packer-key", ".packer-record.json"}


def test_what_was_made_for_another_key_is_removed(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine").write_bytes(b"mine")
    (workshop.folder / "link").symlink_to(tmp_path / "elsewhere")
    with Workshop(workshop.folder, "two", is_single=True).opened(quiet):
        assert names(workshop.folder) == {".packer-key"}
    assert names(tmp_path / "elsewhere") == {"mine"}


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError), Workshop(tmp_path / "link", "one", is_single=True).opened(quiet):
        pass
    assert names(tmp_path / "elsewhere") == {"mine"}


def aged(workshop: Workshop, name: str, days: float) -> Path:
    """Another result beside it, which was asked for so many days ago."""
    folder = workshop.folder.parent / name
    folder.mkdir()
    (folder / ".packer-key").write_text(name)
    then = time.time() - days * 86400
    os.utime(folder / ".packer-key", (then, then))
    return folder


def test_results_that_nobody_asks_for_are_removed(workshop: Workshop) -> None:
    old, young = aged(workshop, "old", DAYS + 0.1), aged(workshop, "young", DAYS - 0.1)
    foreign = workshop.folder.parent / "foreign"
    foreign.mkdir()
    os.utime(foreign, (0, 0))
    os.utime(workshop.folder / ".packer-key", (0, 0))
    with Workshop(workshop.folder, "one", is_single=True).opened(quiet):
        pass
    assert old.exists()
    with workshop.opened(quiet):
        pass
    assert [path.exists() for path in (old, young, foreign, workshop.folder)] == [False, True, True, True]


def test_a_result_that_another_is_at_work_in_stays(workshop: Workshop) -> None:
    """We do not wait until it is done: then it is not old."""
    old = aged(workshop, "old", DAYS + 1)
    descriptor = os.open(old, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with workshop.opened(quiet):
            pass
        assert names(old)
    finally:
        os.close(descriptor)


def test_a_result_that_was_asked_for_just_before_it_is_removed_stays(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another packer may have been done with it between our look and our lock: both are stood in for here."""
    old = aged(workshop, "old", DAYS + 1)

    @contextmanager
    def after_another(folder: Path, log: Log | None = None) -> Iterator[None]:
        with locked(folder, log):
            if folder == old:
                (old / ".packer-key").touch()
            yield

    monkeypatch.setattr(module, "locked", after_another)
    with workshop.opened(quiet):
        pass
    assert names(old)


def test_two_may_remove_the_same(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is quicker."""
    old = aged(workshop, "old", DAYS + 1)

    @contextmanager
    def too_late(folder: Path, log: Log | None = None) -> Iterator[None]:
        if folder == old:
            shutil.rmtree(old)
        with locked(folder, log):
            yield

    monkeypatch.setattr(module, "locked", too_late)
    with workshop.opened(quiet):
        pass
    assert not old.exists()


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    """A file, a file in a folder of which only a region is meant, and one that is nowhere on the disk."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/file").write_bytes(b"0123456789")
    file = FileBlob.at(tmp_path / "model/file")
    region = JoinedBlob((Region(file, 2, 4),))
    blobs: dict[str, tuple[Blob, int]] = {
        "file": (file, 10),
        "below/region": (region, 4),
        "text": (BytesBlob.of(OCTETS, b"text"), 4),
    }
    files = [ModelFile(relative_path(name, name), size, blob) for name, (blob, size) in blobs.items()]
    return Snapshot.of(Origin("folder"), files)


def test_the_source_is_a_folder_of_files_while_it_is_needed(workshop: Workshop, snapshot: Snapshot) -> None:
    (workshop.folder / ".packer-source").mkdir()
    (workshop.folder / ".packer-source/stale").symlink_to("/nowhere")
    with workshop.opened(quiet), workshop.source(snapshot) as source:
        assert {name: (source / name).read_bytes() for name in names(source)} == {
            "file": b"0123456789",
            "below/region": b"2345",
            "text": b"text",
        }
        assert [(source / name).is_symlink() for name in ("file", "below/region", "text")] == [True, False, False]
        assert (source / "file").resolve().is_relative_to(workshop.folder.parent.parent / "model")
    assert not source.exists()
    with pytest.raises(ZeroDivisionError), workshop.opened(quiet), workshop.source(snapshot):
        raise ZeroDivisionError
    assert not source.exists()


def test_room_is_needed_for_what_is_not_there_yet(workshop: Workshop) -> None:
    free = shutil.disk_usage(workshop.folder).free
    with workshop.opened(quiet):
        workshop.require_room(5)
        with pytest.raises(SpaceError) as caught:
            workshop.require_room(4 * free)
    assert "PACKER_CACHE" in str(caught.value)


def test_only_what_is_whole_already_needs_no_room(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what a run that was killed has left for its child to read: links to the model, which is as large."""
    asked: list[int] = []
    monkeypatch.setattr(module, "require_free", lambda _, size, hint: asked.append(size))
    (workshop.folder / ".packer-source").mkdir()
    (workshop.folder / ".packer-source/a").symlink_to(workshop.folder / "a")
    with workshop.opened(quiet):
        assert not (workshop.folder / ".packer-source").exists()
        (workshop.folder / "b/other").write_bytes(bytes(100))
        workshop.require_room(12, ["a", "nowhere"])
        workshop.require_room(12)
        workshop.require_room(2, ["a"])
    assert asked == [7, 12, 0]


def test_samples_are_kept_as_they_were_chosen(workshop: Workshop) -> None:
    samples: Samples = read_samples(None, 16, 3)
    path = workshop.keep(samples)
    assert path.parent == workshop.folder
    assert tuple(map(json.loads, path.read_text(encoding="utf-8").splitlines())) == samples.rows
