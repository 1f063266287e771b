"""Bytes of tensors to numbers, for every dtype that safetensors, GGUF and ONNX have.

Types of at most sixteen bits are codes: a table gives the number of each, and a histogram of codes tells everything
about a tensor, exactly. Wider ones are numpy's own; ggml's blocks are decoded by the gguf package.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

# fmt: off
_CODES = {
    "BF16": "bfloat16", "BFLOAT16": "bfloat16", "F16": "float16", "FLOAT16": "float16",
    "F8_E4M3": "float8_e4m3fn", "FLOAT8E4M3FN": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "FLOAT8E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "FLOAT8E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "FLOAT8E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu", "FLOAT8E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn", "FLOAT4E2M1": "float4_e2m1fn", "INT4": "int4", "UINT4": "uint4",
    "I8": "int8", "INT8": "int8", "U8": "uint8", "UINT8": "uint8", "BOOL": "uint8",
    "I16": "int16", "INT16": "int16", "U16": "uint16", "UINT16": "uint16",
}
"""Dtype to the name that ml_dtypes or numpy has for it."""

_NIBBLES = frozenset(("F4", "FLOAT4E2M1", "INT4", "UINT4"))
_NUMBERS = {
    "F32": "f4", "FLOAT": "f4", "C64": "f4", "COMPLEX64": "f4", "F64": "f8", "DOUBLE": "f8", "COMPLEX128": "f8",
    "I32": "i4", "INT32": "i4", "I64": "i8", "INT64": "i8",
    "U32": "u4", "UINT32": "u4", "U64": "u8", "UINT64": "u8",
}
# fmt: on


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of `bits` bits (4 are packed two in a byte); `table` gives the number of each as float64."""

    bits: int
    table: Any
    swapped: bool = False

    @property
    def block_bytes(self) -> int:
        """Bytes that belong together."""
        return max(self.bits // 8, 1)

    def codes(self, data: Any) -> Any:
        """The codes in bytes, as uint8 or uint16."""
        import numpy

        if self.bits == 16:
            return data.view(numpy.uint16).byteswap() if self.swapped else data.view(numpy.uint16)
        return numpy.stack((data & 15, data >> 4), axis=1).reshape(-1) if self.bits == 4 else data

    def numbers(self, data: Any) -> Any:
        """The numbers in bytes, as float64."""
        return self.table[self.codes(data)]


@dataclass(frozen=True)
class Numbers:
    """Numbers that numpy knows; `dtype` with its byte order, such as `<f4`. Complex ones count as two."""

    dtype: str

    @property
    def block_bytes(self) -> int:
        """Bytes that belong together."""
        return int(self.dtype[-1])

    def numbers(self, data: Any) -> Any:
        """The numbers in bytes, as they are."""
        return data.view(self.dtype)


@dataclass(frozen=True)
class Blocks:
    """Blocks of ggml: `block_bytes` each, decoded by the gguf package."""

    kind: int
    block_bytes: int

    def numbers(self, data: Any) -> Any:
        """The numbers in whole blocks, as float32."""
        from gguf import GGMLQuantizationType, quants

        return quants.dequantize(data.reshape(1, -1), GGMLQuantizationType(self.kind)).reshape(-1)


Decoder = Codes | Numbers | Blocks


@cache
def decoder(dtype: str, order: str = "<") -> Decoder | None:
    """What decodes a dtype, in bytes of the order `<` or `>`; None if nothing does."""
    if dtype in _CODES:
        bits = 4 if dtype in _NIBBLES else _bits(_CODES[dtype])
        return Codes(bits, _table(_CODES[dtype], bits), order == ">")
    if dtype in _NUMBERS:
        return Numbers(order + _NUMBERS[dtype])
    return _blocks(dtype) if order == "<" else None


def _bits(name: str) -> int:
    return 16 if name in ("bfloat16", "float16", "int16", "uint16") else 8


def _table(name: str, bits: int) -> Any:
    """The numbers of all codes, by their code."""
    import ml_dtypes
    import numpy

    dtype = numpy.dtype(getattr(ml_dtypes, name, name))
    codes = numpy.arange(1 << bits, dtype=numpy.uint16 if bits == 16 else numpy.uint8)
    with numpy.errstate(invalid="ignore"):
        if name == "int4":
            return ((codes.astype(numpy.int64) ^ 8) - 8).astype(numpy.float64)
        return codes.view(dtype).astype(numpy.float64)


def _blocks(dtype: str) -> Decoder | None:
    """The decoder of a ggml type that the gguf package can decode."""
    import numpy

    from formats.gguf import TYPES

    kind, size = next(((kind, size) for kind, (name, _, size) in TYPES.items() if name == dtype), (-1, 0))
    if kind < 0:
        return None
    blocks = Blocks(kind, size)
    try:
        blocks.numbers(numpy.zeros(size, numpy.uint8))
    except (NotImplementedError, ValueError, KeyError):
        return None
    return blocks
