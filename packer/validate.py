"""`validate`: from a snapshot to a checkpoint, by way of a conversion where the user wants one."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from formats.checkpoint import Checkpoint
from formats.document import read_json
from formats.findings import RejectedError
from formats.index import MAX_INDEX
from formats.pickle import convertible, find_pickle
from formats.rules import model as rules
from formats.rules import pickle as pickles
from formats.snapshot import ModelFile, Snapshot
from registry.blob import BytesBlob, FileBlob, file_of
from registry.descriptor import OCTETS
from registry.errors import ModelError
from registry.names import relative_path

_INDEX = ".bin.index.json"


@dataclass(frozen=True)
class Policy:
    """What a model may be: `allow_code` lets code through, `convert_into` is a folder for pickles made safetensors."""

    allow_code: bool = False
    convert_into: Path | None = None


def validate(snapshot: Snapshot, policy: Policy) -> Checkpoint:
    """The stage: the model, read and found valid; `ModelError` if it is not."""
    if policy.convert_into:
        snapshot = convert_pickles(snapshot, policy.convert_into)
    return Checkpoint(snapshot, allow_code=policy.allow_code)


def convert_pickles(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot with every pickle of tensors, and every index of such, in the form of safetensors.

    The new files are in `folder`, named for the digest of the pickle, so that none is converted twice. `RejectedError`
    for a pickle that may not be loaded, `ModelError` for one that is no map of tensors.
    """
    files = [_converted(file, folder) for file in snapshot.files]
    counts = Counter(file.name for file in files)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise ModelError(
            "the model has this file already, and a pickle that would become it",
            subject=twice,
            hint="leave the pickles out with --include, since the safetensors are there",
        )
    return Snapshot.of(snapshot.origin, files)


def _converted(file: ModelFile, folder: Path) -> ModelFile:
    if file.name.endswith(_INDEX):
        return _index(file)
    finding = find_pickle(file)
    if not finding or finding.rule is pickles.BY_NAME:
        return file  # what is called a pickle and is none is judged with all the rest
    if not convertible(finding):
        raise RejectedError(finding)
    return ModelFile.of(_name(file.name), FileBlob.at(_convert(file, folder)))


def _convert(file: ModelFile, folder: Path) -> Path:
    """The path of the safetensors that a pickle became, now or in an earlier build."""
    from recipes.unpickle import convert

    source = file_of(file.blob)
    if not source:
        raise ModelError("only a pickle on this machine can be converted", subject=file.name, hint="fetch it first")
    target = folder / f"{source.descriptor.digest.partition(':')[2]}.safetensors"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        convert(source.path, target)
    return target


def _name(name: str) -> str:
    """`pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`."""
    head, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return f"{head}{slash}{re.sub(r'^pytorch_model', 'model', stem)}.safetensors"


def _index(file: ModelFile) -> ModelFile:
    document = read_json(file, rules.INDEX_JSON, MAX_INDEX)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict):
        rules.INDEX_JSON.reject(file.name, expected="a weight_map from tensors to files", found=type(weight_map))
    document["weight_map"] = {tensor: _name(str(shard)) for tensor, shard in weight_map.items()}
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode()
    name = _name(file.name.removesuffix(".index.json")) + ".index.json"
    return ModelFile(relative_path(name, file.name), len(text), BytesBlob.of(OCTETS, text))
