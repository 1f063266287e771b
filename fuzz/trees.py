"""Mutations of JSON documents: their tree is kept, with double names and pieces that are no JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz.blind import number


class Raw(str):
    """A text that stands in the document as it is. Lone surrogates from U+DC80 on become single bytes."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """An object's members, in order; a name may stand twice."""


ODD = (
    *("NaN", "Infinity", "-Infinity", "-0", "-1", "1.0", "1e2", "1e400", "00", "01", "+1", ".5", "1.", "0x10", "1_0"),
    *("true", "false", "null", "None", "''", "'a'", '"', "[1,]", "{,}", '{"a" 1}', "[", "]", "{", "}", "/**/1", "1,"),
    *(
        '""',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u0000"',
        '"\\x"',
        '"\x01"',
        '"\udcff"',
        '"\udc80"',
    ),
    *('"\udced\udca0\udc80"', "\ufeff1", "\u00a01", "\x0b1", "9" * 400, "1" + "0" * 5000, "0." + "3" * 400, '"a\nb"'),
    *(str(2**53 + 1), str(2**63), str(2**64), str(2**64 - 1), '{"a":{"b":{}}}', "[[[]]]", '"' + "a" * 5000 + '"'),
)
"""Values that readers take differently, or not at all."""

_DEPTHS = (100, 126, 127, 128, 129, 1000, 5000)


def parse(text: bytes) -> Any:
    """The tree of a document."""
    return json.loads(text, object_pairs_hook=Pairs)


def dump(tree: Any) -> bytes:
    """The text of a tree, without spaces."""
    return _text(tree).encode("utf-8", "surrogateescape")


def _text(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{_text(name)}:{_text(value)}" for name, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(_text, tree)) + "]"
    return json.dumps(tree)


def mutate_tree(rng: Random, tree: Any) -> tuple[Any, str]:
    """A copy with one value, name or member changed, at any depth."""
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        at = rng.randrange(len(tree))
        if rng.random() < 0.6:
            return _inside(rng, tree, at)
        change = rng.choice(_IN_OBJECT if isinstance(tree, Pairs) else _IN_LIST)
        copied = type(tree)(tree)
        change(rng, copied, at)
        return copied, change.__name__.strip("_")
    return value(rng, tree), "value"


def _inside(rng: Random, tree: Any, at: int) -> tuple[Any, str]:
    copied = type(tree)(tree)
    if isinstance(tree, Pairs):
        name, inner = tree[at]
        inner, made = mutate_tree(rng, inner)
        copied[at] = (name, inner)
    else:
        copied[at], made = mutate_tree(rng, tree[at])
    return copied, made


def value(rng: Random, old: Any) -> Any:
    """Something else where `old` was: a near number, an odd text, a deep list."""
    choice = rng.random()
    if isinstance(old, int) and choice < 0.6:
        return number(rng, old)
    if choice < 0.9:
        return Raw(rng.choice(ODD))
    depth = rng.choice(_DEPTHS)
    return Raw(rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth)))


def _drop(_: Random, items: list[Any], at: int) -> None:
    del items[at]


def _double(rng: Random, items: list[Any], at: int) -> None:
    items.insert(rng.randint(0, len(items)), items[at])


def _swap(rng: Random, items: list[Any], at: int) -> None:
    other = rng.randrange(len(items))
    items[at], items[other] = items[other], items[at]


def _many(rng: Random, items: list[Any], at: int) -> None:
    items[at:at] = [items[at]] * rng.choice((2, 10, 70, 1000))


def _rename(rng: Random, items: list[Any], at: int) -> None:
    name, kept = items[at]
    odd = (Raw(rng.choice(ODD)), items[rng.randrange(len(items))][0], f"{name}\u00e9", name[:-1], "__metadata__")
    items[at] = (rng.choice(odd), kept)


def _swap_values(rng: Random, items: list[Any], at: int) -> None:
    other = rng.randrange(len(items))
    (name, kept), (other_name, other_kept) = items[at], items[other]
    items[at], items[other] = (name, other_kept), (other_name, kept)


_IN_LIST: tuple[Callable[[Random, list[Any], int], None], ...] = (_drop, _double, _swap, _many)
_IN_OBJECT = (*_IN_LIST, _rename, _rename, _swap_values)
