"""`validate`: from a snapshot to a checkpoint, by way of a conversion where the user wants one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from formats.checkpoint import Checkpoint
from formats.findings import Finding, RejectedError, errors
from formats.index import make_index, read_index
from formats.pickle import convertible, find_pickle
from formats.rules import pickle as rules
from formats.scale_values import check_scale_values
from formats.snapshot import ModelFile, Snapshot
from registry.blob import FileBlob, file_of
from registry.errors import ModelError

_INDEX = re.compile(r"(.*)\.bin\.index((?:\.[\w-]+)?\.json)", re.DOTALL)
"""The name of an index of pickles; diffusers writes that of a variant behind the word."""


@dataclass(frozen=True)
class Policy:
    """What a model may be: `allow_code` lets code through, `convert_into` is a folder for pickles made safetensors."""

    allow_code: bool = False
    convert_into: Path | None = None


def validate(snapshot: Snapshot, policy: Policy) -> Checkpoint:
    """The stage: the model, read and found valid, the values of its scales too; `ModelError` if it is not."""
    converted = convert_pickles(snapshot, policy.convert_into) if policy.convert_into else snapshot
    checkpoint = Checkpoint(converted, allow_code=policy.allow_code)
    scales = tuple(check_scale_values(checkpoint))
    if refusing := errors(scales):
        raise RejectedError(*refusing)
    return checkpoint.noted((*scales, *_changes(snapshot, converted)))


def _changes(before: Snapshot, after: Snapshot) -> Iterator[Finding]:
    """A finding for each file that a pickle became."""
    old = {_name(file.name): file.name for file in before.files if not after.get(file.name)}
    for file in after.files:
        if file.name in old:
            yield rules.CONVERTED.finding(file.name, found=old[file.name])


def convert_pickles(snapshot: Snapshot, folder: Path) -> Snapshot:
    """The snapshot with every pickle of tensors, and every index of such, in the form of safetensors.

    The new files are in `folder`, named for the digest of the pickle and the version of the conversion, so that none
    is converted twice. They were whole before they had these names; what is in them is for the checkpoint to judge,
    like any file. `RejectedError` for a pickle that may not be loaded, `ModelError` for one that is no map of tensors.
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
    if match := _INDEX.fullmatch(file.name):
        return _index(file, f"{_name(match[1] + '.bin')}.index{match[2]}")
    finding = find_pickle(file)
    if not finding or finding.rule is rules.BY_NAME:
        return file  # what is called a pickle and is none is judged with all the rest
    if not convertible(finding):
        raise RejectedError(finding)
    return ModelFile.of(_name(file.name), FileBlob.at(_convert(file, folder)))


def _convert(file: ModelFile, folder: Path) -> Path:
    """The path of the safetensors that a pickle became, now or in an earlier build."""
    from recipes.unpickle import VERSION, convert

    source = file_of(file.blob)
    if not source:
        raise ModelError("only a pickle on this machine can be converted", subject=file.name, hint="fetch it first")
    target = folder / f"{source.descriptor.digest.partition(':')[2]}-{VERSION}.safetensors"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        convert(source.path, target)
    return target


def _name(name: str) -> str:
    """`pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`."""
    head, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return f"{head}{slash}{re.sub(r'^pytorch_model', 'model', stem)}.safetensors"


def _index(file: ModelFile, name: str) -> ModelFile:
    """The index under its new name, with the new names of its shards."""
    before = read_index(file)
    places = {tensor: _name(shard) for tensor, shard in before.weight_map.items()}
    return make_index(name, replace(before, weight_map=places))
