"""Giants among GGUF files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from formats.gguf import MAX_TENSORS
from fuzz.giants.headers import MILLION
from fuzz.mutant import Content


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _file(tensors: int, pairs: int, body: bytes, zeros: int = 0) -> Content:
    return Content(struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs) + body, zeros)


def _array(kind: int, count: int) -> bytes:
    return struct.pack("<IIQ", 9, kind, count)


_ARCHITECTURE = _text(b"general.architecture") + struct.pack("<I", 8) + _text(b"x")


def _keys(count: int, value: bytes) -> bytes:
    return b"".join(_text(f"{at:x}".encode()) + value for at in range(count))


def _nested(depth: int, width: int) -> bytes:
    value = struct.pack("<IQ", 0, width) + bytes(range(width))
    for _ in range(depth):
        value = struct.pack("<IQ", 9, width) + value * width
    return value


def _table(count: int) -> bytes:
    return b"".join(_text(f"{at:x}".encode()) + struct.pack("<IQIQ", 1, 8, 0, 32 * at) for at in range(count))


def gguf() -> Iterator[tuple[str, Callable[[], Content]]]:
    """Files, by name."""
    huge, byte = 1 << 60, struct.pack("<IB", 0, 1)
    yield "tensors-2-to-the-60", lambda: _file(huge, 1, _ARCHITECTURE, 1 << 30)
    yield "keys-2-to-the-60", lambda: _file(0, huge, _ARCHITECTURE, 1 << 30)
    yield "million-keys", lambda: _file(0, MILLION, _keys(MILLION, byte))
    yield "most-keys", lambda: _file(0, 65_536, _keys(65_535, byte) + _ARCHITECTURE)
    yield "million-tensors", lambda: _file(MILLION, 1, _ARCHITECTURE + _table(MILLION), 32 * MILLION)
    yield (
        "most-tensors",
        lambda: _file(MAX_TENSORS, 1, _ARCHITECTURE + _table(MAX_TENSORS) + bytes(32), 32 * MAX_TENSORS),
    )
    yield "array-2-to-the-60", lambda: _file(0, 1, _text(b"a") + _array(0, huge), 1 << 30)
    yield "texts-2-to-the-60", lambda: _file(0, 1, _text(b"a") + _array(8, huge), 1 << 30)
    yield "endless-empty-texts", lambda: _file(0, 1, _text(b"a") + _array(8, 1 << 32), 1 << 36)
    yield "text-2-to-the-60", lambda: _file(0, 1, _text(b"a") + struct.pack("<IQ", 8, huge), 1 << 30)
    yield "long-texts", lambda: _file(0, 1, _text(b"a") + _array(8, 100), 0)
    yield "nested-1000-deep", lambda: _file(0, 1, _text(b"a") + struct.pack("<I", 9) + _nested(1000, 1))
    yield "nested-64-wide", lambda: _file(0, 1, _text(b"a") + struct.pack("<I", 9) + _nested(3, 64))
    many = _array(2, 64) + struct.pack("<64H", *range(1000, 1064))
    yield "kept-arrays", lambda: _file(0, 65_536, _keys(65_536, many))
    texts = struct.pack("<IIQ", 9, 8, 64) + _text(b"a") * 64
    yield "kept-texts", lambda: _file(0, 65_536, _keys(65_536, texts))
    yield "long-key", lambda: _file(0, 1, _text(b"a" * (16 << 20)))
    yield "allowed-keys-that-are-long", lambda: _file(0, 2000, b"".join(
        _text(f"{at:05}".encode() + b"a" * 65_000) + byte for at in range(2000)))  # fmt: skip
