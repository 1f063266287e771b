"""The JSON documents of a model: bounded, and an object; anything else breaks a rule."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from typing import Any, BinaryIO, NoReturn

from formats.findings import Rule
from formats.snapshot import ModelFile

MAX_CONFIG = 6 << 20
"""Bytes of a document that may have any form. A parser takes twenty times that in memory."""

MAX_VALUES = 100_000
"""Values in a document of any form."""

MAX_PAIR, MAX_TEXTS = 1 << 20, 4096
"""Bytes of a pair of a document of maps, and different texts that its names may be mapped to."""

MAX_NAMES = 48 << 20
"""Bytes of memory that the pairs of a document of maps may take."""

TWICE = "a name stands twice: "
"""What the reason begins with where an object has a name twice."""

_WINDOW = 256 << 10
_ENTRY = 60
"""Bytes of memory that a map takes for a pair, besides its name."""

_SPACES = b" \t\n\r"
_NUMBER = rb"-?(?:0|[1-9][0-9]{0,18}+)(?:\.[0-9]{1,40}+)?+(?:[eE][+-]?[0-9]{1,4}+)?+"
_WORDS = {
    b"w": rb"[ \t\n\r]*+",
    b"t": rb'"([^"\\\0-\x1f]*+(?:\\.[^"\\\0-\x1f]*+)*+)"',
    b"s": rb"(%b|true|false|null)" % _NUMBER,
}
_MAP = re.compile(rb"%(w)s%(t)s%(w)s:%(w)s\{%(w)s(\})?" % _WORDS)
_PAIR = re.compile(rb"%(w)s%(t)s%(w)s:%(w)s(?:%(t)s|%(s)s)%(w)s([,}])" % _WORDS)
_START, _NEXT = (re.compile(rb"%b%b" % (_WORDS[b"w"], mark)) for mark in (rb"\{", rb"([,}])"))

Scalar = str | int | float | bool | None


def read_json(file: ModelFile, rule: Rule, limit: int = MAX_CONFIG, *, encodable: bool = False) -> dict[str, Any]:
    """The object in a file of at most `limit` bytes; `rule` broken otherwise, and by a name that stands twice.

    With a `limit` beyond `MAX_CONFIG` a map of maps of scalars is hoped for, as an index is: that is read pair by pair,
    from a file of any size, and costs at most `MAX_NAMES` in memory. Anything else is parsed if it is small enough.
    If `encodable`, text that UTF-8 cannot hold breaks the rule too.
    """
    if file.size > limit:
        rule.reject(file.name, expected=f"at most {limit} bytes", found=f"{file.size} bytes")
    with file.open() as stream:
        raw = stream.read(MAX_CONFIG if file.size <= MAX_CONFIG else _WINDOW)
        document, error = _maps(raw, stream, file.size) if limit > MAX_CONFIG else (None, "")
    if document is None and file.size <= MAX_CONFIG:
        document, error = parse_json(raw, MAX_VALUES)
        error = error or (_unencodable(raw, document) if encodable else "")
    if error:
        rule.reject(file.name, expected="a JSON object", found=error)
    if not isinstance(document, dict):
        rule.reject(file.name, expected="a JSON object", found=kind_of(document))
    return document


def parse_json(raw: bytes, most: int) -> tuple[Any, str]:
    """A document of at most some `most` values, or why it is none, such as a name that stands twice in an object."""
    values = count_values(raw)
    if values > most:
        return None, f"some {values} values, more than {most}"
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique), ""
    except (ValueError, RecursionError) as error:
        return None, str(error)


def count_values(raw: bytes) -> int:
    """At least as many values as a document has."""
    return sum(map(raw.count, (b",", b"[", b"{")))


def as_json(value: object) -> str:
    """The first characters of a value as it stands in a document."""
    return json.dumps(value, ensure_ascii=False)[:300]


def kind_of(value: object) -> str:
    """What a value is called in JSON."""
    kinds = (
        (type(None), "null"),
        (bool, "a truth value"),
        (str, "a text"),
        (int | float, "a number"),
        (list, "a list"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "an object")


def _maps(raw: bytes, stream: BinaryIO, size: int) -> tuple[dict[str, dict[str, Scalar]] | None, str]:
    """A document of maps that begins with `raw`, or what it is not."""
    try:
        return _Maps(raw, stream, size).read(), ""
    except ValueError as error:
        return None, str(error)


def _unencodable(raw: bytes, document: object) -> str:
    """Why UTF-8 cannot hold a document that was parsed: half a pair of surrogates, which only an escape can make."""
    try:
        if b"\\u" in raw:
            json.dumps(document, ensure_ascii=False).encode()
    except ValueError as error:
        return str(error)
    return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _twice(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))
    return members


def _twice(name: str) -> ValueError:
    return ValueError(f"{TWICE}{name[:100]}")


class _Maps:
    """A document of maps in `size` bytes, of which `window` are read, taken pair by pair; equal texts are shared."""

    def __init__(self, window: bytes, stream: BinaryIO, size: int) -> None:
        self._window, self._at = window, 0
        self._stream, self._unread = stream, size - len(window)
        self._left = MAX_NAMES
        self._texts: dict[bytes, str] = {}

    def read(self) -> dict[str, dict[str, Scalar]]:
        maps: dict[str, dict[str, Scalar]] = {}
        self._take(_START)
        last = b","
        while last == b",":
            raw, empty = self._take(_MAP)
            name = self._spent(_text(raw))
            if name in maps:
                raise _twice(name)
            maps[name] = {}
            if not empty:
                self._fill(maps[name])
            last = self._take(_NEXT)[0]
        self._end()
        return maps

    def _fill(self, pairs: dict[str, Scalar]) -> None:
        last = b","
        while last == b",":
            raw, text, scalar, last = self._take(_PAIR)
            name = self._spent(_text(raw))
            if name in pairs:
                raise _twice(name)
            pairs[name] = self._shared(text) if scalar is None else json.loads(scalar)

    def _spent(self, text: str) -> str:
        """The text, counted as one that is kept."""
        self._left -= sys.getsizeof(text) + _ENTRY
        if self._left < 0:
            raise ValueError(f"names that take more than {MAX_NAMES} bytes in memory")
        return text

    def _shared(self, raw: bytes) -> str:
        """The text; a model has few shards, so each is kept."""
        known = self._texts.get(raw)
        if known is None:
            if len(self._texts) == MAX_TEXTS:
                raise ValueError(f"names of more than {MAX_TEXTS} different files")
            known = self._texts[raw] = self._spent(_text(raw))
        return known

    def _take(self, pattern: re.Pattern[bytes]) -> tuple[Any, ...]:
        match = pattern.match(self._window, self._at)
        while (not match or match.end() == len(self._window)) and self._more():
            match = pattern.match(self._window, self._at)
        if not match:
            self._fail()
        self._at = match.end()
        return match.groups()

    def _more(self) -> bool:
        """Whether there was more to read, which is in the window then; what lies before the place is let go."""
        if len(self._window) - self._at > MAX_PAIR or not self._unread:
            return False
        kept = self._window[self._at :]
        self._window, self._at = kept + self._next(), 0
        return len(self._window) > len(kept)

    def _next(self) -> bytes:
        piece = self._stream.read(min(_WINDOW, self._unread))
        self._unread -= len(piece)
        return piece

    def _end(self) -> None:
        """Nothing but spaces is left."""
        while self._at < len(self._window):
            if self._window[self._at :].strip(_SPACES):
                self._fail()
            self._window, self._at = self._next(), 0

    def _fail(self) -> NoReturn:
        found = self._window[self._at : self._at + 60].decode(errors="replace")
        raise ValueError(f"an index is a map of maps of texts and numbers, and not {found or 'the end of the file'}")


def _text(raw: bytes) -> str:
    """The text of a string; `ValueError` if UTF-8 cannot hold it."""
    if b"\\" not in raw:
        return raw.decode()
    text = str(json.loads(b'"%b"' % raw))
    text.encode()
    return text
