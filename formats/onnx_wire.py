"""The wire format of protobuf, as far as the weights of an ONNX model need it.

A protobuf has no table of contents, and its library reads all of it. This walks the message instead and leaves the
large payloads of tensors where they are: what remains, the skeleton, is the same message without them.
https://protobuf.dev/programming-guides/encoding/; field numbers from ONNX's onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from formats.cursor import Cursor
from formats.rules import onnx as rules
from formats.snapshot import ModelFile

MAX_SKELETON = 32 << 20
"""Bytes of a model without the payloads of its graph's initializers."""

MAX_OUTLINE = 16 << 20
"""Bytes of a model without any payloads."""

SMALL = 1 << 10
"""Bytes of a payload that stays in the skeleton."""

MAX_DEPTH = 100
"""Messages in messages: what protobuf's own parsers take."""

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
TYPED_DATA = frozenset((4, 5, 7, 10, 11))
"""Fields of a tensor that hold packed numbers: float_data, int32_data, int64_data, double_data, uint64_data."""

_PAYLOAD = "payload"
_TENSOR = dict.fromkeys((RAW_DATA, *TYPED_DATA), _PAYLOAD)
_INITIALIZERS = {"model": {GRAPH: "graph"}, "graph": {INITIALIZER: "tensor"}, "tensor": _TENSOR}
ALL_TENSORS = {
    "model": {GRAPH: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", INITIALIZER: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph"},
    "tensor": _TENSOR,
}
"""Kind of message to its fields that may hold large tensors, and what each is. Sparse tensors are taken whole."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_HEAD = 20
"""Bytes before the content of a field: two numbers of at most ten bytes."""

_PLAIN, _SLOW = 8, 100
"""Bytes that a field counts besides its own, so that time is bounded too; what is looked at by itself takes more."""

Path = tuple[int, ...]
"""Where a tensor is in a model: field number and position in the field, from the model down."""


@dataclass(frozen=True)
class Payload:
    """Where the values of a tensor lie in the file, and in which field of the tensor."""

    field: int
    start: int
    end: int


@dataclass(frozen=True)
class Skeleton:
    """A model's message without large payloads; these are by the position of their initializer in the graph."""

    data: bytes
    payloads: Mapping[int, Payload]


@dataclass(frozen=True)
class Outline:
    """A model's message without the large payloads of any tensor; these are by the place of their tensor."""

    data: bytes
    payloads: Mapping[Path, Payload]


def read_skeleton(file: ModelFile) -> Skeleton:
    """The skeleton of an ONNX file; `RejectedError` if it is no message that ends with the file."""
    outline = _read(file, _INITIALIZERS, MAX_SKELETON)
    return Skeleton(outline.data, {path[-1]: payload for path, payload in outline.payloads.items()})


def read_outline(file: ModelFile) -> Outline:
    """The outline of an ONNX file; `RejectedError` if it is no message that ends with the file."""
    return _read(file, ALL_TENSORS, MAX_OUTLINE)


def _read(file: ModelFile, kinds: Mapping[str, Mapping[int, str]], limit: int) -> Outline:
    with file.open() as stream:
        walk = _Walk(file, Cursor(stream, file, rules.PROTOBUF), kinds, limit)
        return Outline(b"".join(walk.message("model", file.size, ())), walk.payloads)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


class _Walk:
    def __init__(self, file: ModelFile, cursor: Cursor, kinds: Mapping[str, Mapping[int, str]], limit: int) -> None:
        self._file, self._cursor, self._kinds, self._left, self._limit = file, cursor, kinds, limit, limit
        self.payloads: dict[Path, Payload] = {}

    def message(self, kind: str, end: int, path: Path) -> list[bytes]:
        """The message up to the offset `end`, in pieces, without the payloads in it."""
        cursor, kinds = self._cursor, self._kinds[kind]
        seen = dict.fromkeys(kinds, 0)
        pieces: list[bytes] = []
        if len(path) > 2 * MAX_DEPTH:
            self._reject(f"at most {MAX_DEPTH} messages in messages", "more")
        while cursor.position < end:
            window, at = cursor.window(min(_HEAD, end - cursor.position))
            stop = min(len(window), at + end - cursor.position)
            place, count = plain_fields(window, at, stop, seen)
            self._left -= _PLAIN * count
            pieces.append(self._whole(place - at))
            if cursor.position < end:
                pieces += self._field(kinds, end, path, seen)
        if kind == "model" and seen[GRAPH] > 1:
            self._reject("one graph", f"{seen[GRAPH]} graphs")
        return pieces

    def _field(self, kinds: Mapping[int, str], end: int, path: Path, seen: dict[int, int]) -> list[bytes]:
        """The next field, whatever it is."""
        start = self._cursor.position
        tag = self._varint(end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            self._varint(end)
        elif kind != _BYTES and kind not in _WIDTHS:
            self._reject("a varint, bytes or a fixed number", f"wire type {kind} at byte {start}")
        length = self._varint(end) if kind == _BYTES else _WIDTHS.get(kind, 0)
        content = self._cursor.position
        if not number or content + length > end:
            self._reject(f"a field that ends by byte {end}", f"{length} bytes from byte {content}")
        inner = kinds.get(number) if kind == _BYTES else None
        if inner:
            seen[number] += 1
        self._left -= _SLOW
        if not inner or length <= SMALL:
            self._cursor.back(start)
            return [self._whole(content + length - start)]
        if inner == _PAYLOAD:
            return self._payload(path, Payload(number, content, content + length))
        pieces = self.message(inner, content + length, (*path, number, seen[number] - 1))
        return [varint(tag), varint(sum(map(len, pieces))), *pieces]

    def _payload(self, path: Path, payload: Payload) -> list[bytes]:
        if path in self.payloads:
            rules.NO_DATA.reject(self._file.name, expected="one payload", found=f"two at byte {payload.start}")
        self.payloads[path] = payload
        self._cursor.skip(payload.end - payload.start)
        return []

    def _whole(self, length: int) -> bytes:
        self._left -= length
        if self._left < 0:
            rules.TOO_LARGE.reject(
                self._file.name, expected=f"{self._limit} bytes without tensors", found=f"{self._file.size} bytes"
            )
        return self._cursor.take(length)

    def _varint(self, end: int) -> int:
        number = shift = 0
        while self._cursor.position < end and shift < 70:
            byte = self._cursor.take(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
        self._reject("a number of at most ten bytes", f"something else before byte {self._cursor.position}")

    def _reject(self, expected: str, found: str) -> NoReturn:
        rules.PROTOBUF.reject(self._file.name, expected=expected, found=found)


def plain_fields(window: bytes, at: int, stop: int, seen: dict[int, int]) -> tuple[int, int]:
    """Pass over the fields before `stop` that are simply written and of no interest; where they end, and how many.

    `seen` are the numbers of fields of interest; the small ones among them are counted there, and passed over.
    """
    count = 0
    try:
        while at < stop:
            tag, place = window[at], at + 1
            if tag > 0x7F:
                tag, place = tag & 0x7F | window[place] << 7, place + 1
            kind, number = tag & 7, tag >> 3
            if kind == _BYTES:
                length, place = window[place], place + 1
                if length > 0x7F:
                    length, place = length & 0x7F | window[place] << 7, place + 1
                place += length if length < _TWO_BYTES and (length <= SMALL or number not in seen) else stop
            elif kind == _VARINT:
                place = _behind_varint(window, place)
            else:
                place += _WIDTHS[kind]
            if not number or tag >= _TWO_BYTES or place > stop:
                break
            if kind == _BYTES and number in seen:
                seen[number] += 1
            at, count = place, count + 1
    except (IndexError, KeyError):
        pass
    return at, count


def _behind_varint(window: bytes, at: int) -> int:
    """The place behind a number of at most ten bytes."""
    for place in range(at, at + 10):
        if window[place] < 0x80:
            return place + 1
    raise IndexError


_TWO_BYTES = 1 << 14
"""What a number of two bytes stays below."""
