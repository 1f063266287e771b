"""safetensors: eight bytes of header length, a JSON header, then the tensors without a hole.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from math import prod
from typing import Any, NoReturn

from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, WeightFile
from registry.errors import ModelError

MAX_HEADER = 100_000_000
"""Bytes: the format's own bound on its header."""

MAX_RANK = 64
"""Dimensions of a tensor: the format names no bound, and without one a header can cost hours."""

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one element of each dtype that the safetensors library knows."""

INDEX_SUFFIX = ".safetensors.index.json"


def read(file: ModelFile) -> WeightFile:
    """The header of a safetensors file, checked whole against the size of the file; `ModelError` otherwise."""
    with file.open() as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, file.size - 8):
            _refuse(
                file,
                "it is cut short, or is no safetensors file: its first eight bytes are no possible header length",
                f"2 to {min(MAX_HEADER, max(file.size - 8, 0))}",
                length,
            )
        header = _parse(file, stream.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(file, "__metadata__ is not a map of strings", "strings", metadata)
    tensors = sorted(
        (_tensor(file, name, entry, 8 + length) for name, entry in header.items()), key=lambda t: (t.start, t.end)
    )
    _check_tiling(file, tensors, 8 + length)
    return WeightFile(tuple(tensors), metadata)


def check_index(snapshot: Snapshot, index: ModelFile, tensors: dict[str, set[str]]) -> None:
    """Check a `*.safetensors.index.json` against the tensors found, given as file name to tensor names.

    A shard that is named and missing, and a tensor that is not in the shard the index names, are `ModelError`s.
    """
    with index.open() as stream:
        weight_map = _parse(index, stream.read(MAX_HEADER)).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        _refuse(index, "it has no weight_map from tensors to files", "an object of strings", type(weight_map).__name__)
    folder = index.name.rpartition("/")[0]
    for shard in sorted(set(weight_map.values())):
        if not snapshot.get(f"{folder}/{shard}" if folder else shard):
            raise ModelError(
                f"the shard {shard!r} that the index names is missing",
                subject=index.name,
                expected=f"{len(set(weight_map.values()))} files",
                found=f"{sum(1 for name in set(weight_map.values()) if snapshot.get(f'{folder}/{name}'.lstrip('/')))}",
                hint="fetch the missing file; an interrupted download leaves models like this",
            )
    for tensor, shard in weight_map.items():
        if tensor not in tensors.get(f"{folder}/{shard}" if folder else shard, ()):
            _refuse(index, f"tensor {tensor!r} is not in the file that the index names", shard, "no such tensor there")


def _parse(file: ModelFile, raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(file, f"its JSON is malformed ({error})", "a JSON object", repr(raw[:60]))
    if not isinstance(document, dict):
        _refuse(file, "its JSON is not an object", "a JSON object", type(document).__name__)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _tensor(file: ModelFile, name: str, entry: Any, base: int) -> TensorInfo:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        _refuse(file, f"tensor {name!r} lacks dtype, shape or data_offsets", "all three", repr(entry)[:100])
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(file, f"tensor {name!r} has an unknown dtype", ", ".join(sorted(BITS)), dtype)
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            _refuse(file, f"tensor {name!r} has a malformed {what}", "a list of sizes", repr(numbers)[:100])
    if len(shape) > MAX_RANK:
        _refuse(file, f"tensor {name!r} has too many dimensions", f"at most {MAX_RANK}", len(shape))
    bits = BITS[dtype] * prod(shape)
    if len(offsets) != 2 or (offsets[1] - offsets[0]) * 8 != bits:
        _refuse(
            file, f"the bytes of tensor {name!r} do not fit its shape", f"{-(-bits // 8)} bytes", f"offsets {offsets}"
        )
    return TensorInfo(name, dtype, tuple(shape), file.name, base + offsets[0], base + offsets[1])


def _check_tiling(file: ModelFile, tensors: list[TensorInfo], start: int) -> None:
    for tensor in tensors:
        if tensor.start != start:
            _refuse(
                file, f"there is a hole or an overlap before tensor {tensor.name!r}", f"offset {start}", tensor.start
            )
        start = tensor.end
    if start != file.size:
        what = "it is truncated" if file.size < start else "there are bytes behind the last tensor"
        _refuse(file, what, f"{start} bytes", f"{file.size} bytes")


def _refuse(file: ModelFile, what: str, expected: object, found: object) -> NoReturn:
    raise ModelError(
        what,
        subject=file.name,
        expected=expected,
        found=found,
        hint="fetch or export the file again, and compare its size and digest with those of its source",
    )
