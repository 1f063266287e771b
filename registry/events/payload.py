"""What senders wrote, read with bounds: one JSON object, and what is at its paths.

Every refusal is a `ContentError` of one line, which says where, what was expected and what was found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

from registry.errors import ContentError

MAX_BODY = 1 << 20
"""Bytes of a body."""

MAX_SHOWN = 60
"""Characters of a found text that an error shows."""

MAX_ITEMS = 1000
"""Members of a list that is read."""


@dataclass(frozen=True)
class Fields:
    """An object within a body, and where in it. What nobody asks for may be anything.

    A path is the names of members, outermost first. What is null counts as missing.
    """

    where: str
    values: Mapping[str, object]

    def text(self, *path: str) -> str:
        """The text at a path, which must be there and not empty."""
        return self.optional(*path) or self.refuse("text", self._at(path), *path)

    def optional(self, *path: str) -> str:
        """The text at a path, empty where there is none."""
        found = self._at(path)
        if found is None or isinstance(found, str):
            return found or ""
        self.refuse("text", found, *path)

    def fields(self, *path: str) -> Fields:
        """The object at a path, which must be there."""
        found = self._at(path)
        if isinstance(found, dict):
            return Fields(self._name(path), found)
        self.refuse("an object", found, *path)

    def each(self, *path: str) -> list[Fields]:
        """The objects in the list at a path, which must be there."""
        return [
            Fields(where, item) if isinstance(item, dict) else refuse(where, "an object", item)
            for where, item in self._list(path)
        ]

    def texts(self, *path: str) -> list[str]:
        """The texts in the list at a path, which must be there."""
        return [item if isinstance(item, str) else refuse(where, "text", item) for where, item in self._list(path)]

    def has(self, *path: str) -> bool:
        """Whether there is anything at a path."""
        return self._at(path) is not None

    def refuse(self, expected: str, found: object, *path: str) -> Never:
        """Say that something else should stand at a path."""
        refuse(self._name(path), expected, found)

    def _at(self, path: tuple[str, ...]) -> object:
        found: object = self.values
        for depth, name in enumerate(path):
            if not isinstance(found, dict):
                self.refuse("an object", found, *path[:depth])
            found = found.get(name)
            if found is None:
                return None
        return found

    def _list(self, path: tuple[str, ...]) -> list[tuple[str, object]]:
        found = self._at(path)
        if not isinstance(found, list):
            self.refuse("a list", found, *path)
        if len(found) > MAX_ITEMS:
            self.refuse(f"at most {MAX_ITEMS} members", f"{len(found)} members", *path)
        return [(f"{self._name(path)}[{at}]", item) for at, item in enumerate(found)]

    def _name(self, path: tuple[str, ...]) -> str:
        return ".".join(part for part in (self.where, *path) if part)


def read(body: bytes) -> Fields:
    """The JSON object (RFC 8259, UTF-8, no name twice in one object) that a body is, of at most `MAX_BODY` bytes."""
    if len(body) > MAX_BODY:
        refuse("the body", f"at most {MAX_BODY} bytes", f"{len(body)} bytes")
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise ContentError("expected UTF-8, found other bytes", subject="the body") from None
    except RecursionError:
        raise ContentError("expected an event, found too many brackets in brackets", subject="the body") from None
    except ValueError as error:
        raise ContentError(f"expected JSON, found other text ({str(error)[:MAX_SHOWN]})", subject="the body") from None
    if not isinstance(document, dict):
        refuse("the body", "a JSON object", document)
    return Fields("", document)


def refuse(where: str, expected: str, found: object) -> Never:
    """Say that something else should stand somewhere, what is found being made short and printable."""
    raise ContentError(f"expected {expected}, found {_described(found)}", subject=where)


def _described(found: object) -> str:
    if isinstance(found, str):
        shown = ascii(found[:MAX_SHOWN])
        return shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "..."
    kinds = {type(None): "nothing", bool: "true or false", list: "a list", dict: "an object"}
    return kinds.get(type(found), "a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name that stands twice in one object")
    return members


def _no_number(text: str) -> Never:
    raise ValueError(f"{text}, which is no JSON number")
