"""Splitting and joining safetensors: new headers over the bytes that are there.

Nothing is copied here: a file that comes out is a header and regions of the files that went in, until somebody reads
it. https://github.com/huggingface/safetensors#format; https://huggingface.co/docs/transformers/big_models.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from formats.index import INDEX, INDEX_SUFFIX, ShardIndex, make_index, numbered_set, read_index
from formats.order import grouped, natural, numbered
from formats.safetensors import BITS, MAX_HEADER, MAX_TENSORS
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import Regrouped, TensorInfo, WeightFile
from formats.text import printable
from registry.errors import ModelError
from registry.join import JoinedBlob, Region
from registry.names import relative_path

SUFFIX = ".safetensors"
_PADDING = 8


@dataclass(frozen=True)
class _Group:
    """The files of one model: `stem` is what their names have in common, `index` what binds them."""

    stem: str
    files: tuple[ModelFile, ...]
    index: ModelFile | None


def regroup_safetensors(
    read: Mapping[ModelFile, WeightFile], snapshot: Snapshot, max_size: int | None
) -> Iterator[Regrouped]:
    """Each model of the snapshot in files of at most `max_size` bytes, or in one file if that is None.

    Tensors are in their natural order over the files, and in each file those of larger elements first, which aligns
    them. A tensor that is larger than `max_size` gets a file of its own. `read` are the safetensors files of a valid
    checkpoint. A model that is one file and small enough stays as it is. `ModelError` if files disagree on metadata.
    """
    for group in _groups(read, snapshot):
        if len(group.files) > 1 or (max_size is not None and group.files[0].size > max_size):
            yield _regroup(group, {file: read[file] for file in group.files}, max_size)


def _groups(read: Mapping[ModelFile, WeightFile], snapshot: Snapshot) -> Iterator[_Group]:
    """Files that an index names, files of one numbered set, and the rest one by one."""
    left = dict.fromkeys(file for file in read if file.suffix == SUFFIX)
    for index in snapshot.files:
        if match := INDEX.fullmatch(index.name):
            names = {index.folder + name for name in read_index(index).weight_map.values()}
            files = tuple(file for file in left if file.name in names)
            if len(files) < len(names):
                raise _shared(index, names - {file.name for file in files})
            left = dict.fromkeys(file for file in left if file.name not in names)
            if files:
                yield _Group("".join(part for part in match.groups() if part), files, index)
    alike: dict[tuple[str, ...], list[ModelFile]] = {}
    for file in left:
        alike.setdefault(numbered_set(file.name) or (_stem(file),), []).append(file)
    for key, files_alike in alike.items():
        stem = key[0].removesuffix("-") if len(key) > 1 else key[0]
        yield _Group(stem, tuple(files_alike), None)


def _shared(index: ModelFile, names: set[str]) -> ModelError:
    return ModelError(
        "another index names a file of this one too, so neither model can be rewritten by itself",
        subject=index.name,
        found=min(names),
        hint="leave out one of the two models, or of two indexes of one model, with --include",
    )


def _stem(file: ModelFile) -> str:
    return file.name[: -len(SUFFIX)]


def _regroup(group: _Group, read: Mapping[ModelFile, WeightFile], max_size: int | None) -> Regrouped:
    sources: dict[str, ModelFile] = {file.name: file for file in read}
    metadata = _metadata(group, read)
    tensors = sorted((tensor for weights in read.values() for tensor in weights.tensors), key=lambda t: natural(t.name))
    limit = max_size if max_size is not None else sum(file.size for file in read) * 2
    sized = ((tensor, tensor.end - tensor.start + len(_entry(tensor, limit, limit)) + 1) for tensor in tensors)
    shards = list(grouped(sized, limit, 8 + len(_dumps({"__metadata__": metadata})) + _PADDING)) or [[]]
    names = [numbered(group.stem, number + 1, len(shards), SUFFIX) for number in range(len(shards))]
    files = [_file(name, shard, metadata, sources) for name, shard in zip(names, shards, strict=True)]
    if len(shards) > 1:
        files.append(_index(group, names, shards))
    replaced = {*sources, *([group.index.name] if group.index else [])}
    return Regrouped(tuple(files), frozenset(replaced))


def _metadata(group: _Group, read: Mapping[ModelFile, WeightFile]) -> dict[str, object]:
    """The metadata of all files together, sorted."""
    merged: dict[str, object] = {}
    for file, weights in read.items():
        for key, value in weights.metadata.items():
            if merged.setdefault(key, value) != value:
                raise ModelError(
                    f"its metadata says otherwise about {printable(key[:200])!r} than another file of {group.stem}",
                    subject=file.name,
                    expected=printable(str(merged[key])[:200]),
                    found=printable(str(value)[:200]),
                    hint="one file has one metadata: make these agree, or keep the model as it is",
                )
    return dict(sorted(merged.items()))


def _file(
    name: str, shard: list[TensorInfo], metadata: Mapping[str, object], sources: Mapping[str, ModelFile]
) -> ModelFile:
    tensors = sorted(shard, key=lambda tensor: -BITS[tensor.dtype])
    header = _header(tensors, metadata)
    _refuse_too_much(name, len(tensors), len(header) - 8, len(_dumps(metadata)))
    blob = JoinedBlob.of(
        [
            header,
            *(Region(sources[tensor.file].blob, tensor.start, tensor.end - tensor.start) for tensor in tensors),
        ]
    )
    return ModelFile(relative_path(name, name), blob.size, blob)


def _refuse_too_much(name: str, tensors: int, header: int, metadata: int) -> None:
    """`ModelError` if a file would be one that is not read."""
    if tensors > MAX_TENSORS:
        raise ModelError(
            "this file would have more tensors than one file may have",
            subject=name,
            expected=f"at most {MAX_TENSORS} tensors",
            found=f"{tensors} tensors",
            hint="keep the model in several files: packer shard, with a smaller max_size",
        )
    if header > MAX_HEADER:
        raise ModelError(
            "this file would have a longer header than one file may have",
            subject=name,
            expected=f"at most {MAX_HEADER} bytes",
            found=f"{header} bytes, {metadata} of them metadata, for {tensors} tensors",
            hint="keep the model in several files: packer shard, with a smaller max_size",
        )


def _header(tensors: list[TensorInfo], metadata: Mapping[str, object]) -> bytes:
    entries, at = [_dumps({"__metadata__": metadata})[1:-1]] if metadata else [], 0
    for tensor in tensors:
        end = at + tensor.end - tensor.start
        entries.append(_entry(tensor, at, end))
        at = end
    text = b"{%b}" % b",".join(entries)
    text += b" " * (-len(text) % _PADDING)
    return struct.pack("<Q", len(text)) + text


def _entry(tensor: TensorInfo, start: int, end: int) -> bytes:
    member = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (start, end)}
    return _dumps({tensor.name: member})[1:-1]


def _index(group: _Group, names: list[str], shards: list[list[TensorInfo]]) -> ModelFile:
    """The index under the name of the one before it, with what that said besides."""
    before = read_index(group.index).metadata if group.index else {}
    total = sum(tensor.end - tensor.start for shard in shards for tensor in shard)
    places = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    weight_map = {tensor: name.rpartition("/")[2] for tensor, name in places.items()}
    name = group.index.name if group.index else f"{group.stem}{INDEX_SUFFIX}"
    return make_index(name, ShardIndex(weight_map, {**before, "total_size": total}))


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
