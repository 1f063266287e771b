"""The wire format of protobuf, as far as an ONNX model's initializers need it.

A protobuf has no table of contents, and its library reads all of it. This walks the message instead and leaves the
large payloads of the graph's initializers where they are: what remains, the skeleton, is the same message without them.
https://protobuf.dev/programming-guides/encoding/; field numbers from ONNX's onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from formats.cursor import Cursor
from formats.rules import onnx as rules
from formats.snapshot import ModelFile

MAX_SKELETON = 32 << 20
"""Bytes of a model without its payloads."""

SMALL = 1 << 10
"""Bytes of a payload that stays in the skeleton."""

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
TYPED_DATA = frozenset((4, 5, 7, 10, 11))
"""Fields of a tensor that hold packed numbers: float_data, int32_data, int64_data, double_data, uint64_data."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Payload:
    """Where the values of an initializer lie in the file, and in which field of the tensor."""

    field: int
    start: int
    end: int


@dataclass(frozen=True)
class Skeleton:
    """A model's message without large payloads; these are by the position of their initializer in the graph."""

    data: bytes
    payloads: dict[int, Payload]


@dataclass(frozen=True)
class _Field:
    number: int
    head: bytes
    start: int
    length: int
    kind: int


def read_skeleton(file: ModelFile) -> Skeleton:
    """The skeleton of an ONNX file; `RejectedError` if it is no message that ends with the file."""
    with file.open() as stream:
        return _Walk(file, Cursor(stream, file, rules.PROTOBUF)).model()


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


class _Walk:
    def __init__(self, file: ModelFile, cursor: Cursor) -> None:
        self._file, self._cursor, self._kept = file, cursor, 0
        self._payloads: dict[int, Payload] = {}

    def model(self) -> Skeleton:
        parts: list[bytes] = []
        graphs = 0
        for field in self._fields(self._file.size):
            if (field.number, field.kind) == (GRAPH, _BYTES):
                graphs += 1
                parts.append(self._message(field, b"".join(self._graph(field.start + field.length))))
            else:
                parts.append(self._whole(field))
        if graphs > 1:
            self._reject("one graph", f"{graphs} graphs")
        return Skeleton(b"".join(parts), self._payloads)

    def _graph(self, end: int) -> Iterator[bytes]:
        count = 0
        for field in self._fields(end):
            if (field.number, field.kind) == (INITIALIZER, _BYTES):
                yield self._message(field, b"".join(self._tensor(field.start + field.length, count)))
                count += 1
            else:
                yield self._whole(field)

    def _tensor(self, end: int, position: int) -> Iterator[bytes]:
        for field in self._fields(end):
            is_payload = field.number == RAW_DATA or field.number in TYPED_DATA
            if is_payload and field.kind == _BYTES and field.length > SMALL:
                if position in self._payloads:
                    rules.NO_DATA.reject(
                        self._file.name, expected="one payload", found=f"two, in initializer {position}"
                    )
                self._payloads[position] = Payload(field.number, field.start, field.start + field.length)
                self._cursor.skip(field.length)
            else:
                yield self._whole(field)

    def _message(self, field: _Field, content: bytes) -> bytes:
        return b"".join((varint(field.number << 3 | _BYTES), varint(len(content)), content))

    def _whole(self, field: _Field) -> bytes:
        self._kept += len(field.head) + field.length
        if self._kept > MAX_SKELETON:
            rules.TOO_LARGE.reject(
                self._file.name, expected=f"{MAX_SKELETON} bytes without initializers", found=f"{self._file.size} bytes"
            )
        return field.head + self._cursor.take(field.length)

    def _fields(self, end: int) -> Iterator[_Field]:
        """The fields up to the offset `end`; whoever takes one moves the cursor over its content."""
        while self._cursor.position < end:
            tag, head = self._varint(end)
            kind, length = tag & 7, 0
            if kind == _BYTES:
                length, size = self._varint(end)
                head += size
            elif kind == _VARINT:
                head += self._varint(end)[1]
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                self._reject("a varint, bytes or a fixed number", f"wire type {kind} at byte {self._cursor.position}")
            if not tag >> 3 or self._cursor.position + length > end:
                self._reject(f"a field that ends by byte {end}", f"{length} bytes from byte {self._cursor.position}")
            yield _Field(tag >> 3, head, self._cursor.position, length, kind)

    def _varint(self, end: int) -> tuple[int, bytes]:
        number, head = 0, b""
        while self._cursor.position < end and len(head) < 10:
            byte = self._cursor.take(1)
            head += byte
            number |= (byte[0] & 0x7F) << 7 * (len(head) - 1)
            if byte[0] < 0x80:
                return number, head
        found = f"{head!r} at byte {self._cursor.position}"
        rules.PROTOBUF.reject(self._file.name, expected="a number of at most ten bytes", found=found)

    def _reject(self, expected: str, found: str) -> NoReturn:
        rules.PROTOBUF.reject(self._file.name, expected=expected, found=found)
