"""From values of many units to metrics, and from metrics to a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.evaluation.intervals import LEAST, MOST, Floats, Method, asymptotic, betting
from recipes.evaluation.scorecard import Gate, Interval, Metric, Verdict

METHODS: dict[str, Method] = {"asymptotic": asymptotic, "betting": betting}

_FAR = 1_000_000
"""Units that nobody will measure."""


_FEWEST = 2
"""Units that have a variance, from which it follows what more would tell."""

_RIGHT: Floats = np.ones(1)
"""An item that a model answers rightly."""


@dataclass(frozen=True)
class Series:
    """One measure of both models, unit by unit, in the order in which they were drawn.

    The retention is the sum of `above` over that of `below`, or if it `is_log` the exponential of that. `baseline` and
    `candidate` are the values of the measure itself.
    """

    name: str
    method: str
    above: Floats
    below: Floats
    baseline: float
    candidate: float
    is_gated: bool
    is_log: bool = False

    def interval(self, confidence: float, repeated: float = 1.0) -> Interval:
        """The retention, between 0 and `MOST`."""
        found = METHODS[self.method](self.above, self.below, confidence, repeated)
        ends = (found.low, found.estimate, found.high)
        return Interval(*(_bounded(_exp(end) if self.is_log else end) for end in ends))


def _exp(value: float) -> float:
    return math.exp(min(value, math.log(MOST)))


def _bounded(value: float) -> float:
    return min(max(value, 0.0), MOST) if not math.isnan(value) else 0.0


def metrics(series: Sequence[Series], gate: Gate, repeated: float = 1.0) -> tuple[Metric, ...]:
    """What is known of each measure. The doubt that the gate allows is shared by the measures that count."""
    confidence = shared(gate, sum(one.is_gated for one in series))
    return tuple(_metric(one, gate, confidence if one.is_gated else gate.confidence, repeated) for one in series)


def shared(gate: Gate, counting: int) -> float:
    """The confidence of each of so many measures that count, so that all have the gate's."""
    return 1 - (1 - gate.confidence) / max(counting, 1)


def _metric(one: Series, gate: Gate, confidence: float, repeated: float) -> Metric:
    retention = one.interval(confidence, repeated)
    return Metric(
        name=one.name,
        baseline=one.baseline,
        candidate=one.candidate,
        retention=retention,
        method=one.method,
        is_gated=one.is_gated,
        verdict=gate.judge(retention),
    )


def decide(found: Sequence[Metric], failures: Sequence[str]) -> Verdict:
    """Lost if anything is, retained if all that counts is, else undecided."""
    verdicts = {metric.verdict for metric in found if metric.is_gated}
    if failures or Verdict.LOST in verdicts:
        return Verdict.LOST
    return Verdict.RETAINED if verdicts == {Verdict.RETAINED} else Verdict.UNDECIDED


def needed(series: Sequence[Series], gate: Gate, units: int) -> int:
    """How many units would decide, if all were like these: at least `units`; 0 if not even a million would."""

    def decides(count: int) -> bool:
        return decide(metrics(series, gate, count / units), ()) is not Verdict.UNDECIDED

    has_spread = all(one.method != "asymptotic" or len(one.above) >= _FEWEST for one in series)
    if not units or not has_spread or not decides(_FAR):
        return 0
    low, high = units, _FAR
    while high - low > 1 + low // 100:
        middle = max(math.isqrt(low * high), low + 1)
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def fewest(method: str, gate: Gate, counting: int) -> int:
    """The units below which nothing can be decided, even if both models never differ and are always right."""
    if method == "asymptotic":
        return LEAST
    best = Series("", method, _RIGHT, _RIGHT, 1.0, 1.0, is_gated=True)
    return needed([best] * counting, gate, 1) or _FAR


def largest(gate: Gate, items: int, counting: int = 1) -> float:
    """The most that could be asked for of so many items of each task, if both models never differ and are right."""
    return betting(_RIGHT, _RIGHT, shared(gate, counting), items).low
