"""The JSON documents of a model: bounded, and an object; anything else breaks a rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from formats.findings import Rule
from formats.snapshot import ModelFile

MAX_CONFIG = 16 << 20
"""Bytes of a config."""


def read_json(file: ModelFile, rule: Rule, limit: int = MAX_CONFIG, *, unique: bool = False) -> dict[str, Any]:
    """The object in a file of at most `limit` bytes; `rule` broken otherwise, and by repeated keys if `unique`."""
    if file.size > limit:
        rule.reject(file.name, expected=f"at most {limit} bytes", found=f"{file.size} bytes")
    with file.open() as stream:
        raw = stream.read(limit)
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = _unique if unique else None
    try:
        document = json.loads(raw.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        rule.reject(file.name, expected="a JSON object", found=str(error))
    if not isinstance(document, dict):
        rule.reject(file.name, expected="a JSON object", found=type(document).__name__)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members
