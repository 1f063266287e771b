"""The folder in which one model is quantized: its source, what is whole already, and the record that all is.

The record is written last. Files that are being written have names of their own, so whatever else is there is whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from formats.snapshot import Snapshot
from recipes.calibration import Samples
from recipes.child import Answer
from recipes.task import PARTIAL, whole_file
from registry.blob import file_of
from registry.disk import require_free
from registry.errors import UsageError
from registry.folder import Folder, NamedBlob, locked
from registry.retry import Log

DAYS = 30
"""How long a result is kept that nobody has asked for."""

_KEY, _RECORD, _SOURCE, _SAMPLES = ".packer-key", ".packer-record.json", ".packer-source", ".packer-samples.jsonl"
OURS = frozenset((_KEY, _RECORD))
"""What says in the folder of a single result whose it is, and that it is whole."""

_SPACE = "free some, or set PACKER_CACHE to a folder on a larger disk; what is whole stays, and is not made again"


@dataclass(frozen=True)
class Workshop:
    """A folder for what `key` names. If it `is_single`, it may have been another's, and others have none beside it."""

    folder: Path
    key: str
    is_single: bool

    @contextmanager
    def opened(self, log: Log) -> Iterator[None]:
        """The folder is there and ours alone while the block runs; what others left in it is gone.

        Who finds another at work waits, since the result may be wanted by both. Of a single result the folder around it
        is ours too, where it will go: `UsageError` if another is at work there. `UsageError` also if a link has the
        folder's name: what it leads to is not ours to remove.
        """
        if self.folder.is_symlink():
            hint = "remove it, or name another folder"
            raise UsageError("a link has the name of our folder", subject=str(self.folder), hint=hint)
        ours = self.folder.parent if self.is_single else self.folder
        ours.mkdir(parents=True, exist_ok=True)
        with locked(ours, None if self.is_single else log):
            self.folder.mkdir(exist_ok=True)
            if _read(self.folder / _KEY) != self.key:
                self.empty()
            _remove(self.folder / _SOURCE)
            for path in [*self.folder.rglob(f"{PARTIAL}*")]:
                _remove(path)
            (self.folder / _KEY).write_text(self.key)
            yield
        if not self.is_single:
            _prune(self.folder)

    def empty(self) -> None:
        """Nothing is in the folder but its key: what was there is of no use."""
        for path in self.folder.iterdir():
            _remove(path)
        (self.folder / _KEY).write_text(self.key)

    def recorded(self) -> Answer | None:
        """What was done in here, if it was done to the end, and all that came of it is there, in the right size.

        Files that a killed run had begun to move out of the folder of a single result are moved back.
        """
        try:
            document = json.loads(_read(self.folder / _RECORD))
            answer, sizes = Answer.from_json(document["answer"]), {str(k): int(v) for k, v in document["sizes"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):  # none, or another version of packer wrote it
            return None
        if self.is_single:
            self._take_back(sizes)
        return answer if all(_size(self.folder / name) == size for name, size in sizes.items()) else None

    def _take_back(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            path, moved = self.folder / name, self.folder.parent / name
            if not path.exists() and _size(moved) == size:
                path.parent.mkdir(parents=True, exist_ok=True)
                moved.rename(path)

    def record(self, answer: Answer) -> None:
        """Everything is whole."""
        made = [name for names in answer.done.files.values() for name in names]
        document = {"answer": answer.to_json(), "sizes": {name: _size(self.folder / name) for name in made}}
        with whole_file(self.folder / _RECORD) as path:
            path.write_text(json.dumps(document))

    def require_room(self, size: int, names: Iterable[str] = ()) -> None:
        """`SpaceError` if `size` bytes do not fit on the disk, less those of the whole files of these names."""
        there = sum(max(_size(self.folder / name), 0) for name in names)
        require_free(self.folder, max(size - there, 0), _SPACE)

    def keep(self, samples: Samples) -> Path:
        """A file of the samples."""
        samples.write(self.folder / _SAMPLES)
        return self.folder / _SAMPLES

    @contextmanager
    def source(self, snapshot: Snapshot) -> Iterator[Path]:
        """A folder with every file of the snapshot under its name while the block runs.

        Files that lie somewhere are linked; those that exist only as regions of others, or in memory, are written.
        """
        folder = self.folder / _SOURCE
        _remove(folder)
        folder.mkdir()
        try:
            loose = []
            for file in snapshot.files:
                path = folder / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                if there := file_of(file.blob):
                    path.symlink_to(there.path.absolute())
                else:
                    loose.append(NamedBlob(file.name, file.size, file.blob))
            _write(loose, folder)
            yield folder
        finally:
            _remove(folder)


def _write(files: list[NamedBlob], folder: Path) -> None:
    """Write what is no file yet: in a folder of its own, since `Folder` wants one, and then into place."""
    if files:
        for path in Folder(folder / PARTIAL).write(files):
            path.rename(folder / path.relative_to(folder / PARTIAL))
        _remove(folder / PARTIAL)


def _prune(folder: Path) -> None:
    """Remove results beside this one that were not asked for in a long time, and are nobody's now."""
    (folder / _KEY).touch()
    for key in folder.parent.glob(f"*/{_KEY}"):
        with suppress(FileNotFoundError, UsageError):  # another packer removes it too, or is at work in there
            if _is_old(key):
                with locked(key.parent):
                    if _is_old(key):  # still
                        _remove(key.parent)


def _is_old(key: Path) -> bool:
    return time.time() - key.stat().st_mtime > DAYS * 86400


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _size(path: Path) -> int:
    """The size of a file; -1 if there is none."""
    return path.stat().st_size if path.is_file() else -1


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
