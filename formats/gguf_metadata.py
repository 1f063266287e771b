"""The metadata of a GGUF file: keys and values, bounded in what is kept and in what is walked.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section File Structure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from formats.cursor import Cursor
from formats.findings import Rule
from formats.rules import gguf as rules
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo

MAX_KEY = (1 << 16) - 1
MAX_TEXT, MAX_KEPT = 1 << 20, 16 << 20
"""Bytes of one text value, and of all keys and values that are kept, 64 for each besides its text."""
MAX_WALKED = 32 << 20
"""Bytes of all arrays that are walked and not kept; a vocabulary of 250,000 takes a third of it."""
MAX_NESTING = 3
MAX_KEPT_ARRAY = 64
"""Arrays with more elements (vocabularies) are walked but not kept."""

UINT16, UINT32, INT32, STRING, ARRAY = 2, 4, 5, 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Number of a value type to its form in `struct`."""

_VALUE = 64
_RESERVED = frozenset(("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"))
"""Keys under which gguf-py keeps what stands before the metadata."""


@dataclass(frozen=True)
class Pair:
    """One pair of the metadata: its value as kept, its type, and the bytes of the file that hold it.

    `length` is that of an array, else 0; `item` the type of its elements.
    """

    value: object
    kind: int
    start: int
    end: int
    item: int = 0
    length: int = 0


@dataclass(frozen=True)
class Header:
    """What stands before the tensors. `order` is `<` or `>`; `start` is the offset of the first tensor's region."""

    version: int
    order: str
    pairs: Mapping[str, Pair]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    start: int


def read_text(file: ModelFile, cursor: Cursor, rule: Rule, limit: int) -> str:
    """The next text, of at most `limit` bytes in UTF-8; `rule` is broken otherwise."""
    length = cursor.number("Q")
    if length > limit:
        rule.reject(file.name, expected=f"at most {limit} bytes", found=f"{length} bytes")
    raw = cursor.take(length)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        rule.reject(file.name, expected="UTF-8", found=raw.decode(errors="replace"))


class Metadata:
    """Reads pairs where the cursor stands; `RejectedError` where one is malformed or too much."""

    def __init__(self, file: ModelFile, cursor: Cursor) -> None:
        self._file, self._cursor = file, cursor
        self._kept, self._walked = 0, 0

    def read(self, count: int) -> dict[str, Pair]:
        """The next `count` pairs by key."""
        pairs: dict[str, Pair] = {}
        for _ in range(count):
            key = read_text(self._file, self._cursor, rules.KEY, MAX_KEY)
            self._keep(key, len(key), rules.KEY)
            if key in pairs or key in _RESERVED:
                self._reject(rules.KEY, "each key once", f"{key!r} twice")
            pairs[key] = self._pair(key)
        return pairs

    def _pair(self, key: str) -> Pair:
        cursor = self._cursor
        start = cursor.position - len(key.encode()) - 8
        kind = cursor.number("I")
        if kind != ARRAY:
            value = self._value(kind, key, 0)
            return Pair(value, kind, start, cursor.position)
        item, length = cursor.number("I"), cursor.number("Q")
        value = self._array(key, item, length, 0)
        return Pair(value, kind, start, cursor.position, item, length)

    def _value(self, kind: int, key: str, depth: int) -> object:
        if kind in SCALARS:
            return self._cursor.scalar(SCALARS[kind])
        if kind == STRING:
            return self._value_text(key)
        if kind != ARRAY or depth > MAX_NESTING:
            self._reject(rules.VALUE, "a type from 0 to 12, arrays not nested deeply", f"{key!r} of type {kind}")
        return self._array(key, self._cursor.number("I"), self._cursor.number("Q"), depth)

    def _array(self, key: str, kind: int, count: int, depth: int) -> object:
        width = struct.calcsize(SCALARS[kind]) if kind in SCALARS else 8
        if count * width > self._file.size - self._cursor.position:
            self._reject(rules.VALUE, "an array that fits the file", f"{key!r} of {count} elements")
        if count <= MAX_KEPT_ARRAY:
            self._keep(key, _VALUE * count, rules.VALUE)
            return [self._value(kind, key, depth + 1) for _ in range(count)]
        if kind not in SCALARS and kind != STRING:
            self._reject(rules.VALUE, f"at most {MAX_KEPT_ARRAY} arrays in an array", f"{key!r} of {count}")
        start, left = self._cursor.position, 0
        if kind == STRING:
            left = self._cursor.skip_texts(count, MAX_WALKED - self._walked)
        else:
            self._cursor.skip(count * width)
        self._walked += self._cursor.position - start
        if left or self._walked > MAX_WALKED:
            self._reject(rules.VALUE, f"at most {MAX_WALKED} bytes of arrays", f"{key!r} of {count} elements")
        return f"{count} values"

    def _value_text(self, key: str) -> str:
        length = self._cursor.number("Q")
        if length > MAX_TEXT:
            self._reject(rules.TEXT, f"at most {MAX_TEXT} bytes", f"{key!r} of {length} bytes")
        self._keep(key, length, rules.TEXT)
        return self._cursor.take(length).decode(errors="replace")

    def _keep(self, key: str, size: int, rule: Rule) -> None:
        self._kept += _VALUE + size
        if self._kept > MAX_KEPT:
            self._reject(rule, f"at most {MAX_KEPT} bytes of keys and values", f"more, from {key[:80]!r} on")

    def _reject(self, rule: Rule, expected: str, found: str) -> NoReturn:
        rule.reject(self._file.name, expected=expected, found=found)
