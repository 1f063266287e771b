"""What is asked of a child process that quantizes, what it tells on its way, and what it answers: all of it JSON.

The parent (`recipes/child.py`) writes a `Task` to the child's standard input. The child (`recipes/worker.py`) finds the
engine and prints an object a line: a `Step` as often as there is something to tell, at the end `Done` or a failure.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"
"""How the names of files begin that are being written: every other file in a target is whole."""


@dataclass(frozen=True)
class Task:
    """One model to quantize.

    `settings` are the recipe's own words for its engine. `source` is a folder in which every file of the model lies
    under its name, or a link to it. `files` are the weight files to make; each goes to `target`, another folder, under
    its name, by way of `whole_file`. `device` is `cpu`, `cuda` or `cuda:N`. `samples` is a file of calibration samples,
    JSON lines with `text`, `messages` or `inputs`, already chosen and in order, each to be cut to `max_length` tokens.
    """

    engine: str
    settings: Mapping[str, Any]
    source: Path
    target: Path
    files: tuple[str, ...]
    device: str = "cpu"
    samples: Path | None = None
    max_length: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        paths = {"source": str(self.source), "target": str(self.target)}
        return {**vars(self), **paths, "samples": str(self.samples) if self.samples else None}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Task:
        """What `to_json` made."""
        document = {**document, "files": tuple(document["files"])}
        for key in ("source", "target", "samples"):
            document[key] = Path(document[key]) if document[key] else None
        return cls(**document)


@dataclass(frozen=True)
class Module:
    """What became of one module that has weights: quantized by `scheme`, or left, which `why` explains."""

    name: str
    scheme: str = ""
    why: str = ""

    @property
    def is_quantized(self) -> bool:
        """Whether it was."""
        return bool(self.scheme)


@dataclass(frozen=True)
class Step:
    """Progress: `done` of `total` `unit`s, the last one being `name`.

    `host` and `device` are the bytes of memory that were used at most until now; an engine need not fill them in. Who
    runs several children says of which `part` of the work this is, and how many `seconds` it may take at most from now.
    """

    done: int
    total: int
    unit: str
    name: str
    host: int = 0
    device: int = 0
    part: str = ""
    seconds: float | None = None


Tell = Callable[[Step | str], None]
"""Tells progress, or a note of one line that a user should read."""


@dataclass(frozen=True)
class Done:
    """What an engine did. `files` maps each weight file of the source to the names of those in the target that stand
    for it; `config` becomes `quantization_config`, if there is one; `facts` are what else is known now.
    """

    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modules: tuple[Module, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**vars(self), "modules": [vars(module) for module in self.modules]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Done:
        """What `to_json` made."""
        files = {name: tuple(made) for name, made in document["files"].items()}
        return cls(
            files,
            tuple(Module(**module) for module in document["modules"]),
            document["config"],
            document.get("facts", {}),
        )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, whose file appears under `path` only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        settle(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def settle(scratch: Path, target: Path) -> None:
    """Give a file its final name, readable by all, under which it is whole even if the machine stops at any moment."""
    scratch.chmod(0o644)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
