"""Shards and the index that binds them: `model.safetensors.index.json` against the files, both ways.

https://huggingface.co/docs/transformers/big_models (sharded checkpoints).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from formats.document import MAX_TEXTS, as_json, kind_of, read_json
from formats.findings import Finding, RejectedError
from formats.rules import model as rules
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import WeightFile

INDEX = re.compile(r"(.*)\.safetensors(\.[\w-]+)?\.index(\.[\w-]+)?\.json", re.DOTALL)
"""The name of an index; transformers and diffusers write that of a variant behind or before the word."""

INDEX_SUFFIX = ".safetensors.index.json"
SHARD = re.compile(r"(.*-)(\d{5,6})-of-(\d{5,6})(\.safetensors|\.gguf)")
_BESIDE = re.compile("consolidated|adapter_model")
"""How the names begin of weights that may lie beside an index: Mistral's own, and an adapter."""

MAX_INDEX = 32 << 20
"""Bytes of an index; 207,000 tensors take 23 million."""

MAX_FINDINGS = 100
"""Findings about one index: whoever exchanged all names sees it from a hundred."""

Numbered = tuple[str, str, str]
"""What files of one numbered set have in common: the head of their names, how many they are, and the suffix."""


@dataclass(frozen=True)
class ShardIndex:
    """An index: which file, beside it, holds each tensor, and what else it says."""

    weight_map: Mapping[str, str]
    metadata: Mapping[str, Any]


def make_index(name: str, index: ShardIndex) -> ModelFile:
    """An index under a name, written as transformers writes it."""
    document = {"metadata": dict(index.metadata), "weight_map": dict(index.weight_map)}
    return ModelFile.holding(name, (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_index(file: ModelFile) -> ShardIndex:
    """What an index says; `RejectedError` if it is none."""
    document = read_json(file, rules.INDEX_JSON, MAX_INDEX, encodable=True)
    weight_map, metadata = document.get("weight_map"), document.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map:
        found = kind_of(weight_map) if weight_map or weight_map is None else f"{kind_of(weight_map)} of nothing"
        rules.INDEX_JSON.reject(file.name, expected="a weight_map from tensors to files", found=found)
    if wrong := next((name for name, shard in weight_map.items() if not isinstance(shard, str)), None):
        found = f"{kind_of(weight_map[wrong])} for {wrong[:100]}"
        rules.INDEX_JSON.reject(file.name, expected="a weight_map from tensors to files", found=found)
    if len(files := set(weight_map.values())) > MAX_TEXTS:
        rules.INDEX_JSON.reject(file.name, expected=f"at most {MAX_TEXTS} files", found=len(files))
    return ShardIndex(weight_map, metadata if isinstance(metadata, dict) else {})


def numbered_set(name: str) -> Numbered | None:
    """The set that a file belongs to by its number."""
    match = SHARD.fullmatch(name)
    return (match[1], match[3], match[4]) if match else None


def check_shards(read: Mapping[ModelFile, WeightFile], snapshot: Snapshot) -> Iterator[Finding]:
    """Whether every index agrees with its shards, and files that only their numbers bind are all there."""
    bound: set[Numbered | None] = set()
    broken: set[str] = set()
    named: dict[str, set[str]] = {}
    for file in snapshot.files:
        if INDEX.fullmatch(file.name):
            try:
                index = read_index(file)
            except RejectedError as error:
                broken.add(file.folder)
                yield from error.findings
                continue
            names = {file.folder + shard for shard in index.weight_map.values()}
            named.setdefault(file.folder, set()).update(names)
            bound |= {numbered_set(name) for name in names if snapshot.get(name)}
            yield from islice(_check_index(file, index, read, snapshot), MAX_FINDINGS)
    for numbered, files in _sets(snapshot).items():
        if numbered not in bound:
            yield from islice(_check_set(numbered, files, read, broken), MAX_FINDINGS)
    yield from islice(_unnamed(snapshot, named), MAX_FINDINGS)


def _unnamed(snapshot: Snapshot, named: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Weight files that lie beside an index, and that no index names; numbered ones are asked about as sets."""
    known = set().union(*named.values())
    for file in snapshot.files:
        is_single = file.suffix == ".safetensors" and not numbered_set(file.name)
        is_expected = file.name in known or _BESIDE.match(file.name.removeprefix(file.folder))
        if is_single and file.folder in named and not is_expected:
            yield rules.INDEX_UNNAMED.finding(file.name, expected="a file that an index names", found=file.name)


def _sets(snapshot: Snapshot) -> dict[Numbered, list[ModelFile]]:
    sets: dict[Numbered, list[ModelFile]] = {}
    for file in snapshot.files:
        if numbered := numbered_set(file.name):
            sets.setdefault(numbered, []).append(file)
    return sets


def _check_set(
    numbered: Numbered, files: list[ModelFile], read: Mapping[ModelFile, WeightFile], broken: set[str]
) -> Iterator[Finding]:
    """Files named `...-00001-of-00003...` come as all three, and no tensor is in two; an index should bind them."""
    head, total, suffix = numbered
    there = {file.name for file in files}
    width = len(files[0].name) - len(f"{head}-of-{total}{suffix}")
    names = (f"{head}{number:0{width}}-of-{total}{suffix}" for number in range(1, int(total) + 1))
    missing = next((name for name in names if name not in there), None)
    if missing:
        yield rules.SHARD_MISSING.finding(missing, expected=f"{int(total)} shards", found=len(there))
    elif suffix == ".safetensors" and int(total) > 1 and files[0].folder not in broken:
        yield rules.INDEX_MISSING.finding(files[0].name, expected="an index, *.safetensors.index.json", found="none")
    if suffix == ".safetensors":
        yield from _twice(read[file] for file in files if file in read)


def _check_index(
    file: ModelFile, index: ShardIndex, read: Mapping[ModelFile, WeightFile], snapshot: Snapshot
) -> Iterator[Finding]:
    files = {shard: snapshot.get(file.folder + shard) for shard in index.weight_map.values()}
    there = sum(1 for shard in files.values() if shard)
    for name, shard in sorted(files.items()):
        if not shard:
            yield _missing(file, name, f"{there} of {len(files)} files")
        elif shard.suffix != ".safetensors":
            yield rules.INDEX_FOREIGN.finding(file.name, expected="safetensors files", found=name)
    shards = {name: read[shard] for name, shard in files.items() if shard and shard in read}
    beside = {
        each.name.removeprefix(file.folder): read[each] for each in _beside(files.values(), snapshot) if each in read
    }
    yield from _check_places(file, index.weight_map, {**shards, **beside})
    if len(shards) == len(files):
        yield from _check_total(file, index, shards.values())


def _missing(index: ModelFile, name: str, found: str) -> Finding:
    if _leads_out(name):
        return rules.INDEX_OUTSIDE.finding(index.name, expected="files beside it, or below", found=name)
    return rules.INDEX_SHARD_MISSING.finding(index.name, expected=name, found=found)


def _leads_out(name: str) -> bool:
    """Whether a path is absolute, or goes up."""
    return name.startswith("/") or ".." in name.replace("\\", "/").split("/")


def _beside(files: Iterable[ModelFile | None], snapshot: Snapshot) -> Iterator[ModelFile]:
    """Files that are numbered like those that an index names, and that it does not name."""
    named = {file.name for file in files if file}
    sets = {numbered_set(name) for name in named} - {None}
    return (file for file in snapshot.files if file.name not in named and numbered_set(file.name) in sets)


def _check_places(
    index: ModelFile, weight_map: Mapping[str, str], shards: Mapping[str, WeightFile]
) -> Iterator[Finding]:
    """Every tensor is where the index says, in no second place, and none is left out."""
    yield from _twice(shards.values())
    places: dict[str, str] = {}
    for shard, weights in shards.items():
        for tensor in weights.tensors:
            if tensor.name not in weight_map:
                yield rules.INDEX_TENSOR_EXTRA.finding(index.name, tensor=tensor.name, found=f"in {shard}")
            places.setdefault(tensor.name, shard)
    for name, shard in weight_map.items():
        if shard in shards and places.get(name) != shard:
            found = f"in {places[name]}" if name in places else "in none of the shards"
            yield rules.INDEX_TENSOR_MISSING.finding(index.name, tensor=name, expected=f"in {shard}", found=found)


def _twice(shards: Iterable[WeightFile]) -> Iterator[Finding]:
    """Tensors that stand in a second file of one model."""
    places: dict[str, str] = {}
    for weights in shards:
        for tensor in weights.tensors:
            place = places.setdefault(tensor.name, tensor.file)
            if place != tensor.file:
                yield rules.TENSOR_TWICE.finding(tensor.file, tensor=tensor.name, found=f"also in {place}")


def _check_total(file: ModelFile, index: ShardIndex, shards: Iterable[WeightFile]) -> Iterator[Finding]:
    total = index.metadata.get("total_size")
    there = sum(tensor.end - tensor.start for weights in shards for tensor in weights.tensors)
    if total is not None and total != there:
        yield rules.INDEX_SIZE.finding(file.name, expected=f"{there} bytes", found=as_json(total))
