"""The JSON header of a safetensors file, read member by member.

Memory and time are bounded by the longest member and not by the header: a JSON parser makes half a gigabyte of sixteen
megabytes of `[],`. Entries as all known writers make them are read by a pattern, others by the parser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn, TypeGuard

from formats.document import as_json
from formats.findings import Rule
from formats.rules import safetensors as rules
from formats.snapshot import ModelFile

MAX_ENTRY, MAX_NAME = 1 << 20, 4096
"""Bytes of what a header says of one tensor, and characters of its name."""

MAX_METADATA, MAX_TEXTS = 4 << 20, 10_000
"""Bytes of `__metadata__`, and pairs in it."""

LARGEST = (1 << 64) - 1
"""The largest number that a size or an offset may be."""

_INTEGERS = frozenset((int,))
_SPACE = rb"[ \t\n\r]*+"
_WORDS = {b"w": _SPACE, b"s": rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', b"n": b"(0|[1-9][0-9]{0,18})"}
_PLAIN = re.compile(
    rb'%(w)s"(?!__metadata__")([^"\\\0-\x1f]{0,4096}+)"%(w)s:%(w)s\{%(w)s"dtype"%(w)s:%(w)s"(\w{1,16})"%(w)s,'
    rb'%(w)s"shape"%(w)s:%(w)s\[([0-9, ]{0,999})\]%(w)s,'
    rb'%(w)s"data_offsets"%(w)s:%(w)s\[%(w)s%(n)s%(w)s,%(w)s%(n)s%(w)s\]%(w)s\}%(w)s([,}])' % _WORDS
)
_MEMBER = re.compile(rb"(%(w)s%(s)s%(w)s:%(w)s\{(?:[^\"{}]++|%(s)s)*+\})%(w)s([,}])" % _WORDS, re.DOTALL)
"""A member: a name, and an object that holds no other."""

_METADATA = re.compile(rb'%(w)s"__metadata__"%(w)s:%(w)s\{%(w)s(\}%(w)s[,}])?' % _WORDS)
_QUOTE, _COLON, _NEXT = (re.compile(_SPACE.decode() + mark) for mark in ('"', rf':{_SPACE.decode()}"', "([,}])"))
_EMPTY = re.compile(rb"\{%(w)s\}" % _WORDS)
_END = re.compile(rb"%(w)s\Z" % _WORDS)

Entry = tuple[str, str, tuple[int, ...], int, int]
"""A tensor's name, dtype and shape, and its two offsets. Numbers are from 0 to 2**64 - 1."""

_Pairs = list[tuple[str, Any]]


class Header:
    """A header in `data`; `metadata` is there when the entries are through."""

    def __init__(self, file: ModelFile, data: bytes) -> None:
        self._file, self._data = file, data
        self._shapes: dict[bytes, tuple[int, ...]] = {}
        self._metadata: dict[str, str] | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """What `__metadata__` holds."""
        return self._metadata or {}

    def entries(self) -> Iterator[Entry]:
        """What the header says of each tensor, in order; `RejectedError` where it is malformed. Names may repeat."""
        data, at, last = self._data, 1, b","
        if not data.startswith(b"{"):
            self._malformed(0, "a JSON object")
        if empty := _EMPTY.match(data):
            at, last = empty.end(), b"}"
        while last == b",":
            if match := _PLAIN.match(data, at):
                name, dtype, shape, start, end, last = match.groups()
                yield self._name(name), dtype.decode(), self._shape(shape), int(start), int(end)
                at = match.end()
            elif match := _METADATA.match(data, at):
                at = self._nothing(match.end()) if match[1] else self._texts(match.end())
                last = data[at - 1 : at]
            elif match := _MEMBER.match(data, at, at + MAX_ENTRY):
                yield from self._odd(match[1])
                at, last = match.end(), match[2]
            else:
                self._malformed(at, f"a name and a flat object, in at most {MAX_ENTRY} bytes")
        if not _END.match(data, at):
            self._malformed(at, "nothing but spaces after the object")

    def _name(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self._reject(rules.JSON, "UTF-8", error)

    def _shape(self, raw: bytes) -> tuple[int, ...]:
        """The sizes in brackets; a model has few shapes, so each is kept."""
        known = self._shapes.get(raw)
        if known is None:
            sizes = self._parsed(b"[%b]" % raw)
            if not _is_sizes(sizes):
                self._reject(rules.ENTRY, "sizes below 2**64", sizes)
            known = self._shapes[raw] = tuple(sizes)
        return known

    def _odd(self, member: bytes) -> Iterator[Entry]:
        """An entry that is written in another way, or `__metadata__` with escapes in its name."""
        ((name, pairs),) = self._parsed(b"{%b}" % member)
        if name == "__metadata__":
            self._keep(pairs)
            return
        members = dict(pairs)
        if len(members) != len(pairs):
            self._reject(rules.DUPLICATE, "", "a member twice", name)
        dtype, shape, offsets = members.get("dtype"), members.get("shape"), members.get("data_offsets")
        if not isinstance(dtype, str) or not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
            self._reject(rules.ENTRY, "a dtype, a shape of sizes, two data_offsets", pairs[:10], name)
        yield name, dtype, tuple(shape), offsets[0], offsets[1]

    def _parsed(self, text: bytes) -> Any:
        """The JSON document, objects as lists of pairs; all of its text is what UTF-8 can hold."""
        try:
            parsed = json.loads(text.decode(), object_pairs_hook=list, parse_constant=_no_number, parse_int=_size)
            if b"\\u" in text:
                json.dumps(parsed, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            self._reject(rules.JSON, "JSON", error)
        return parsed

    def _nothing(self, at: int) -> int:
        self._keep([])
        return at

    def _texts(self, at: int) -> int:
        """Read the metadata from behind its brace to the mark behind its other brace; where that ends.

        The ends of the texts are found with one character for each byte, so that no parser makes a tree of them all.
        """
        window = self._data[at : at + MAX_METADATA].decode("latin-1")
        pairs: _Pairs = []
        place, last = 0, ","
        try:
            while last == "," and len(pairs) <= MAX_TEXTS:
                spans = []
                for mark in (_QUOTE, _COLON):
                    start = _behind(mark, window, place)
                    place = scanstring(window, start, True)[1]
                    spans.append(b"[%b]" % self._data[at + start - 1 : at + place])
                pairs.append((self._parsed(spans[0])[0], self._parsed(spans[1])[0]))
                place = _behind(_NEXT, window, place)
                last = window[place - 1]
            place = _behind(_NEXT, window, place)
        except ValueError as error:
            self._reject(rules.METADATA, f"texts, in at most {MAX_METADATA} bytes", error)
        self._keep(pairs)
        return at + place

    def _keep(self, pairs: _Pairs) -> None:
        metadata = dict(pairs)
        if self._metadata is not None or len(metadata) != len(pairs):
            self._reject(rules.DUPLICATE, "", "__metadata__, or a name in it, twice")
        if len(pairs) > MAX_TEXTS or not all(isinstance(value, str) for value in metadata.values()):
            self._reject(rules.METADATA, f"at most {MAX_TEXTS} texts", pairs[:10])
        self._metadata = metadata

    def _malformed(self, at: int, expected: str) -> NoReturn:
        self._reject(rules.JSON, expected, f"{_text(self._data[at : at + 60])} at byte {8 + at}")

    def _reject(self, rule: Rule, expected: str, found: object, tensor: str = "") -> NoReturn:
        found = as_json(found) if isinstance(found, list) else str(found)
        rule.reject(self._file.name, expected=expected, found=found, tensor=tensor[:MAX_NAME])


def _text(raw: bytes) -> str:
    """What is in a header where it is wrong, in words."""
    return raw.decode(errors="replace") or "nothing"


def _behind(mark: re.Pattern[str], window: str, place: int) -> int:
    match = mark.match(window, place)
    if not match:
        raise ValueError(_text(window[place : place + 60].encode("latin-1")))
    return match.end()


def _size(text: str) -> int:
    if text[0] == "-":
        raise ValueError(f"{text[:30]} is no size")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and set(map(type, value)) <= _INTEGERS and max(value, default=0) <= LARGEST
