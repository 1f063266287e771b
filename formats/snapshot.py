"""A snapshot: the pinned files of a model, before anybody has looked inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import BinaryIO

from registry.blob import Blob, BytesBlob, FileBlob
from registry.descriptor import OCTETS
from registry.errors import ModelError
from registry.names import RelativePath, relative_path


@dataclass(frozen=True, eq=False)
class ModelFile:
    """One file of a model: its path in the model, its size in bytes and its content. It equals only itself."""

    name: RelativePath
    size: int
    blob: Blob

    @classmethod
    def of(cls, name: str, blob: FileBlob) -> ModelFile:
        """The file `blob` under the path `name`, which is checked."""
        return cls(relative_path(name, str(blob.path)), blob.size, blob)

    @classmethod
    def holding(cls, name: str, data: bytes) -> ModelFile:
        """A file of `data`, which is in memory alone, under the path `name`, which is checked."""
        return cls(relative_path(name, name), len(data), BytesBlob.of(OCTETS, data))

    def open(self) -> BinaryIO:
        """A stream over the content."""
        return self.blob.open()

    @property
    def folder(self) -> str:
        """The folder that it is in, with the slash behind it; empty for a file at the top."""
        return self.name[: self.name.rfind("/") + 1]

    @property
    def suffix(self) -> str:
        """The extension in lower case, with its dot."""
        stem, dot, extension = self.name.rpartition("/")[2].rpartition(".")
        return f".{extension.lower()}" if dot and stem else ""


@dataclass(frozen=True)
class Origin:
    """Where a model came from. A folder has neither name nor revision: its path says nothing about its bytes."""

    kind: str
    name: str = ""
    revision: str = ""

    @property
    def url(self) -> str:
        """Such as `hf://ORG/NAME` or `oci://HOST/REPO`; empty for what has no name."""
        return f"{self.kind}://{self.name}" if self.name else ""


@dataclass(frozen=True)
class Snapshot:
    """A pinned revision and its files, sorted by name, each name once; `ModelError` otherwise."""

    origin: Origin
    files: tuple[ModelFile, ...]

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        if names != sorted(set(names)):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ModelError("the files of a snapshot must be sorted and unique", found=", ".join(twice) or "unsorted")

    @classmethod
    def of(cls, origin: Origin, files: list[ModelFile]) -> Snapshot:
        """The snapshot of `files` in any order."""
        return cls(origin, tuple(sorted(files, key=lambda file: file.name)))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @cached_property
    def _by_name(self) -> dict[str, ModelFile]:
        return {file.name: file for file in self.files}

    def get(self, name: str) -> ModelFile | None:
        """The file of that name."""
        return self._by_name.get(name)

    def map(self, change: Callable[[Blob], Blob]) -> Snapshot:
        """The same snapshot with every blob replaced; the bytes must stay the same."""
        return replace(self, files=tuple(replace(file, blob=change(file.blob)) for file in self.files))
