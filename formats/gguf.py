"""GGUF: magic, version, counts, metadata, tensor table, alignment, tensors.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, both byte orders).
The table of tensor types is the gguf package's.
"""

from __future__ import annotations

import struct
from functools import cache
from itertools import pairwise
from math import prod
from typing import BinaryIO, NoReturn

from formats.snapshot import ModelFile
from formats.tensors import TensorInfo, WeightFile
from registry.errors import ModelError

MAGIC = b"GGUF"
MAX_DIMENSIONS = 4
MAX_NAME = 64 << 10
"""Bytes of a key or a tensor name."""
MAX_TEXT = 16 << 20
"""Bytes of a text value; the largest ones are chat templates."""
MAX_NESTING = 3
MAX_KEPT_ARRAY = 64
"""Arrays with more elements (vocabularies) are walked but not kept."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MIN_TENSOR = 8 + 4 + 8 + 4 + 8
_MIN_PAIR = 8 + 4 + 1


def read(file: ModelFile) -> WeightFile:
    """The metadata and tensor table of a GGUF file, checked against the size of the file; `ModelError` otherwise."""
    with file.open() as stream:
        return _Reader(file, stream).read()


@cache
def _tensor_types() -> dict[int, tuple[str, int, int]]:
    """Type number to name, elements in a block and bytes of a block."""
    from gguf.constants import GGML_QUANT_SIZES

    return {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


class _Reader:
    def __init__(self, file: ModelFile, stream: BinaryIO) -> None:
        self._file, self._stream, self._at, self._order = file, stream, 0, "<"

    def read(self) -> WeightFile:
        version = self._header()
        tensor_count, pair_count = self._number("Q"), self._number("Q")
        left = self._file.size - self._at
        if tensor_count * _MIN_TENSOR + pair_count * _MIN_PAIR > left:
            self._refuse("its counts cannot fit its size: it is truncated or lies", f"in {left} bytes", tensor_count)
        metadata: dict[str, object] = {"version": version}
        for _ in range(pair_count):
            key = self._string("a metadata key", MAX_NAME)
            if key in metadata:
                self._refuse(f"the metadata key {key!r} stands twice", "once", "twice")
            metadata[key] = self._value(self._number("I"), key)
        table = [self._entry() for _ in range(tensor_count)]
        return WeightFile(self._place(table, metadata), metadata)

    def _header(self) -> int:
        magic = self._take(4)
        if magic != MAGIC:
            self._refuse("it does not begin as a GGUF file", MAGIC, magic)
        raw = self._take(4)
        for self._order in "<", ">":
            version = int(struct.unpack(f"{self._order}I", raw)[0])
            if version in (2, 3):
                break
        else:
            self._refuse("its version is not supported", "2 or 3", struct.unpack("<I", raw)[0])
        return version

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor name", MAX_NAME)
        dimensions = self._number("I")
        if dimensions > MAX_DIMENSIONS:
            self._refuse(f"tensor {name!r} has too many dimensions", f"at most {MAX_DIMENSIONS}", dimensions)
        shape = tuple(reversed([self._number("Q") for _ in range(dimensions)]))
        return name, shape, self._number("I"), self._number("Q")

    def _place(
        self, table: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, object]
    ) -> tuple[TensorInfo, ...]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            self._refuse("general.alignment must be a multiple of 8", "32 as a rule", alignment)
        base = -(-self._at // alignment) * alignment
        tensors = [self._tensor(base, alignment, *entry) for entry in table]
        if len({tensor.name for tensor in tensors}) != len(tensors):
            self._refuse("a tensor name stands twice", "unique names", f"{len(tensors)} tensors")
        for before, after in pairwise(sorted(tensors, key=lambda tensor: (tensor.start, tensor.end))):
            if before.end > after.start:
                self._refuse(f"the tensors {before.name!r} and {after.name!r} overlap", before.end, after.start)
        return tuple(tensors)

    def _tensor(
        self, base: int, alignment: int, name: str, shape: tuple[int, ...], kind: int, offset: int
    ) -> TensorInfo:
        if kind not in _tensor_types():
            self._refuse(f"tensor {name!r} has an unknown type", "a ggml type", kind)
        dtype, block, block_bytes = _tensor_types()[kind]
        if offset % alignment or (shape and shape[-1] % block):
            self._refuse(
                f"tensor {name!r} is misaligned", f"offset % {alignment} == 0, rows of {block}", (offset, shape)
            )
        end = base + offset + prod(shape) // block * block_bytes
        if end > self._file.size:
            self._refuse(f"it is truncated: tensor {name!r} ends beyond it", f"{end} bytes", f"{self._file.size} bytes")
        return TensorInfo(name, dtype, shape, self._file.name, base + offset, end)

    def _value(self, kind: int, key: str, depth: int = 0) -> object:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string(f"the value of {key!r}", MAX_TEXT)
        if kind != _ARRAY or depth > MAX_NESTING:
            self._refuse(f"the metadata key {key!r} has an unknown type", "0 to 12, arrays not nested deeply", kind)
        return self._array(key, depth)

    def _array(self, key: str, depth: int) -> object:
        kind, count = self._number("I"), self._number("Q")
        width = struct.calcsize(_SCALARS[kind]) if kind in _SCALARS else 8
        if count * width > self._file.size - self._at:
            self._refuse(f"the array {key!r} is longer than the file: it is truncated or lies", "fewer elements", count)
        if kind in _SCALARS and count > MAX_KEPT_ARRAY:
            self._skip(count * width)
            return f"{count} values"
        values: list[object] = []
        for _ in range(count):
            value = self._value(kind, key, depth + 1)
            if len(values) < MAX_KEPT_ARRAY:
                values.append(value)
        return values if count <= MAX_KEPT_ARRAY else f"{count} values"

    def _string(self, what: str, limit: int) -> str:
        length = self._number("Q")
        if length > min(limit, self._file.size - self._at):
            self._refuse(f"{what} is too long: the file is truncated or lies", f"at most {limit} bytes", length)
        return self._take(length).decode(errors="replace")

    def _number(self, code: str) -> int:
        return int(self._scalar(code))

    def _scalar(self, code: str) -> int | float | bool:
        value: int | float | bool = struct.unpack(self._order + code, self._take(struct.calcsize(code)))[0]
        return value

    def _skip(self, count: int) -> None:
        self._stream.seek(count, 1)
        self._at += count

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            self._refuse("it is truncated inside its header", f"{self._at + count} bytes", f"{self._file.size} bytes")
        self._at += count
        return data

    def _refuse(self, what: str, expected: object, found: object) -> NoReturn:
        raise ModelError(
            what,
            subject=self._file.name,
            expected=expected,
            found=found,
            hint="fetch or convert the file again, and compare its size and digest with those of its source",
        )
