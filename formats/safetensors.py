"""safetensors: eight bytes of header length, a JSON header, then the tensors without a hole.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from math import prod
from operator import mul

from formats.findings import Finding
from formats.rules import safetensors as rules
from formats.safetensors_header import LARGEST, MAX_NAME, Header
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo, WeightFile

MAX_HEADER = 16 << 20
"""Bytes of a header; the format allows 100 MB."""

MAX_TENSORS = 80_000
"""Tensors of one file; a mixture of 128 experts in four bits has 73,728."""

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


def read(file: ModelFile) -> WeightFile:
    """The header of a safetensors file, checked whole against the size of the file; `RejectedError` otherwise."""
    with file.open() as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        longest = min(MAX_HEADER, max(file.size - 8, 0))
        if not 2 <= length <= longest:
            rules.LENGTH.reject(
                file.name, expected="a header length that fits the file", found=_instead(prefix, length)
            )
        header = stream.read(length)
    if len(header) < length:
        rules.LENGTH.reject(file.name, expected=f"{length} bytes of header", found=f"{len(header)} bytes")
    read = Header(file, header)
    tensors = _tensors(file, read, 8 + length)
    _check_tiling(file, tensors, 8 + length)
    return WeightFile(tuple(tensors), read.metadata, tuple(_misaligned(file, tensors)))


def _instead(prefix: bytes, length: int) -> str:
    """What a file begins with that does not begin as it should, in the words of who fetched it."""
    if len(prefix) < 8:
        return f"{len(prefix)} bytes" if prefix else "an empty file"
    if prefix == b"version ":
        return "a pointer of Git LFS, which git lfs pull replaces by the file"
    return f"text: {prefix.decode('latin-1')}" if prefix[:1] == b"<" or prefix.isalnum() else str(length)


def _tensors(file: ModelFile, header: Header, base: int) -> list[TensorInfo]:
    """The tensors in the order of their bytes."""
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    for entry in header.entries():
        name, dtype, shape, start, end = entry
        if name in names:
            rules.DUPLICATE.reject(file.name, tensor=name[:MAX_NAME], found="twice")
        if len(names) == MAX_TENSORS:
            rules.COUNT.reject(file.name, expected=f"at most {MAX_TENSORS}", found="more")
        names.add(name)
        _check(file, *entry)
        tensors.append(TensorInfo(name, dtype, shape, file.name, base + start, base + end))
    tensors.sort(key=lambda tensor: tensor.end)
    tensors.sort(key=lambda tensor: tensor.start)  # by both, without a pair for each
    return tensors


def _check(file: ModelFile, name: str, dtype: str, shape: tuple[int, ...], start: int, end: int) -> None:
    if len(name) > MAX_NAME:
        rules.NAME.reject(file.name, tensor=name[:80], expected=f"at most {MAX_NAME} characters", found=len(name))
    if dtype not in BITS:
        rules.DTYPE.reject(file.name, tensor=name, expected=", ".join(sorted(BITS)), found=dtype)
    if len(shape) > MAX_RANK:
        rules.RANK.reject(file.name, tensor=name, expected=f"at most {MAX_RANK}", found=len(shape))
    bits = BITS[dtype] * prod(shape)
    if (end - start) * 8 != bits:
        rules.SIZE.reject(file.name, tensor=name, expected=f"{-(-bits // 8)} bytes", found=f"offsets {start} to {end}")
    if not bits and max(accumulate(shape, mul), default=0) > LARGEST:
        rules.SIZE.reject(file.name, tensor=name, expected="sizes whose product is below 2**64", found=list(shape))


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
