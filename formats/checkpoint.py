"""A checkpoint: a snapshot that has been read and found valid."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from formats import gguf, onnx, safetensors
from formats.card import Card, read_card
from formats.pickle import refuse_pickle
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, WeightFile
from registry.errors import ModelError

FORMATS = {".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx"}
"""Extension to weight format; where a model has several, the first of these is the model's."""

_SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.safetensors|\.gguf)")


@dataclass(frozen=True)
class Checkpoint:
    """A valid model: its files, its tensors, and what it says of itself.

    Constructing one reads every weight file's header and looks into every other file for pickles; a model that
    is not what it claims is a `ModelError`, so a `Checkpoint` in a signature is the proof. `tensors` are those of
    the weight files in order; `weights` names every file that holds tensors.
    """

    snapshot: Snapshot
    tensors: tuple[TensorInfo, ...] = field(init=False, repr=False)
    weights: frozenset[str] = field(init=False, repr=False)
    card: Card = field(init=False)

    def __post_init__(self) -> None:
        read = _read_all(self.snapshot)
        main = min((FORMATS[file.suffix] for file in read), key=list(FORMATS.values()).index)
        tensors = [tensor for file, weights in read.items() for tensor in weights.tensors]
        own = [weights for file, weights in read.items() if FORMATS[file.suffix] == main]
        metadata = {key: value for weights in reversed(own) for key, value in weights.metadata.items()}
        card = read_card(self.snapshot, main, (tensor for weights in own for tensor in weights.tensors), metadata)
        names = frozenset((*(file.name for file in read), *(tensor.file for tensor in tensors)))
        for name, value in (("tensors", tuple(tensors)), ("weights", names), ("card", card)):
            object.__setattr__(self, name, value)


def _read_all(snapshot: Snapshot) -> dict[ModelFile, WeightFile]:
    """Every weight file with what its header holds, after the files around them are found acceptable."""
    for file in snapshot.files:
        refuse_pickle(file)
    read = {file: _read(file, snapshot) for file in snapshot.files if file.suffix in FORMATS}
    if not read:
        raise ModelError(
            "there is no weight file in this model",
            expected=" or ".join(FORMATS),
            found=", ".join(file.name for file in snapshot.files[:8]) or "no files",
            hint="name the folder that holds the weights; subfolders are searched too",
        )
    _check_shards(read)
    names = {str(file.name): {tensor.name for tensor in weights.tensors} for file, weights in read.items()}
    for file in snapshot.files:
        if file.name.endswith(safetensors.INDEX_SUFFIX):
            safetensors.check_index(snapshot, file, names)
    return read


def _check_shards(files: Iterable[ModelFile]) -> None:
    """Files named `...-00001-of-00003...` come as all three, with or without an index."""
    shards = [match.groups() for file in files if (match := _SHARD.fullmatch(file.name))]
    for head, total, suffix in {(head, total, suffix) for head, _, total, suffix in shards}:
        there = {int(number) for other, number, of, end in shards if (other, of, end) == (head, total, suffix)}
        missing = next((number for number in range(1, int(total) + 1) if number not in there), None)
        if missing:
            raise ModelError(
                "this shard is missing",
                subject=f"{head}{missing:05}-of-{total}{suffix}",
                expected=f"{int(total)} shards",
                found=f"{len(there)}",
                hint="fetch the missing file; an interrupted download leaves models like this",
            )


def _read(file: ModelFile, snapshot: Snapshot) -> WeightFile:
    match FORMATS[file.suffix]:
        case "safetensors":
            return safetensors.read(file)
        case "gguf":
            return gguf.read(file)
        case _:
            return onnx.read(file, snapshot)
