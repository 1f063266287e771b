"""Intervals for a ratio of means that stay valid however often one looks: confidence sequences.

Both are over independent units in the order in which they were drawn: `above / below`, each a value of one unit, is
the ratio of interest. With probability `confidence` the true ratio lies in every interval of the growing sequence at
once, so whoever stops at the first that decides is not fooled. Why these two: docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recipes.evaluation.scorecard import Interval

Floats = NDArray[np.float64]
Method = Callable[[Floats, Floats, float, float], Interval]

LEAST = 32
"""Units below which nothing is known by the asymptotic method, which leans on the central limit theorem."""

_TIGHTEST = 64
"""Units at which its intervals are the tightest that they can be; elsewhere they lose little."""

MOST = 10.0
"""Ratios beyond it are of interest to nobody."""

_BETS: Floats = np.array([0.95, 0.5, 0.2, 0.07])
_STAKES: Floats = np.array([1 / 2, 1 / 6, 1 / 6, 1 / 6])
"""Parts of the largest bet that cannot ruin, and how the first capital is divided among them. The largest has half,
since nothing proves equality faster."""


def asymptotic(above: Floats, below: Floats, confidence: float, repeated: float = 1.0) -> Interval:
    """For values without bounds, such as sums of log-likelihoods: from means and variances alone.

    The boundary is that of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences" (Annals of Statistics 52, 2024), theorem 2.2; for a ratio it is solved for the
    ratios r at which the mean of `above - r * below` may be 0, as Fieller did. What is known is as if every unit had
    been seen `repeated` times. The ends may be infinite.
    """
    units = len(above) * repeated
    if len(above) == 0 or not np.mean(below):
        return Interval(-math.inf, math.nan, math.inf)
    mean_above, mean_below = float(np.mean(above)), float(np.mean(below))
    estimate = mean_above / mean_below
    if units < LEAST:
        return Interval(-math.inf, estimate, math.inf)
    width = _boundary(units, 1 - confidence) ** 2
    (var_above, covariance), (_, var_below) = np.cov(above, below, ddof=1)
    return _solve(
        mean_below**2 - width * var_below,
        mean_above * mean_below - width * covariance,
        mean_above**2 - width * var_above,
        estimate,
    )


def _boundary(units: float, alpha: float) -> float:
    """By how many standard deviations the mean of so many units may be off, at any time."""
    log = -2 * math.log(alpha)
    rho = (log + math.log(log + 1)) / _TIGHTEST
    spread = units * rho + 1
    return math.sqrt(2 * spread / (units**2 * rho) * math.log(math.sqrt(spread) / alpha))


def _solve(square: float, half: float, rest: float, estimate: float) -> Interval:
    """The r with `square * r² - 2 * half * r + rest <= 0`; everything if the denominator may be 0."""
    if square <= 0:
        return Interval(-math.inf, estimate, math.inf)
    root = math.sqrt(max(half**2 - square * rest, 0))
    return Interval(min((half - root) / square, estimate), estimate, max((half + root) / square, estimate))


def betting(above: Floats, below: Floats, confidence: float, repeated: float = 1.0) -> Interval:
    """For values in [0, 1], such as right or wrong: exact for any number of units, also where differences are rare.

    A ratio r is out when one who bets against it, staking a part of the capital on each unit in turn, would have
    multiplied it by 2 / (1 - confidence): Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
    betting" (JRSS B 86, 2024). The bets are a fixed mixture, so the capital follows from how often each pair of values
    occurs. What is known is as if every unit had been seen `repeated` times. The ends are in [0, `MOST`].
    """
    pairs, seen = np.unique(np.stack([above, below], axis=1), axis=0, return_counts=True)
    counts: Floats = seen * np.float64(repeated)
    enough = math.log(2 / (1 - confidence))
    total = float(np.sum(below))
    estimate = float(np.sum(above)) / total if total else math.nan

    def refutes_less(ratio: float) -> bool:
        """That the true ratio is `ratio` or less: the bets are on a candidate that is better than that."""
        gains = pairs[:, :1] / ratio - pairs[:, 1:]
        return _capital(gains, counts) >= enough

    def refutes_more(ratio: float) -> bool:
        return _capital(ratio * pairs[:, 1:] - pairs[:, :1], counts) >= enough

    low, high = _last(refutes_less, 0.0, MOST), _last(lambda at: not refutes_more(at), 0.0, MOST)
    return Interval(min(low, estimate), estimate, max(high, estimate)) if total else Interval(0.0, math.nan, MOST)


def _capital(gains: Floats, counts: Floats) -> float:
    """The logarithm of what a capital of 1 has become by bets whose gains, for the whole of it, are at least -1."""
    parts = counts @ np.log1p(gains * _BETS) + np.log(_STAKES)
    top = float(np.max(parts))
    return top + math.log(float(np.sum(np.exp(parts - top))))


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where between `low` and `high` that ends which holds on the left alone, to 6 digits."""
    while high - low > _DIGITS:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


_DIGITS = 1e-6
