"""Giants among the headers of safetensors files."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from functools import partial

from formats.safetensors import MAX_TENSORS
from fuzz.mutant import Content

MILLION = 1_000_000
_HEADER = 16 << 20
"""Bytes of the longest header that is read."""


def weights(text: bytes, zeros: int = 0) -> Content:
    """A safetensors file with this header."""
    text += b" " * (-len(text) % 8)
    return Content(struct.pack("<Q", len(text)) + text, zeros)


def header(members: str, zeros: int) -> Content:
    """The same, its header made of these members."""
    return weights(f"{{{members}}}".encode(), zeros)


def filled(start: bytes, piece: bytes, end: bytes, size: int = _HEADER) -> bytes:
    """`piece` over and over between `start` and `end`, some `size` bytes in all."""
    return start + piece * ((size - len(start) - len(end)) // len(piece)) + end


MOST_TENSORS = MAX_TENSORS


def tensors(count: int, name: str = "") -> str:
    """The members of so many tensors of a byte each."""
    entries = (f'"{name}{at:x}":{{"dtype":"U8","shape":[1],"data_offsets":[{at},{at + 1}]}}' for at in range(count))
    return ",".join(entries)


_PIECES = {
    "long-shape": (b'{"a":{"dtype":"U8","data_offsets":[0,1],"shape":[1', b",1", b"]}}"),
    "long-unknown-member": (b'{"a":{"b":[{}', b",{}", b"]}}"),
    "long-flat-member": (b'{"a":{"b":[[]', b",[]", b"]}}"),
    "many-members": (b'{"a":{"a":0', b',"a":0', b"}}"),
    "long-metadata": (b'{"__metadata__":{"":""', b',"":""', b"}}"),
    "long-metadata-value": (b'{"__metadata__":{"a":"\xf0\x9f\x98\x80', b"a", b'"}}'),
    "long-name": (b'{"\xf0\x9f\x98\x80', b"a", b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "escaped-name": (b'{"', b"\\ud83d\\ude00", b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "deep-list": (b'{"a":{"b":', b"[", b""),
    "deep-object": (b"", b'{"a":', b""),
    "long-float": (b'{"a":{"b":0.', b"1", b"}}"),
    "long-number": (b'{"a":{"b":', b"1", b"}}"),
    "nothing-but-quotes": (b'{"', b'"', b""),
    "nothing-but-spaces": (b"{", b" ", b"}"),
    "backslashes": (b'{"', b"\\\\", b'":{}}'),
}
"""What a header begins with, what comes over and over, and what it ends with."""


def _filled(start: bytes, piece: bytes, end: bytes) -> Content:
    return weights(filled(start, piece, end))


def safetensors() -> Iterator[tuple[str, Callable[[], Content]]]:
    """Headers, by name."""
    yield "million-tensors", lambda: header(tensors(MILLION), MILLION)
    yield "quarter-of-a-million-tensors", lambda: header(tensors(250_000), 250_000)
    yield "most-tensors", lambda: header(tensors(MOST_TENSORS), MOST_TENSORS)
    yield (
        "most-tensors-of-long-names",
        lambda: header(tensors(MOST_TENSORS, 190 * "a"), MOST_TENSORS),
    )
    yield (
        "most-tensors-of-odd-names",
        lambda: header(tensors(MOST_TENSORS, 4 * chr(0x1F600)), MOST_TENSORS),
    )
    yield (
        "most-tensors-of-escaped-names",
        lambda: header(tensors(MOST_TENSORS, chr(92) + "u00e9"), MOST_TENSORS),
    )
    yield "header-of-100-mb", lambda: weights(filled(b'{"a":"', b"a", b'"}', 100_000_000))
    yield "length-of-2-to-the-60", lambda: Content(struct.pack("<Q", 1 << 60) + b"{}", 1 << 30)
    for name, pieces in _PIECES.items():
        yield name, partial(_filled, *pieces)
    yield "long-entries", _long_entries
    yield "distinct-metadata", lambda: weights(_metadata(_HEADER - 200))
    yield "allowed-metadata", lambda: weights(_metadata((4 << 20) - 200))


def _long_entries() -> Content:
    """As much as an entry may hold, as often as a header may hold it."""
    entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0],"b":[' + "[]," * 340_000 + "1]}"
    return header(",".join(f'"{at}":{entry}' for at in range(15)), 0)


def _metadata(size: int) -> bytes:
    pairs, at = io.StringIO(), 0
    while pairs.tell() < size:
        pairs.write(f',"{at:x}":""')
        at += 1
    return f'{{"__metadata__":{{{pairs.getvalue()[1:]}}}}}'.encode()
