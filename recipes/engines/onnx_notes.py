"""What became of the ONNX models that are whole already, so that a run that was killed goes on behind them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.task import Module, whole_file

FOLDER = ".packer-made"
"""The hidden folder in a target in which the notes lie, until all models are whole."""


@dataclass(frozen=True)
class Made:
    """The names of the files that one model became, and what became of its modules."""

    files: tuple[str, ...]
    modules: tuple[Module, ...]


@dataclass(frozen=True)
class Notes:
    """Notes about the models in a folder. A note is written before the files that it is about get their names."""

    target: Path

    def write(self, name: str, made: Made) -> None:
        """Note what the model of that name became, or is about to become."""
        with whole_file(self._path(name)) as path:
            document = {"files": made.files, "modules": [vars(module) for module in made.modules]}
            path.write_text(json.dumps(document))

    def read(self, name: str) -> Made | None:
        """What the model of that name became, if all of it is there."""
        path = self._path(name)
        if not path.is_file():
            return None
        document = json.loads(path.read_text())
        made = Made(tuple(document["files"]), tuple(Module(**module) for module in document["modules"]))
        return made if self._are_there(made.files) else None

    def _are_there(self, files: Sequence[str]) -> bool:
        return all((self.target / file).is_file() for file in files)

    def remove(self) -> None:
        """All models are whole: nobody needs the notes any more."""
        shutil.rmtree(self.target / FOLDER, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.target / FOLDER / f"{name}.json"
