"""Which file of a checkpoint goes into which layer.

One uncompressed tar for each weight file and one for all small files, so that a changed tokenizer moves kilobytes
and variants of one model share what they have in common. Members are `models/` and `models/<path>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from containers.tar import Member, TarLayer, folder
from formats.checkpoint import Checkpoint
from formats.snapshot import ModelFile

ROOT = "models"
"""The folder in the image: KServe's subPath, and the prefix that its initializer looks for."""

FILEPATH = "org.cncf.model.filepath"
"""Annotation: the path that a layer unpacks to."""


@dataclass(frozen=True)
class ModelLayer:
    """A tar over files of the model, and the path that it makes."""

    tar: TarLayer
    path: str
    is_weight: bool


def model_layers(checkpoint: Checkpoint) -> tuple[ModelLayer, ...]:
    """The layers of a model: weight files first, sorted, then the small files together."""
    weights = [file for file in checkpoint.snapshot.files if file.name in checkpoint.weights]
    small = [file for file in checkpoint.snapshot.files if file.name not in checkpoint.weights]
    layers = [ModelLayer(_tar([file]), f"{ROOT}/{file.name}", True) for file in weights]
    return (*layers, *([ModelLayer(_tar(small), ROOT, False)] if small else []))


def _tar(files: Iterable[ModelFile]) -> TarLayer:
    members = [Member(f"{ROOT}/{file.name}", file.size, file.open) for file in files]
    folders = {folder(name) for member in members for name in _parents(member.name)}
    return TarLayer(tuple(sorted((*folders, *members), key=lambda member: member.name)))


def _parents(path: str) -> Iterable[str]:
    """`a/b/c` gives `a` and `a/b`: readers exist that make no folder that the tar does not name."""
    return accumulate(path.split("/")[:-1], lambda head, tail: f"{head}/{tail}")
