"""The JSON documents of a model: bounded, and an object; anything else breaks a rule."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from formats.findings import Rule
from formats.snapshot import ModelFile

MAX_CONFIG = 6 << 20
"""Bytes of a document that may have any form. A parser takes twenty times that in memory."""

MAX_VALUES, MAX_PAIRS = 100_000, 200_000
"""Values in a document of any form, and pairs in one of maps."""

_WORDS = {b"w": rb"[ \t\n\r]*+", b"t": rb'"([^"\\\0-\x1f]*+)"', b"n": rb"(-?(?:0|[1-9][0-9]{0,18}))"}
_MAP = re.compile(rb"%(w)s%(t)s%(w)s:%(w)s\{(%(w)s\})?" % _WORDS)
_PAIR = re.compile(rb"%(w)s%(t)s%(w)s:%(w)s(?:%(t)s|%(n)s)%(w)s([,}])" % _WORDS)
_START, _NEXT, _END = (re.compile(rb"%b%b" % (_WORDS[b"w"], mark)) for mark in (rb"\{", rb"([,}])", rb"\Z"))


def read_json(file: ModelFile, rule: Rule, limit: int = MAX_CONFIG, *, unique: bool = False) -> dict[str, Any]:
    """The object in a file of at most `limit` bytes; `rule` broken otherwise, and by repeated keys if `unique`.

    A document beyond `MAX_CONFIG` is read if it is a map of maps of plain texts and whole numbers, as an index is.
    """
    if file.size > limit:
        rule.reject(file.name, expected=f"at most {limit} bytes", found=f"{file.size} bytes")
    with file.open() as stream:
        raw = stream.read(limit)
    try:
        document = _Maps(raw).read() if len(raw) > MAX_CONFIG else _tree(raw, _unique if unique else None)
    except (ValueError, RecursionError) as error:
        rule.reject(file.name, expected="a JSON object", found=str(error))
    if not isinstance(document, dict):
        rule.reject(file.name, expected="a JSON object", found=type(document).__name__)
    return document


def _tree(raw: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None) -> Any:
    values = sum(map(raw.count, (b",", b"[", b"{")))
    if values > MAX_VALUES:
        raise ValueError(f"some {values} values, more than {MAX_VALUES}")
    return json.loads(raw.decode(), object_pairs_hook=pairs)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


class _Maps:
    """A large document of maps, read pair by pair; equal values are one object."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at, self._left = raw, 0, MAX_PAIRS
        self._texts: dict[bytes, str] = {}

    def read(self) -> dict[str, dict[str, str | int]]:
        maps: dict[str, dict[str, str | int]] = {}
        self._take(_START)
        last = b","
        while last == b",":
            name, empty = self._take(_MAP)
            if maps.setdefault(name.decode(), {}):
                raise ValueError("a name stands twice")
            if not empty:
                self._fill(maps[name.decode()])
            last = self._take(_NEXT)[0]
        self._take(_END)
        return maps

    def _fill(self, pairs: dict[str, str | int]) -> None:
        last = b","
        while last == b",":
            name, text, number, last = self._take(_PAIR)
            key, size = name.decode(), len(pairs)
            pairs[key] = self._text(text) if number is None else int(number)
            self._left -= 1
            if len(pairs) == size or not self._left:
                raise ValueError("a name stands twice" if self._left else f"more than {MAX_PAIRS} pairs")

    def _text(self, raw: bytes) -> str:
        known = self._texts.get(raw)
        if known is None:
            known = self._texts[raw] = raw.decode()
        return known

    def _take(self, pattern: re.Pattern[bytes]) -> tuple[Any, ...]:
        match = pattern.match(self._raw, self._at)
        if not match:
            self._fail()
        self._at = match.end()
        return match.groups()

    def _fail(self) -> NoReturn:
        found = self._raw[self._at : self._at + 60]
        raise ValueError(f"beyond {MAX_CONFIG} bytes only maps of plain texts are read, not {found!r}")
