"""What a run of tasks left, read: the answers of both models to the same items."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recipes.evaluation.details import Details, Item, Size
from recipes.evaluation.engines.tasks import results
from recipes.evaluation.scorecard import Divergence
from recipes.evaluation.series import Series
from registry.errors import ModelError

FLIPPED = 40
"""Items with different answers that are kept to be shown."""

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


@dataclass
class Answers:
    """What is known of the items that both models have answered. `chosen` names the metric of each task."""

    baseline: Path
    candidate: Path
    chosen: Mapping[str, str] = field(default_factory=dict)
    is_less_better: frozenset[str] = frozenset()
    files: int = 0
    pairs: list[Pair] = field(default_factory=list)

    unit = "items"
    method = "betting"
    tokens = 0

    @property
    def units(self) -> int:
        """Files that have been read."""
        return self.files

    @property
    def items(self) -> int:
        """Items that have been read."""
        return len(self.pairs)

    def read(self) -> bool:
        """Read the next file of both, if it is there."""
        path = results(self.candidate, self.files)
        if not path.exists():
            return False
        before = json.loads(results(self.baseline, self.files).read_bytes())
        after = json.loads(path.read_bytes())
        for one, other in zip(before, after, strict=True):
            if any(one[key] != other[key] for key in ("task", "doc", "hash")):
                raise ModelError(
                    "the two models were asked different things",
                    subject=f"{one['task']}, item {one['doc']}",
                    expected=one["hash"],
                    found=other["hash"],
                    hint="a task that is not the same each time it is loaded cannot be paired",
                )
            if self._value(one) is None:
                raise ModelError(
                    "the baseline's answer has no number", subject=f"{one['task']}, item {one['doc']}", found="NaN"
                )
            self.pairs.append((one, other))
        self.files += 1
        return True

    def _value(self, item: Mapping[str, Any]) -> Any:
        """The metric of an item, None if it is no number; of an empty answer the worst, whatever the task says."""
        task = item["task"]
        value = item["metrics"][self.chosen[task]]
        if isinstance(value, list):
            return None if None in value else value
        return float(task in self.is_less_better) if item["empty"] and value is not None else value

    @property
    def failures(self) -> tuple[str, ...]:
        """What counts as lost: answers that are no number."""
        broken = sum(self._value(other) is None for _, other in self.pairs)
        return (f"the candidate's score is no number (NaN or Inf): {broken} of {self.items} items",) if broken else ()

    def series(self) -> list[Series]:
        """A measure for each task."""
        tasks = dict.fromkeys(one["task"] for one, _ in self.pairs)
        return [self._of(task) for task in sorted(tasks)]

    def _of(self, task: str) -> Series:
        scored = [(self._value(one), self._value(other)) for one, other in self.pairs if one["task"] == task]
        pairs = [(one, other) for one, other in scored if one is not None and other is not None]
        metric = self.chosen[task]
        name = f"{task} {metric.partition(',')[0]}"
        if pairs and isinstance(pairs[0][0], list):
            return _likelihood(name, pairs)
        before, after = (np.array([pair[at] for pair in pairs], dtype=np.float64) for at in (0, 1))
        above, below = (before, after) if task in self.is_less_better else (after, before)
        means = [float(values.mean()) if len(values) else 0.0 for values in (before, after)]
        is_share = bool(
            len(pairs) == 0 or (min(before.min(), after.min()) >= 0 and max(before.max(), after.max()) <= 1)
        )
        return Series(name, self.method if is_share else "asymptotic", above, below, means[0], means[1], is_gated=True)

    def divergence(self, confidence: float) -> Divergence | None:  # noqa: ARG002 - passages have some
        """None: nothing is known of probabilities."""
        return None

    def details(self, before: Size, after: Size) -> Details:
        """The items that only one of the two answers rightly, first those that only the baseline does."""
        flipped = []
        for one, other in self.pairs:
            values = (self._value(one), self._value(other))
            scores = [value if isinstance(value, float | int) else math.nan for value in values]
            if scores[0] != scores[1] and not math.isnan(scores[0]):
                flipped.append(Item(one["task"], one["question"], one["target"], scores[0], scores[1]))
        flipped.sort(key=lambda item: item.candidate - item.baseline)
        return Details(before, after, items=tuple(flipped[:FLIPPED]))


def _likelihood(name: str, pairs: list[Any]) -> Series:
    """Of pairs of log-likelihood and weight (words, bytes): their perplexity."""
    before, weights = (np.array([one[at] for one, _ in pairs], dtype=np.float64) for at in (0, 1))
    after = np.array([other[0] for _, other in pairs], dtype=np.float64)
    nats = [-each.sum() / weights.sum() for each in (before, after)]
    values = [each / math.log(2) if "bits" in name else math.exp(min(each, 700)) for each in nats]
    return Series(name, "asymptotic", after - before, weights, values[0], values[1], is_gated=True, is_log=True)
