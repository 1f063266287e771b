"""The natural order of tensors: numbers count as numbers, so that a layer's tensors stand together and in sequence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from registry.errors import UsageError

T = TypeVar("T")
Key = tuple[str | tuple[int, str], ...]

MAX_FILES = 99_999
"""What five digits can number, in `model-00001-of-99999.safetensors`."""

_DIGITS = re.compile(r"(\d+)", re.ASCII)


def natural(name: str) -> Key:
    """A sort key: `layers.9.` before `layers.10.`."""
    parts = _DIGITS.split(name)
    return tuple(_number(part) if at % 2 else part for at, part in enumerate(parts))


def _number(digits: str) -> tuple[int, str]:
    """Compares as the number does, and costs nothing for a name of a million digits."""
    short = digits.lstrip("0")
    return len(short), short


def grouped(sized: Iterable[tuple[T, int]], max_size: int, overhead: int = 0) -> Iterator[list[T]]:
    """Things with their sizes in groups of at most `max_size`, in order; what is larger alone is a group of its own.

    `overhead` is what every group costs besides.
    """
    group: list[T] = []
    size = overhead
    for thing, cost in sized:
        if group and size + cost > max_size:
            yield group
            group, size = [], overhead
        group.append(thing)
        size += cost
    if group:
        yield group


def numbered(stem: str, number: int, count: int, suffix: str) -> str:
    """The name of one of `count` files, from number 1 on; `UsageError` if five digits do not suffice."""
    if count > MAX_FILES:
        raise UsageError(
            "these are too many files", subject=stem, expected=f"up to {MAX_FILES}", found=count, hint="raise max_size"
        )
    return f"{stem}{suffix}" if count == 1 else f"{stem}-{number:05}-of-{count:05}{suffix}"
