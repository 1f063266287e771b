"""`shard` and `merge`: the same model in other files. Nothing is read but headers, and nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from formats.checkpoint import Checkpoint
from formats.findings import Finding, RejectedError
from formats.gguf_split import regroup_gguf
from formats.index import read_index
from formats.onnx_split import regroup_onnx
from formats.rules import model as rules
from formats.safetensors_split import regroup_safetensors
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import Regrouped, WeightFile
from registry.errors import ModelError


def shard(checkpoint: Checkpoint, max_size: int) -> Checkpoint:
    """The model in weight files of at most `max_size` bytes; no tensor is split, so one that is larger is alone.

    Its `findings` note each tensor that is larger. The blobs of the new files are regions of the old ones, so these
    must stay. `ModelError` if that cannot be done.
    """
    resharded = _reshard(checkpoint, max_size)
    return resharded.noted(_oversize(resharded, max_size))


def merge(checkpoint: Checkpoint) -> Checkpoint:
    """The model with its weights in one file; what `shard` did is undone."""
    return _reshard(checkpoint, None)


def _oversize(checkpoint: Checkpoint, max_size: int) -> Iterator[Finding]:
    """A note for each tensor that is larger than `max_size`, and for each file that is so without one."""
    large = [tensor for tensor in checkpoint.tensors if tensor.end - tensor.start > max_size]
    sizes = [(tensor.file, tensor.name, tensor.end - tensor.start) for tensor in large]
    noted = {tensor.file for tensor in large}
    weights = (file for file in checkpoint.snapshot.files if file.name in checkpoint.weights)
    sizes += [(file.name, "", file.size) for file in weights if file.size > max_size and file.name not in noted]
    for file, name, size in sizes:
        yield rules.SHARD_OVERSIZE.finding(
            file, tensor=name, expected=f"at most {max_size} bytes", found=f"{size} bytes"
        )


def _reshard(checkpoint: Checkpoint, max_size: int | None) -> Checkpoint:
    changes = list(_changes(checkpoint, max_size))
    replaced = frozenset(name for change in changes for name in change.replaced)
    kept = [file for file in checkpoint.snapshot.files if file.name not in replaced]
    made = [file for change in changes for file in change.files]
    _refuse_conflicts(kept, made)
    _refuse_dangling(kept, replaced)
    return Checkpoint(Snapshot.of(checkpoint.snapshot.origin, [*kept, *made]), allow_code=True)


def _changes(checkpoint: Checkpoint, max_size: int | None) -> Iterator[Regrouped]:
    snapshot = checkpoint.snapshot
    yield from regroup_safetensors(_of(checkpoint, ".safetensors"), snapshot, max_size)
    yield from regroup_gguf(_of(checkpoint, ".gguf"), max_size)
    yield from regroup_onnx(_of(checkpoint, ".onnx"), snapshot, max_size)


def _of(checkpoint: Checkpoint, suffix: str) -> dict[ModelFile, WeightFile]:
    return {file: weights for file, weights in checkpoint.read.items() if file.suffix == suffix}


def _refuse_dangling(kept: list[ModelFile], replaced: frozenset[str]) -> None:
    """An index that is not rewritten, because of its name, must not name files that are gone."""
    indexes = (file for file in kept if ".index" in file.name and file.suffix == ".json")
    for file in indexes:
        if gone := next((name for name in _named(file) if file.folder + name in replaced), None):
            raise ModelError(
                "an index of this form cannot be rewritten, and names a file that would be replaced",
                subject=file.name,
                expected="*.safetensors.index.json, or that of a variant",
                found=gone,
                hint="leave it out, or the model that it names, with --include",
            )


def _named(file: ModelFile) -> list[str]:
    """The files that an index names; none if it is no index of shards, whatever its name."""
    try:
        return sorted(set(read_index(file).weight_map.values()))
    except RejectedError:
        return []


def _refuse_conflicts(kept: list[ModelFile], made: list[ModelFile]) -> None:
    names = Counter(file.name for file in (*kept, *made))
    for file in made:
        if names[file.name] > 1:
            raise ModelError(
                "another file of the model has the name that this one would get",
                subject=file.name,
                hint="take one of the two models that share the folder, with --include",
            )
