"""Payloads back into an ONNX model's message: the way back from `onnx_wire.read_skeleton`.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from formats.onnx_wire import GRAPH, INITIALIZER, varint
from registry.join import Region

_VARINT, _FIXED64, _BYTES = 0, 1, 2

Part = Region | bytes


class _Field(NamedTuple):
    """A field of a message: from `start` to `end`, its content from `content` on."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def fill(message: bytes, payloads: Mapping[int, tuple[int, Region]]) -> Iterator[Part]:
    """The parts of a serialized ModelProto whose initializers have gained payloads.

    `payloads` are by the position of the initializer in the graph: the number of the tensor's field that holds the
    payload, and its bytes. Each comes where its number puts it, so that what a protobuf library has written comes out
    as it would write it. `message` must be well-formed, as a library makes it.
    """
    for field in _fields(message, 0, len(message)):
        if (field.number, field.kind) == (GRAPH, _BYTES):
            yield from _delimited(GRAPH, _joined(_graph(message, field, payloads)))
        else:
            yield message[field.start : field.end]


def _graph(message: bytes, graph: _Field, payloads: Mapping[int, tuple[int, Region]]) -> Iterator[Part]:
    position = 0
    for field in _fields(message, graph.content, graph.end):
        if (field.number, field.kind) != (INITIALIZER, _BYTES):
            yield message[field.start : field.end]
            continue
        if position in payloads:
            yield from _delimited(INITIALIZER, list(_tensor(message, field, *payloads[position])))
        else:
            yield message[field.start : field.end]
        position += 1


def _tensor(message: bytes, tensor: _Field, number: int, payload: Region) -> Iterator[Part]:
    later = (field.start for field in _fields(message, tensor.content, tensor.end) if field.number > number)
    place = next(later, tensor.end)
    yield message[tensor.content : place]
    yield from _delimited(number, [payload])
    yield message[place : tensor.end]


def _delimited(number: int, content: list[Part]) -> Iterator[Part]:
    length = sum(part.length if isinstance(part, Region) else len(part) for part in content)
    yield varint(number << 3 | _BYTES) + varint(length)
    yield from content


def _joined(parts: Iterable[Part]) -> list[Part]:
    """The same parts, runs of bytes made one."""
    joined: list[Part] = []
    run = bytearray()
    for part in parts:
        if isinstance(part, bytes):
            run += part
        else:
            joined += (bytes(run), part)
            run.clear()
    return [*joined, bytes(run)]


def _fields(message: bytes, start: int, end: int) -> Iterator[_Field]:
    while start < end:
        tag, content = _varint(message, start)
        kind = tag & 7
        if kind == _VARINT:
            stop = _varint(message, content)[1]
        elif kind == _BYTES:
            length, content = _varint(message, content)
            stop = content + length
        else:
            stop = content + (8 if kind == _FIXED64 else 4)
        yield _Field(tag >> 3, kind, start, content, stop)
        start = stop


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and the offset behind it."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
