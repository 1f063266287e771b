"""Shards and the index that binds them: `model.safetensors.index.json` against the files, both ways.

https://huggingface.co/docs/transformers/big_models (sharded checkpoints).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from formats.document import read_json
from formats.findings import Finding, RejectedError
from formats.rules import model as rules
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import WeightFile

INDEX_SUFFIX = ".safetensors.index.json"
SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.safetensors|\.gguf)")
MAX_INDEX = 16 << 20
"""Bytes of an index; 90,000 tensors take nine million."""

MAX_FINDINGS = 100
"""Findings about one index: whoever exchanged all names sees it from a hundred."""


def check_shards(read: Mapping[ModelFile, WeightFile], snapshot: Snapshot) -> Iterator[Finding]:
    """Whether all shards are there, and every index agrees with them; a shard that an index misses is told once."""
    told: set[str] = set()
    for file in snapshot.files:
        if file.name.endswith(INDEX_SUFFIX):
            for finding in islice(_guarded(_check_index(file, read, snapshot)), MAX_FINDINGS):
                told.add(file.folder + finding.expected)
                yield finding
    missing = list(_missing(snapshot))
    yield from (finding for finding in missing if finding.file not in told)
    if not missing:
        yield from _unbound(snapshot)


def _unbound(snapshot: Snapshot) -> Iterator[Finding]:
    """The first of several safetensors shards where no index is beside them."""
    folders = {file.folder for file in snapshot.files if ".index." in file.name}
    for file in snapshot.files:
        match = SHARD.fullmatch(file.name)
        is_first = match and match[4] == ".safetensors" and int(match[2]) == 1 < int(match[3])
        if is_first and file.folder not in folders:
            yield rules.INDEX_MISSING.finding(file.name, expected="an index, *.safetensors.index.json", found="none")


def _guarded(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings, as far as they come, and what stopped them."""
    try:
        yield from findings
    except RejectedError as error:
        yield from error.findings


def _missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Files named `...-00001-of-00003...` come as all three, with or without an index."""
    sets: dict[tuple[str, str, str], set[int]] = {}
    for file in snapshot.files:
        if match := SHARD.fullmatch(file.name):
            sets.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    for (head, total, suffix), there in sets.items():
        missing = next((number for number in range(1, int(total) + 1) if number not in there), None)
        if missing:
            name = f"{head}{missing:05}-of-{total}{suffix}"
            yield rules.SHARD_MISSING.finding(name, expected=f"{int(total)} shards", found=len(there))


def _check_index(index: ModelFile, read: Mapping[ModelFile, WeightFile], snapshot: Snapshot) -> Iterator[Finding]:
    document = read_json(index, rules.INDEX_JSON, MAX_INDEX, unique=True)
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        rules.INDEX_JSON.reject(index.name, expected="a weight_map from tensors to files", found=type(weight_map))
    files = {shard: snapshot.get(index.folder + shard) for shard in weight_map.values()}
    there = sum(1 for file in files.values() if file)
    for shard in sorted(shard for shard, file in files.items() if not file):
        yield rules.INDEX_SHARD_MISSING.finding(index.name, expected=shard, found=f"{there} of {len(files)} files")
    shards = {shard: read[file] for shard, file in files.items() if file and file in read}
    yield from _check_places(index, weight_map, shards)
    if set(shards) == set(files):
        yield from _check_total(index, document, shards.values())


def _check_places(
    index: ModelFile, weight_map: Mapping[str, str], shards: Mapping[str, WeightFile]
) -> Iterator[Finding]:
    """Every tensor is where the index says, in no second place, and none is left out."""
    places: dict[str, str] = {}
    for shard, weights in shards.items():
        for tensor in weights.tensors:
            if tensor.name in places:
                yield rules.TENSOR_TWICE.finding(
                    tensor.file, tensor=tensor.name, found=f"also in {places[tensor.name]}"
                )
            elif tensor.name not in weight_map:
                yield rules.INDEX_TENSOR_EXTRA.finding(index.name, tensor=tensor.name, found=f"in {shard}")
            places.setdefault(tensor.name, shard)
    for name, shard in weight_map.items():
        if shard in shards and places.get(name) != shard:
            found = f"in {places[name]}" if name in places else "in none of the shards"
            yield rules.INDEX_TENSOR_MISSING.finding(index.name, tensor=name, expected=f"in {shard}", found=found)


def _check_total(index: ModelFile, document: Mapping[str, object], shards: Iterable[WeightFile]) -> Iterator[Finding]:
    metadata = document.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    there = sum(tensor.end - tensor.start for weights in shards for tensor in weights.tensors)
    if total is not None and total != there:
        yield rules.INDEX_SIZE.finding(index.name, expected=f"{there} bytes", found=total)
