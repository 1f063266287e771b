"""What a run on passages of text left, read: fidelity of a language model, or of the vectors of an embedding model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recipes.evaluation.details import Details, Floats, Passage, Size
from recipes.evaluation.engines.fidelity import passage
from recipes.evaluation.intervals import asymptotic
from recipes.evaluation.scorecard import Divergence, Interval
from recipes.evaluation.series import Series

WORST = 5
"""Passages that are kept to be shown."""


@dataclass
class Passages:
    """What is known of the passages that both models have gone through. `gate` are the measures that count.

    `numbers` are those of each token, by passage, and `sums` those of each passage.
    """

    baseline: Path
    candidate: Path
    gate: Sequence[str]
    numbers: list[Mapping[str, Floats]] = field(default_factory=list)
    sums: list[Mapping[str, float]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    unit = "passages"
    method = "asymptotic"

    @property
    def units(self) -> int:
        """Passages that have been read."""
        return len(self.numbers) + len(self.broken)

    @property
    def items(self) -> int:
        """The same: a passage is what is counted."""
        return self.units

    @property
    def tokens(self) -> int:
        """Tokens that were scored."""
        return sum(len(next(iter(each.values()))) for each in self.numbers)

    def read(self) -> bool:
        """Read the next passage, if it is there."""
        path = passage(self.candidate, self.units)
        if not path.exists():
            return False
        numbers, metadata = _load(path)
        if failure := metadata.get("failure"):
            self.broken.append(failure)
        elif not all(np.isfinite(values).all() for values in numbers.values()):
            self.broken.append("the candidate computes numbers that are none (NaN or Inf)")
        else:
            self.numbers.append(numbers)
            self.sums.append({name: float(values.sum()) for name, values in numbers.items()})
        return True

    @property
    def failures(self) -> tuple[str, ...]:
        """What counts as lost, and for how many passages."""
        return tuple(
            f"{text}: {self.broken.count(text)} of {self.units} passages" for text in dict.fromkeys(self.broken)
        )

    def series(self) -> list[Series]:
        """The measures, of the passages that gave numbers."""
        if not self.numbers:
            return []
        if "cosine" in self.numbers[0]:
            return [self._share("cosine", "cosine", "")]
        tokens = self._counts("loss_baseline")
        before, after = self._sums("loss_baseline"), self._sums("loss_candidate")
        perplexity = Series(
            "perplexity",
            self.method,
            before - after,
            tokens,
            math.exp(min(before.sum() / tokens.sum(), 700)),
            math.exp(min(after.sum() / tokens.sum(), 700)),
            "perplexity" in self.gate,
            is_log=True,
        )
        return [
            perplexity,
            self._share("accuracy", "right_candidate", "right_baseline"),
            self._share("agreement", "agree", ""),
        ]

    def _share(self, name: str, above: str, below: str) -> Series:
        """A measure that is a mean over tokens; of the baseline it is 1 if nothing is named for it."""
        count = self._counts(above)
        candidate, baseline = self._sums(above), self._sums(below) if below else count
        before, after = (float(sums.sum() / count.sum()) for sums in (baseline, candidate))
        is_gated = name in self.gate or name == "cosine"
        return Series(name, self.method, candidate, baseline, before, after, is_gated)

    def _sums(self, name: str) -> Floats:
        return np.array([each[name] for each in self.sums], dtype=np.float64)

    def _counts(self, name: str) -> Floats:
        """How many values of a name each passage has: its scored tokens, mostly."""
        return np.array([len(each[name]) for each in self.numbers], dtype=np.float64)

    def divergence(self, confidence: float) -> Divergence | None:
        """How far the distributions are apart; None where there are none."""
        if not self.numbers or "divergence" not in self.numbers[0]:
            return None
        tokens, all_of = self._counts("agree"), self._all("divergence")
        right, other = self._all("right_baseline"), self._all("right_candidate")
        return Divergence(
            mean=_within(asymptotic(self._sums("divergence"), tokens, confidence, 1.0), math.inf),
            p99=float(np.quantile(all_of, 0.99)),
            most=float(all_of.max()),
            agreement=_within(asymptotic(self._sums("agree"), tokens, confidence, 1.0), 1.0),
            lost=float(((right == 1) & (other == 0)).mean()),
            won=float(((right == 0) & (other == 1)).mean()),
        )

    def _all(self, name: str) -> Floats:
        return np.concatenate([each[name] for each in self.numbers])

    def details(self, before: Size, after: Size) -> Details:
        """Where it hurts."""
        if not self.numbers or "divergence" not in self.numbers[0]:
            return Details(before, after)
        means = {at: float(each["divergence"].mean()) for at, each in enumerate(self.numbers)}
        worst = sorted(means, key=lambda at: -means[at])[:WORST] if not self.broken else []
        return Details(
            before,
            after,
            divergence=self._all("divergence"),
            agreement=self._by_position("agree"),
            passages=tuple(self._passage(at) for at in worst),
        )

    def _by_position(self, name: str) -> Floats:
        """The mean at each position, of the passages that are as long."""
        longest = max(len(each[name]) for each in self.numbers)
        rows = np.full((len(self.numbers), longest), np.nan)
        for row, each in zip(rows, self.numbers, strict=True):
            row[: len(each[name])] = each[name]
        return np.asarray(np.nanmean(rows, axis=0), dtype=np.float64)

    def _passage(self, at: int) -> Passage:
        pieces = json.loads(_load(passage(self.baseline, at))[1]["pieces"])
        return Passage(tuple(pieces), (0.0, *map(float, self.numbers[at]["divergence"])))


def _within(found: Interval, most: float) -> Interval:
    """The same, within what is possible; an end that is not known is as far as anything was seen to be."""
    high = found.high if math.isfinite(found.high) else most if math.isfinite(most) else 2 * found.estimate
    return Interval(max(found.low, 0.0), found.estimate, min(high, most))


def _load(path: Path) -> tuple[Mapping[str, Floats], Mapping[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = [name for name in file.keys() if name not in ("tokens", "states", "logits")]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
