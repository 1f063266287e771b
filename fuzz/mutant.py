"""Mutants: the files of a model that was made wrong, small enough to write in a moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Content:
    """A file: the bytes that it begins with, and as many zeros as make up its size. Weights are all zeros here."""

    head: bytes
    zeros: int = 0

    def write(self, path: Path) -> None:
        """Write the file; the zeros are a hole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(self.head)
            stream.truncate(len(self.head) + self.zeros)


@dataclass(frozen=True)
class Seed:
    """A model that is right, or nearly; `weight` says how often it is taken, and `data` is what its mutator keeps."""

    name: str
    files: Mapping[str, Content]
    weight: float = 1.0
    data: object = None


@dataclass(frozen=True)
class Mutant:
    """A model that may be wrong: its files, and how it was made."""

    files: Mapping[str, Content]
    made: str

    def write(self, folder: Path) -> None:
        """Write the files into a folder, which must be there."""
        for name, content in self.files.items():
            content.write(folder / name)
