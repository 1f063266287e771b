"""safetensors: eight bytes of header length, a JSON header, then the tensors without a hole.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from math import prod
from typing import Any, NoReturn, TypeGuard

from formats.findings import Finding
from formats.rules import safetensors as rules
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo, WeightFile

MAX_HEADER = 16 << 20
"""Bytes of a header; the format allows 100 MB."""

MAX_TENSORS = 100_000
"""Tensors of one file."""

MAX_METADATA = 4 << 20
"""Bytes of `__metadata__`."""

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

_METADATA = "__metadata__"
_BATCH = 64 << 10
_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_MEMBER = re.compile(
    rb"%(w)s(%(s)s)%(w)s:%(w)s\{(?:[^\"{}]++|%(s)s)*+\}%(w)s([,}])" % {b"w": _SPACE, b"s": _STRING}, re.DOTALL
)
"""One member of the header: its name, and an object that holds no other."""


def read(file: ModelFile) -> WeightFile:
    """The header of a safetensors file, checked whole against the size of the file; `RejectedError` otherwise."""
    with file.open() as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        longest = min(MAX_HEADER, max(file.size - 8, 0))
        if not 2 <= length <= longest:
            rules.LENGTH.reject(file.name, expected=f"2 to {longest}", found=length)
        header = stream.read(length)
    if len(header) < length:
        rules.LENGTH.reject(file.name, expected=f"{length} bytes of header", found=f"{len(header)} bytes")
    metadata, tensors = _parse(file, header)
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_tiling(file, tensors, 8 + length)
    return WeightFile(tuple(tensors), metadata, tuple(_misaligned(file, tensors)))


def _parse(file: ModelFile, header: bytes) -> tuple[dict[str, Any], list[TensorInfo]]:
    metadata: dict[str, Any] = {}
    tensors: dict[str, TensorInfo] = {}
    base, seen = 8 + len(header), False
    for batch in _batches(file, header):
        for name, entry in _loads(file, batch):
            if name in tensors or (name == _METADATA and seen):
                rules.DUPLICATE.reject(file.name, found=f"{name!r} twice")
            if name == _METADATA:
                metadata, seen = _metadata(file, entry, len(batch)), True
            else:
                tensors[name] = _tensor(file, name, entry, base)
        if len(tensors) > MAX_TENSORS:
            rules.COUNT.reject(file.name, expected=f"at most {MAX_TENSORS}", found="more")
    return metadata, list(tensors.values())


def _batches(file: ModelFile, header: bytes) -> Iterator[bytes]:
    """The header as JSON objects of some members each, so that memory is bounded by the batch and not by the header."""
    if not re.match(rb"\{", header):
        _malformed(file, header, 0, "a JSON object")
    if re.fullmatch(rb"\{%b\}%b" % (_SPACE, _SPACE), header):
        return
    start = at = 1
    last = b","
    while last == b",":
        match = _MEMBER.match(header, at)
        if not match:
            _malformed(file, header, at, "a name and a flat object")
        last, end = match[2], match.end()
        if last == b"}" or end - start > _BATCH or match[1] == b'"__metadata__"':
            yield b"{%b}" % header[start : end - 1]
            start = end
        at = end
    if header[at:].strip(b" \t\n\r"):
        _malformed(file, header, at, "nothing but spaces after the object")


def _loads(file: ModelFile, batch: bytes) -> list[tuple[str, Any]]:
    try:
        pairs: list[tuple[str, Any]] = json.loads(
            batch.decode(), object_pairs_hook=list, parse_constant=_refuse_number, parse_int=_size
        )
        "".join(name for name, _ in pairs).encode()
    except (ValueError, RecursionError) as error:
        rules.JSON.reject(file.name, expected="a JSON object", found=str(error))
    return pairs


def _size(text: str) -> int:
    if len(text) > 20 or text[0] == "-":
        raise ValueError(f"{text[:30]} is no size")
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _metadata(file: ModelFile, entry: list[tuple[str, Any]], size: int) -> dict[str, str]:
    if size > MAX_METADATA:
        rules.METADATA.reject(file.name, expected=f"at most {MAX_METADATA} bytes", found=f"{size} bytes")
    metadata = dict(entry)
    if len(metadata) != len(entry):
        rules.DUPLICATE.reject(file.name, found="a name in __metadata__ twice")
    if not all(isinstance(value, str) for value in metadata.values()):
        rules.METADATA.reject(file.name, expected="strings", found=metadata)
    return metadata


def _tensor(file: ModelFile, name: str, entry: list[tuple[str, Any]], base: int) -> TensorInfo:
    members = dict(entry)
    if len(members) != len(entry):
        rules.DUPLICATE.reject(file.name, tensor=name, found="a member twice")
    dtype, shape, offsets = members.get("dtype"), members.get("shape"), members.get("data_offsets")
    if not isinstance(dtype, str) or not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        rules.ENTRY.reject(
            file.name, tensor=name, expected="a dtype, a shape of sizes, two data_offsets", found=members
        )
    if dtype not in BITS:
        rules.DTYPE.reject(file.name, tensor=name, expected=", ".join(sorted(BITS)), found=dtype)
    if len(shape) > MAX_RANK:
        rules.RANK.reject(file.name, tensor=name, expected=f"at most {MAX_RANK}", found=len(shape))
    bits = BITS[dtype] * prod(shape)
    if (offsets[1] - offsets[0]) * 8 != bits:
        rules.SIZE.reject(file.name, tensor=name, expected=f"{-(-bits // 8)} bytes", found=f"offsets {offsets}")
    return TensorInfo(name, dtype, tuple(shape), file.name, base + offsets[0], base + offsets[1])


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int for number in value)


def _check_tiling(file: ModelFile, tensors: list[TensorInfo], start: int) -> None:
    for tensor in tensors:
        if tensor.start != start:
            rules.TILING.reject(file.name, tensor=tensor.name, expected=f"offset {start}", found=tensor.start)
        start = tensor.end
    if start != file.size:
        rule = rules.TRUNCATED if file.size < start else rules.TRAILING
        rule.reject(file.name, expected=f"{start} bytes", found=f"{file.size} bytes")


def _misaligned(file: ModelFile, tensors: list[TensorInfo]) -> Iterator[Finding]:
    """One finding at most: the first tensor of a misaligned file is as good as all."""
    for tensor in tensors:
        size = max(BITS[tensor.dtype] // 8, 1)
        if tensor.start % size:
            yield rules.ALIGNMENT.finding(
                file.name, tensor=tensor.name, expected=f"a multiple of {size}", found=tensor.start
            )
            return


def _malformed(file: ModelFile, header: bytes, at: int, expected: str) -> NoReturn:
    rules.JSON.reject(file.name, expected=expected, found=f"{header[at : at + 60]!r} at byte {8 + at}")
