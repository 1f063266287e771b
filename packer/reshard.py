"""`packer shard` and `packer merge`: a model on disk in other files, in another folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import packer.facts  # noqa: F401 - what is told of the values here
from formats.checkpoint import Checkpoint
from formats.reshard import merge
from formats.reshard import shard as regroup
from formats.snapshot import ModelFile, Snapshot
from packer.sources import parse_source
from packer.validate import Policy, validate
from packer.watch import Listener, Run
from registry.errors import UsageError
from registry.folder import STAGING, Folder, NamedBlob, occupied

SMALLEST = 1 << 20
"""Bytes that weight files have at most, if the model is larger."""

_WRITTEN = re.compile(r"\.(safetensors|gguf|onnx|onnx_data(_\d+)?|index(\.[\w-]+)?\.json)$")
"""The ends of the names that files get when they are written."""


def shard_to(source: str, target: Path, max_size: int, include: Sequence[str], listener: Listener) -> list[Path]:
    """Write the model that `source` names to the folder `target`, in weight files of at most `max_size` bytes."""
    return _write(source, target, include, Run(listener), lambda run, model: run("shard", shard, model, max_size))


def merge_to(source: str, target: Path, include: Sequence[str], listener: Listener) -> list[Path]:
    """Write the model that `source` names to the folder `target`, its weights in one file."""
    return _write(source, target, include, Run(listener), lambda run, model: run("merge", merge, model))


def write(checkpoint: Checkpoint, folder: Folder) -> list[Path]:
    """The stage: the model's files on disk; those that make the others a model get their names last."""
    files = sorted(checkpoint.snapshot.files, key=_rank)
    return folder.write([NamedBlob(file.name, file.size, file.blob) for file in files])


def _write(
    source: str,
    target: Path,
    include: Sequence[str],
    run: Run,
    change: Callable[[Run, Checkpoint], Checkpoint],
) -> list[Path]:
    refuse_inside(target, source)
    # not watched, so that the kernel can copy from the files themselves
    snapshot = parse_source(source, include).fetch()
    refuse_others(target, snapshot)
    checkpoint = change(run, run("validate", validate, snapshot, Policy(allow_code=True)))
    return run("write", write, checkpoint, Folder(target))


def shard(checkpoint: Checkpoint, max_size: int) -> Checkpoint:
    """The stage: the model in weight files of at most `max_size` bytes.

    `UsageError` for a size that can only be one without its unit: less than 1 MiB, of a model that is larger than that.
    """
    if max_size < SMALLEST < checkpoint.snapshot.size:
        raise UsageError(
            "this size would give a file for nearly every tensor",
            expected="1 MiB at least, of a model that is larger",
            found=f"{max_size} bytes",
            hint=f"give a unit, such as {max_size}GiB or {max_size}MB" if max_size < 1024 else "give a larger size",
        )
    return regroup(checkpoint, max_size)


def refuse_inside(target: Path, source: str) -> None:
    """Refuse a folder that lies in the model."""
    if target.resolve().is_relative_to(Path(source).resolve()):
        raise UsageError(
            "the result would lie inside the model", subject=str(target), hint="name a folder beside the model"
        )


def refuse_others(target: Path, snapshot: Snapshot) -> None:
    """Refuse a folder with files that no result can have, before anything is read; `Folder` sees what is left."""
    names = {file.name for file in snapshot.files}
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target)
        is_ours = name.parts[0] == STAGING or name.as_posix() in names or _WRITTEN.search(name.name)
        if path.is_file() and not is_ours:
            raise occupied(target, name)


def _rank(file: ModelFile) -> int:
    """What a loader opens first comes last: then everything that it leads to is there."""
    return 2 if file.name.endswith((".index.json", ".onnx")) else file.name.endswith("config.json")
