"""Mutations of protobuf messages: fields and lengths at any depth, with the message's descriptor as the map."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from fuzz.blind import mutate, number

Field = tuple[int, int, int | bytes]
"""A field's number, its wire type, and its value: a number for varints, else bytes."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(data: bytes) -> list[Field]:
    """The fields of a message; `ValueError` or `IndexError` if it is none."""
    found: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            found.append((tag >> 3, kind, value))
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(kind, -1)
        if kind == BYTES:
            length, at = _varint(data, at)
        if length < 0 or at + length > len(data):
            raise ValueError("no message")
        found.append((tag >> 3, kind, data[at : at + length]))
        at += length
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("no varint")


def varint(value: int, padding: int = 0) -> bytes:
    """A number as protobuf writes it, with more bytes than it needs if asked."""
    value %= 1 << 64
    groups = []
    while value > 0x7F or padding > 0:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
        padding -= value == 0
    return bytes((*groups, value))


def join(items: list[Field]) -> bytes:
    """The message of these fields."""
    return b"".join(map(_written, items))


def _written(field: Field) -> bytes:
    number_, kind, value = field
    tag = varint(number_ << 3 | kind)
    if isinstance(value, int):
        return tag + varint(value)
    return tag + (varint(len(value)) if kind == BYTES else b"") + value


def mutate_message(rng: Random, data: bytes, descriptor: Any) -> tuple[bytes, str]:
    """The message with one field changed, at any depth."""
    try:
        items = fields(data)
    except (ValueError, IndexError):
        return mutate(rng, data)
    if not items:
        return _written(_random_field(rng, descriptor)), "new"
    at = _chosen(rng, items)
    known = descriptor.fields_by_number.get(items[at][0]) if descriptor else None
    inner = known.message_type if known else None
    value = items[at][2]
    name = known.name if known else str(items[at][0])
    if inner and isinstance(value, bytes) and rng.random() < 0.85:
        changed, made = mutate_message(rng, value, inner)
        items[at] = (items[at][0], items[at][1], changed)
        return join(items), f"{name}.{made}"
    change = rng.choice(_CHANGES)
    return change(rng, items, at, descriptor), f"{name} {change.__name__.strip('_')}"


def _chosen(rng: Random, items: list[Field]) -> int:
    """A field by its number first: a graph has hundreds of nodes and one name. Delimited ones are taken more often."""
    numbers = sorted({number_ for number_, _, _ in items})
    deep = sorted({number_ for number_, kind, _ in items if kind == BYTES})
    wanted = rng.choice(deep if deep and rng.random() < 0.6 else numbers)
    return rng.choice([at for at, (number_, _, _) in enumerate(items) if number_ == wanted])


def _random_field(rng: Random, descriptor: Any) -> Field:
    numbers = sorted(descriptor.fields_by_number) if descriptor else []
    wanted = rng.choice((*numbers, rng.randint(1, 40)))
    kind = rng.choice((VARINT, BYTES, FIXED32, FIXED64))
    sizes = {FIXED32: 4, FIXED64: 8, BYTES: rng.choice((0, 1, 8))}
    return wanted, kind, number(rng) % (1 << 64) if kind == VARINT else rng.randbytes(sizes[kind])


def _value(rng: Random, items: list[Field], at: int, _: Any) -> bytes:
    number_, kind, value = items[at]
    if isinstance(value, int):
        items[at] = (number_, kind, number(rng, value))
    elif kind == BYTES:
        items[at] = (number_, kind, mutate(rng, value)[0] if len(value) < 5000 else value[: rng.randrange(len(value))])
    else:
        items[at] = (number_, kind, rng.randbytes(len(value)))
    return join(items)


def _text(rng: Random, items: list[Field], at: int, _: Any) -> bytes:
    number_, kind, _ = items[at]
    if kind == BYTES:
        other = rng.choice([item[2] for item in items if item[1] == BYTES])
        odd = (
            b"",
            b"\xff",
            b"\xed\xa0\x80",
            b"\0",
            b"../x",
            b"/etc/passwd",
            b"-1",
            b"a" * 5000,
            b"0x10",
            b"9" * 30,
            other,
        )
        items[at] = (number_, kind, rng.choice(odd))
    return join(items)


def _length(rng: Random, items: list[Field], at: int, _: Any) -> bytes:
    number_, kind, value = items[at]
    if kind != BYTES or isinstance(value, int):
        return _value(rng, items, at, None)
    wrong = varint(number(rng, len(value)), rng.choice((0, 0, 3, 9)))
    return join(items[:at]) + varint(number_ << 3 | kind) + wrong + value + join(items[at + 1 :])


def _retag(rng: Random, items: list[Field], at: int, descriptor: Any) -> bytes:
    number_, kind, value = items[at]
    numbers = sorted(descriptor.fields_by_number) if descriptor else [number_]
    items[at] = (rng.choice((*numbers, number_ + 1, 0, (1 << 29) - 1)), kind, value)
    return join(items)


def _rewire(rng: Random, items: list[Field], at: int, _: Any) -> bytes:
    """Another wire type, in front of the same bytes."""
    number_, _, value = items[at]
    raw = varint(value) if isinstance(value, int) else value
    return join(items[:at]) + varint(number_ << 3 | rng.randrange(8)) + raw + join(items[at + 1 :])


def _drop(_: Random, items: list[Field], at: int, __: Any) -> bytes:
    return join(items[:at] + items[at + 1 :])


def _double(rng: Random, items: list[Field], at: int, _: Any) -> bytes:
    place = rng.randint(0, len(items))
    return join([*items[:place], items[at], *items[place:]])


def _move(rng: Random, items: list[Field], at: int, _: Any) -> bytes:
    moved = items.pop(at)
    items.insert(rng.randint(0, len(items)), moved)
    return join(items)


def _new(rng: Random, items: list[Field], at: int, descriptor: Any) -> bytes:
    items.insert(at, _random_field(rng, descriptor))
    return join(items)


def _empty(_: Random, items: list[Field], at: int, __: Any) -> bytes:
    number_, kind, value = items[at]
    items[at] = (number_, kind, 0 if isinstance(value, int) else value[:0] if kind == BYTES else bytes(len(value)))
    return join(items)


Change = Callable[[Random, list[Field], int, Any], bytes]
_CHANGES: tuple[Change, ...] = (
    _value, _value, _value, _text, _length, _retag, _rewire, _drop, _drop, _double, _move, _new, _empty,
)  # fmt: skip
