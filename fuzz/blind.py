"""Mutations that know nothing of a format: bits, bytes, numbers, pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from fuzz.mutant import Content

NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 128, 255, 256, 257, 1000, 4095, 65535, 65536, 1 << 20, (1 << 24) + 1),
    *(-1, -2, -8, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
"""Numbers at which readers break."""

_MAX_PIECE = 64
_DIGITS = re.compile(rb"\d+")


def number(rng: Random, old: int = 0) -> int:
    """A number that may be wrong where `old` was right."""
    near = (old + 1, old - 1, old * 2, old // 2, old + 8, old ^ (1 << rng.randrange(33)), -old)
    return rng.choice(near) if rng.random() < 0.5 else rng.choice(NUMBERS)


def mutate_content(rng: Random, content: Content) -> tuple[Content, str]:
    """The file changed in one place, most often before its zeros."""
    if content.zeros and rng.random() < 0.15:
        zeros = max(content.zeros + rng.choice((-1, 1, -8, 8, -4096, 4096, -content.zeros)), 0)
        return Content(content.head, zeros), "size"
    head, made = mutate(rng, content.head)
    return Content(head, content.zeros), made


def mutate(rng: Random, data: bytes) -> tuple[bytes, str]:
    """The bytes changed in one place, and the name of the change."""
    change = rng.choice(_CHANGES)
    return change(rng, bytearray(data)), change.__name__.strip("_")


def _place(rng: Random, data: bytearray) -> int:
    """A place in the data, more often near its front, where headers are."""
    return int(len(data) * rng.random() ** rng.choice((1, 3))) if data else 0


def _flip(rng: Random, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if data:
            data[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _set(rng: Random, data: bytearray) -> bytes:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(data)


def _binary_number(rng: Random, data: bytearray) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    at = _place(rng, data)
    order = rng.choice(("little", "big"))
    old = int.from_bytes(data[at : at + width], "little")
    new = number(rng, old) % (1 << 8 * width)
    data[at : at + width] = new.to_bytes(width, "big" if order == "big" else "little")
    return bytes(data)


def _text_number(rng: Random, data: bytearray) -> bytes:
    found = list(_DIGITS.finditer(data, 0, 1 << 16))
    if not found:
        return _flip(rng, data)
    match = rng.choice(found)
    data[match.start() : match.end()] = str(number(rng, int(match[0][:30]))).encode()
    return bytes(data)


def _delete(rng: Random, data: bytearray) -> bytes:
    at = _place(rng, data)
    del data[at : at + rng.randint(1, _MAX_PIECE)]
    return bytes(data)


def _insert(rng: Random, data: bytearray) -> bytes:
    at = _place(rng, data)
    data[at:at] = rng.randbytes(rng.randint(1, _MAX_PIECE)) if rng.random() < 0.5 else bytes(rng.randint(1, _MAX_PIECE))
    return bytes(data)


def _repeat(rng: Random, data: bytearray) -> bytes:
    at = _place(rng, data)
    piece = data[at : at + rng.randint(1, _MAX_PIECE)]
    data[at:at] = piece * rng.choice((1, 1, 2, 100))
    return bytes(data)


def _move(rng: Random, data: bytearray) -> bytes:
    at, size = _place(rng, data), rng.randint(1, _MAX_PIECE)
    piece = data[at : at + size]
    del data[at : at + size]
    to = _place(rng, data)
    data[to:to] = piece
    return bytes(data)


def _cut(rng: Random, data: bytearray) -> bytes:
    return bytes(data[: _place(rng, data)])


def _append(rng: Random, data: bytearray) -> bytes:
    return bytes(data) + (rng.randbytes(rng.randint(1, 40)) if rng.random() < 0.5 else bytes(rng.randint(1, 4096)))


Change = Callable[[Random, bytearray], bytes]
_CHANGES: tuple[Change, ...] = (
    _flip, _flip, _set, _binary_number, _binary_number, _text_number, _delete, _insert, _repeat, _move, _cut, _append,
)  # fmt: skip
