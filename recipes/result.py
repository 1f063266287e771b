"""A quantized model put together: new weight files, everything else as it was, and what binds and describes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from formats import safetensors
from formats.checkpoint import Checkpoint
from formats.index import make_index, read_index
from formats.snapshot import ModelFile, Snapshot
from recipes.account import Account, with_section
from recipes.fit import CONFIG, indexes, model_config
from recipes.task import Done
from registry.blob import FileBlob
from registry.names import RelativePath, relative_path

CARD = "README.md"
_MAX_CARD = 16 << 20


def quantized_snapshot(source: Checkpoint, done: Done, folder: Path, account: Account) -> Snapshot:
    """The source's files with those that were made, in `folder`, in place of those that they stand for."""
    files = {file.name: file for file in source.snapshot.files}
    for name, made in done.files.items():
        del files[relative_path(name, name)]
        files |= {file.name: file for file in (ModelFile.of(each, FileBlob.at(folder / each)) for each in made)}
    if done.config:
        files |= _described(source, done, files)
    whole = Snapshot.of(source.snapshot.origin, [*files.values()])
    return with_card(whole, lambda text: with_section(text, account))


def with_card(snapshot: Snapshot, change: Callable[[str], str]) -> Snapshot:
    """The same files, with a model card that `change` made of the one that was there, or of nothing."""
    files = {file.name: file for file in snapshot.files}
    card = files.get(relative_path(CARD, CARD))
    return Snapshot.of(snapshot.origin, [*{**files, **_file(CARD, change(_text(card) if card else ""))}.values()])


def _described(source: Checkpoint, done: Done, files: Mapping[RelativePath, ModelFile]) -> dict[Any, ModelFile]:
    """config.json that says how it is quantized, and indexes that name the tensors there are now."""
    config = {**model_config(source), "quantization_config": dict(done.config)}
    made = _file(CONFIG, json.dumps(config, indent=2) + "\n")  # in ASCII: text may be what UTF-8 cannot hold
    for index in indexes(source):
        before = read_index(index)
        shards = [files[relative_path(name, name)] for name in sorted(set(before.weight_map.values()))]
        tensors = [tensor for shard in shards for tensor in safetensors.read(shard).tensors]
        places = {tensor.name: tensor.file for tensor in tensors}
        total = sum(tensor.end - tensor.start for tensor in tensors)
        new = replace(before, weight_map=places, metadata={**before.metadata, "total_size": total})
        made[index.name] = make_index(index.name, new)
    return made


def _file(name: str, text: str) -> dict[Any, ModelFile]:
    file = ModelFile.holding(name, text.encode())
    return {file.name: file}


def _text(file: ModelFile) -> str:
    with file.open() as stream:
        return stream.read(_MAX_CARD).decode(errors="replace")
