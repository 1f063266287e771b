"""GGUF: magic, version, counts, metadata, tensor table, alignment, tensors.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, both byte orders).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from math import prod
from typing import NoReturn

from formats.cursor import Cursor
from formats.findings import Finding, Rule
from formats.gguf_check import MAX_FINDINGS, check_content
from formats.gguf_metadata import ARRAY, INT32, SCALARS, STRING, UINT16, UINT32, Header, Metadata, Pair, read_text
from formats.pickle import find_appended
from formats.rules import gguf as rules
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo, WeightFile

__all__ = ["ARRAY", "INT32", "MAGIC", "SCALARS", "STRING", "TYPES", "UINT16", "UINT32", "Header", "read", "read_header"]

MAGIC = b"GGUF"
MAX_DIMENSIONS = 4
MAX_TENSORS = MAX_PAIRS = 1 << 16
MAX_NAME = 63
LARGEST = (1 << 63) - 1
"""Bytes that a tensor's sizes may come to, sizes of zero left out: programs compute with 64 bits and a sign."""

_MIN_TENSOR = 8 + 4 + 4 + 8
_MIN_PAIR = 8 + 4 + 1

# fmt: off
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 41: ("Q1_0", 128, 18),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 22: ("IQ2_S", 256, 82), 18: ("IQ3_XXS", 256, 98),
    21: ("IQ3_S", 256, 110), 19: ("IQ1_S", 256, 50), 29: ("IQ1_M", 256, 56),
    20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}
# fmt: on
"""Number of a tensor type to its name, the elements of a block and the bytes of a block: the gguf package's table,
which a test compares; importing the package takes longer than reading a header."""


def read(file: ModelFile) -> WeightFile:
    """The metadata and tensors of a GGUF file, checked against the size of the file; `RejectedError` otherwise."""
    header = read_header(file)
    metadata = {"version": header.version, **{key: pair.value for key, pair in header.pairs.items()}}
    content = islice(check_content(file, header), MAX_FINDINGS)
    return WeightFile(header.tensors, metadata, (*_check_end(file, header), *content))


def _check_end(file: ModelFile, header: Header) -> Iterator[Finding]:
    """What stands at the end of the file besides tensors."""
    last = max((tensor.end for tensor in header.tensors), default=header.start)
    end = -(-last // header.alignment) * header.alignment
    if file.size > end:
        yield rules.TRAILING.finding(file.name, expected=f"{end} bytes", found=f"{file.size} bytes")
    if appended := find_appended(file):
        yield appended


def read_header(file: ModelFile) -> Header:
    """The header, whole and consistent with the file's size; `RejectedError` otherwise."""
    with file.open() as stream:
        return _Reader(file, Cursor(stream, file, rules.TRUNCATED)).read()


class _Reader:
    def __init__(self, file: ModelFile, cursor: Cursor) -> None:
        self._file, self._cursor = file, cursor

    def read(self) -> Header:
        version = self._version()
        cursor = self._cursor
        tensor_count, pair_count = cursor.number("Q"), cursor.number("Q")
        left = self._file.size - cursor.position
        if (
            tensor_count * _MIN_TENSOR + pair_count * _MIN_PAIR > left
            or tensor_count > MAX_TENSORS
            or pair_count > MAX_PAIRS
        ):
            found = f"{tensor_count} tensors and {pair_count} keys in {left} bytes"
            self._reject(rules.COUNTS, f"at most {MAX_TENSORS} tensors and {MAX_PAIRS} keys, that fit", found)
        pairs = Metadata(self._file, cursor).read(pair_count)
        table = [self._entry() for _ in range(tensor_count)]
        alignment = self._alignment(pairs)
        start = -(-cursor.position // alignment) * alignment
        return Header(version, cursor.order, pairs, self._place(table, start, alignment), alignment, start)

    def _version(self) -> int:
        magic = self._cursor.take(4)
        if magic != MAGIC:
            self._reject(rules.MAGIC, MAGIC.decode(), magic.decode("latin-1"))
        raw = self._cursor.take(4)
        for self._cursor.order in "<", ">":
            version = int(struct.unpack(f"{self._cursor.order}I", raw)[0])
            if version in (2, 3):
                return version
        rules.VERSION.reject(self._file.name, expected="2 or 3", found=struct.unpack("<I", raw)[0])

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = read_text(self._file, self._cursor, rules.NAME, MAX_NAME)
        dimensions = self._cursor.number("I")
        if dimensions > MAX_DIMENSIONS:
            self._reject(rules.RANK, f"at most {MAX_DIMENSIONS}", dimensions, name)
        shape = tuple(reversed([self._cursor.number("Q") for _ in range(dimensions)]))
        return name, shape, self._cursor.number("I"), self._cursor.number("Q")

    def _alignment(self, pairs: Mapping[str, Pair]) -> int:
        pair = pairs.get("general.alignment")
        if not pair:
            return 32
        value = pair.value
        if pair.kind != UINT32 or not isinstance(value, int) or not value or value & (value - 1):
            self._reject(rules.ALIGNMENT, "32 as a rule", f"{value} of type {pair.kind}")
        return value

    def _place(
        self, table: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> tuple[TensorInfo, ...]:
        tensors: dict[str, TensorInfo] = {}
        for entry in table:
            tensor = self._tensor(start, alignment, *entry)
            if tensor.name in tensors:
                self._reject(rules.NAME, "each name once", "twice", tensor.name)
            tensors[tensor.name] = tensor
        end, before = start, ""
        for tensor in tensors.values():
            if tensor.start != end:
                rule = rules.OVERLAP if start <= tensor.start < end else rules.ORDER
                self._reject(rule, f"offset {end - start}, behind {before!r}", tensor.start - start, tensor.name)
            end, before = -(-tensor.end // alignment) * alignment, tensor.name
        return tuple(tensors.values())

    def _tensor(
        self, base: int, alignment: int, name: str, shape: tuple[int, ...], kind: int, offset: int
    ) -> TensorInfo:
        if kind not in TYPES:
            self._reject(rules.TYPE, "a ggml type", kind, name)
        dtype, block, block_bytes = TYPES[kind]
        if offset % alignment or (shape[-1] if shape else 1) % block:
            expected = f"an offset that {alignment} divides, rows of a multiple of {block}"
            self._reject(rules.BLOCK, expected, f"offset {offset}, shape {list(shape)}", name)
        end = base + offset + prod(shape) // block * block_bytes
        if prod(filter(None, shape)) * block_bytes > LARGEST:
            self._reject(rules.SIZE, f"at most {LARGEST} bytes", list(shape), name)
        if end > self._file.size:
            self._reject(rules.TRUNCATED, f"{end} bytes", f"{self._file.size} bytes", name)
        return TensorInfo(name, dtype, shape, self._file.name, base + offset, end)

    def _reject(self, rule: Rule, expected: object, found: object, tensor: str = "") -> NoReturn:
        rule.reject(self._file.name, tensor=tensor, expected=expected, found=found)
