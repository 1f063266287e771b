"""What a protobuf message of an ONNX model will cost in memory, before a protobuf library makes objects of it.

Two bytes are enough for an empty message, which takes two hundred in memory: a file of some megabytes takes gigabytes.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

TENSOR, MESSAGE, TEXT, NUMBER = 800, 320, 64, 8
"""Bytes for each tensor, with what becomes of it here, for each other message, for each text besides its own, and for
each number; measured, and rather too much."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class _Field(NamedTuple):
    """What a delimited field costs, once and for each of its bytes, and its message, if it is one."""

    once: int
    each: int
    message: _Table | None


_Table = dict[int, _Field]


def weigh(data: bytes, limit: int) -> int:
    """Bytes of memory that a ModelProto takes; counting stops beyond `limit`. `ValueError` if it is no message."""
    try:
        return _weigh(data, limit)
    except (IndexError, KeyError) as error:
        raise ValueError("a field is malformed") from error


def _weigh(data: bytes, limit: int) -> int:
    total, at = 2 * len(data), 0
    table, end = _model(), len(data)
    outer: list[tuple[_Table, int]] = []
    while total <= limit:
        while at == end and outer:
            table, end = outer.pop()
        if at >= end:
            break
        tag, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
            field = table.get(tag >> 3, _UNKNOWN)
            total += field.once + field.each * length
            if field.message is None or at + length > end:
                at += length
            else:
                outer.append((table, end))
                table, end = field.message, at + length
        elif kind == _VARINT:
            total, at = total + NUMBER, _varint(data, at)[1]
        else:
            total, at = total + NUMBER, at + _WIDTHS[kind]
    if at > end:
        raise IndexError
    return total


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while data[at] > 0x7F:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1


_UNKNOWN = _Field(TEXT, 2, None)


@cache
def _model() -> _Table:
    from onnx import ModelProto

    return _table(ModelProto.DESCRIPTOR, {})


def _table(descriptor: Any, known: dict[str, _Table]) -> _Table:
    """The fields of a message, taken from the onnx package; messages may hold themselves."""
    if descriptor.full_name not in known:
        table = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            is_text = field.type in (field.TYPE_STRING, field.TYPE_BYTES)
            inner = _table(field.message_type, known) if field.message_type else None
            if inner is not None:
                is_tensor = field.message_type.name == "TensorProto"
                table[field.number] = _Field(TENSOR if is_tensor else MESSAGE, 0, inner)
            else:
                table[field.number] = _Field(TEXT, 0, None) if is_text else _Field(0, NUMBER, None)
    return known[descriptor.full_name]
