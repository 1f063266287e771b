"""Which file of a checkpoint goes into which layer.

One uncompressed tar for each weight file and one for all small files, so that a changed tokenizer moves kilobytes
and variants of one model share what they have in common. Members are `models/` and `models/<path>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Event

from containers.tar import Member, TarLayer, folder
from formats.checkpoint import Checkpoint
from formats.snapshot import ModelFile
from registry.blob import Blob, TypedBlob, digest_stream
from registry.descriptor import IMAGE_LAYER, Descriptor, Digest, digest_of
from registry.memory import Memory, mark_of
from registry.parallel import Stoppable, run_each

ROOT = "models"
"""The folder in the image: KServe's subPath, and the prefix that its initializer looks for."""

_HASHERS = 2
"""Layers that are hashed at once: one processor does not keep up with a disk."""

FILEPATH = "org.cncf.model.filepath"
"""Annotation: the path that a layer unpacks to."""


@dataclass(frozen=True)
class Draft:
    """A layer that has not been read: its tar, the path that it makes, and the mark of its files (`mark_of`)."""

    tar: TarLayer
    path: str
    mark: str


@dataclass(frozen=True)
class ModelLayer:
    """A tar over files of the model, and the path that it makes."""

    tar: Blob
    path: str
    is_weight: bool


def draft_layers(checkpoint: Checkpoint) -> tuple[Draft, ...]:
    """The layers of a model: weight files first, sorted, then the small files together. Nothing is read."""
    weights = [file for file in checkpoint.snapshot.files if file.name in checkpoint.weights]
    small = [file for file in checkpoint.snapshot.files if file.name not in checkpoint.weights]
    together = [(f"{ROOT}/{file.name}", [file]) for file in weights] + ([(ROOT, small)] if small else [])
    return tuple(_draft(path, files) for path, files in together)


def model_layers(checkpoint: Checkpoint, memory: Memory) -> tuple[ModelLayer, ...]:
    """The layers of a model, with their digests.

    Each is read once, two side by side; not at all if the memory knows its files as they are.
    """
    layers = run_each(lambda draft, stop: _named(draft, memory, stop), draft_layers(checkpoint), _HASHERS)
    return tuple(layers)


def _draft(path: str, files: Sequence[ModelFile]) -> Draft:
    tar = _tar(files)
    marks = [mark_of(file.blob) for file in sorted(files, key=lambda file: file.name)]
    headers = [digest_of(member.header()) for member in tar.members]
    return Draft(tar, path, digest_of("\n".join((*headers, *marks)).encode()) if all(marks) else "")


def _named(draft: Draft, memory: Memory, stop: Event) -> ModelLayer:
    digest = memory.digest(draft.mark, lambda: _digest(draft.tar, stop))
    blob = TypedBlob(draft.tar, Descriptor(IMAGE_LAYER, digest, draft.tar.size))
    return ModelLayer(blob, draft.path, draft.path != ROOT)


def _digest(tar: TarLayer, stop: Event) -> Digest:
    """The digest of a layer, from one read, which ends early when it is time to stop."""
    with Stoppable(tar, stop).open() as stream:
        return digest_stream(stream)


def _tar(files: Iterable[ModelFile]) -> TarLayer:
    members = [Member(f"{ROOT}/{file.name}", file.size, file.open) for file in files]
    folders = {folder(name) for member in members for name in _parents(member.name)}
    return TarLayer(tuple(sorted((*folders, *members), key=lambda member: member.name)))


def _parents(path: str) -> Iterable[str]:
    """`a/b/c` gives `a` and `a/b`: readers exist that make no folder that the tar does not name."""
    return accumulate(path.split("/")[:-1], lambda head, tail: f"{head}/{tail}")
