"""The modules of a model as a table: of which layer each is, and of which kind."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recipes.evaluation.details import WeightError

MAX_KINDS = 14
MAX_COLUMNS = 96
"""Columns of the table, each of one or more layers."""

_ALIKE = 1.25

_BREAK = re.compile(r"[./:]+")


@dataclass(frozen=True)
class Place:
    """Where a module is: in which of the model's stacks of layers, in which layer of it, and what it is there."""

    stack: str
    layer: int
    kind: str


@dataclass(frozen=True)
class Table:
    """The largest error of each kind of module (a row) in each run of `step` layers (a column); NaN where none is.

    `outside` is the number of modules that are in no layer, `left` that of the kinds for which there was no room.
    """

    kinds: tuple[str, ...]
    errors: tuple[tuple[float, ...], ...]
    step: int
    layers: int
    outside: int
    left: int


def are_alike(errors: Sequence[float]) -> bool:
    """Whether no module stands out: the largest error is little above the smallest."""
    known = [error for error in errors if math.isfinite(error)]
    return len(known) == len(errors) > 0 and max(known) < min(known) * _ALIKE


def place(module: str) -> Place | None:
    """The place that a module's name tells, whichever format it is from; None if it is in no layer.

    The first part that is a number is the layer's; other numbers, such as those of experts, make no difference.
    """
    parts = [part for part in _BREAK.split(module) if part and part != "weight"]
    found = next((index for index, part in enumerate(parts) if _is_number(part)), None)
    if found is None:
        return None
    kind = [part for part in parts[found + 1 :] if not _is_number(part)]
    return Place(".".join(parts[:found]), int(parts[found]), ".".join(kind) or parts[max(found - 1, 0)])


def table(weights: Iterable[WeightError]) -> Table:
    """All errors in one table; the kinds in the order in which they first come."""
    known = [(place(one.module), one.error) for one in weights if math.isfinite(one.error)]
    placed = [(where, error) for where, error in known if where]
    worst: dict[tuple[str, str], dict[int, float]] = {}
    layers = max((where.layer for where, _ in placed), default=-1) + 1
    step = max(1, -(-layers // MAX_COLUMNS))
    for where, error in placed:
        row = worst.setdefault((where.stack, where.kind), {})
        row[where.layer // step] = max(error, row.get(where.layer // step, 0.0))
    rows = _largest(worst)
    columns = range(-(-layers // step))
    return Table(
        kinds=_labels(tuple(rows)),
        errors=tuple(tuple(row.get(column, math.nan) for column in columns) for row in rows.values()),
        step=step,
        layers=layers,
        outside=len(known) - len(placed),
        left=len(worst) - len(rows),
    )


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 6


def _largest(worst: Mapping[tuple[str, str], dict[int, float]]) -> dict[tuple[str, str], dict[int, float]]:
    kept = set(sorted(worst, key=lambda key: -max(worst[key].values()))[:MAX_KINDS])
    return {key: row for key, row in worst.items() if key in kept}


def _labels(keys: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The last word of each kind, or all of it where that is not enough to tell them apart."""
    last = Counter(kind.rpartition(".")[2] for _, kind in keys)
    whole = Counter(kind for _, kind in keys)
    return tuple(_label(stack, kind, last, whole) for stack, kind in keys)


def _label(stack: str, kind: str, last: Counter[str], whole: Counter[str]) -> str:
    short = kind.rpartition(".")[2]
    if last[short] == 1:
        return short
    return kind if whole[kind] == 1 else f"{stack}.{kind}"
