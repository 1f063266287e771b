"""Where models live: a folder, a single file, a repository of the Hugging Face Hub.

Files are used where they lie, in the user's folder or in the Hub's cache; nothing is copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from formats.snapshot import ModelFile, Origin, Snapshot
from packer.hub import HubSource
from registry.blob import FileBlob
from registry.errors import ModelError, UsageError
from registry.names import matches

_HUB = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")


class Source(Protocol):
    """A place that a model is taken from."""

    def fetch(self) -> Snapshot:
        """The model's files, pinned; a `TransferError` or `ModelError` if they cannot be had."""


def fetch(source: Source) -> Snapshot:
    """The stage: the files of a source, pinned."""
    return source.fetch()


def parse_source(text: str, include: Sequence[str] = ()) -> Source:
    """The source that `text` names; `UsageError` if nothing is there or the form is unknown."""
    if text.startswith("hf://"):
        if not (match := _HUB.fullmatch(text)):
            raise UsageError("this is not a repository of the Hub", expected="hf://ORG/NAME[@REVISION]", found=text)
        return HubSource(match[1], match[2] or "main", tuple(include))
    if "://" in text:
        raise UsageError("this kind of source is not known", expected="a folder, a file or hf://ORG/NAME", found=text)
    path = Path(text)
    if path.is_dir():
        return FolderSource(path, tuple(include))
    if path.is_file():
        if include:
            raise UsageError("--include chooses among the files of a folder", found=f"the file {text}")
        return FileSource(path)
    if path.suffix in (".yaml", ".yml"):
        raise UsageError("there is no such build file", subject=text, hint="check the path")
    raise UsageError(
        "there is no such model",
        subject=text,
        expected="a folder, a .safetensors, .gguf or .onnx file, hf://ORG/NAME[@REVISION], or a build file (.yaml)",
        hint="check the path; a model of the Hub needs hf:// before its name",
    )


@dataclass(frozen=True)
class FileSource:
    """One weight file that is a whole model."""

    path: Path

    def fetch(self) -> Snapshot:
        """The file under its own name."""
        return Snapshot.of(Origin("file"), [ModelFile.of(self.path.name, FileBlob.at(self.path))])


@dataclass(frozen=True)
class FolderSource:
    """A folder in the Hugging Face layout. Hidden files and folders are no part of the model."""

    path: Path
    include: tuple[str, ...] = ()

    def fetch(self) -> Snapshot:
        """Every file, or those that match an `include` glob; links to files are followed, links to folders refused."""
        there = list(self._walk())
        names = [name for name in there if matches(name, self.include)]
        if not names:
            raise ModelError(
                "no file of this folder is taken",
                subject=str(self.path),
                expected=", ".join(self.include) or "at least one file",
                found=", ".join(there[:8]) or "an empty folder",
                hint="globs match the path in the folder, and * reaches over slashes" if there else "",
            )
        return Snapshot.of(Origin("folder"), [ModelFile.of(name, FileBlob.at(self.path / name)) for name in names])

    def _walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.path, onerror=_reraise):
            folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    raise _irregular(Path(folder) / name, "a link to a folder")
            for path in (Path(folder) / name for name in names if not name.startswith(".")):
                if not path.is_file():
                    raise _irregular(path, "a broken link" if path.is_symlink() else "not a regular file")
                yield path.relative_to(self.path).as_posix()


def _reraise(error: OSError) -> None:
    raise error


def _irregular(path: Path, found: str) -> ModelError:
    return ModelError("this is no part of a model", subject=str(path), expected="files and folders", found=found)
