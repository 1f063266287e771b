"""`packer shard` and `packer merge`: a model on disk in other files, in another folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from formats.checkpoint import Checkpoint
from formats.reshard import merge, shard
from formats.snapshot import ModelFile
from packer.sources import parse_source
from packer.validate import Policy, validate
from packer.watch import Listener, Run
from registry.errors import UsageError
from registry.folder import Folder, NamedBlob


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
    if target.resolve().is_relative_to(Path(source).resolve()):
        raise UsageError(
            "the result would lie inside the model", subject=str(target), hint="name a folder beside the model"
        )
    # not watched, so that the kernel can copy from the files themselves
    snapshot = parse_source(source, include).fetch()
    checkpoint = change(run, run("validate", validate, snapshot, Policy(allow_code=True)))
    return run("write", write, checkpoint, Folder(target))


def _rank(file: ModelFile) -> int:
    """What a loader opens first comes last: then everything that it leads to is there."""
    return 2 if file.name.endswith((".index.json", ".onnx")) else file.name.endswith("config.json")
