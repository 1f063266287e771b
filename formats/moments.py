"""What is known about numbers that have been seen: counts, extremes, mean and variance, exact enough to be merged.

Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from formats.decode import Codes, Decoder

_FEW = 1 << 15
"""Codes below which a histogram costs more than a look at each."""

_HUGE = 1e150
"""A range whose squares float64 cannot hold."""


@dataclass(frozen=True, slots=True)
class Moments:
    """`seen` numbers, of which `nan` and `inf` are none; `low` to `squares` are of the rest, the finite ones.

    `squares` is the sum of squared distances from `mean`; both may be of a wider type than float. `first_bad` is the
    position of the first NaN or Inf.
    """

    seen: int = 0
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    mean: Any = 0.0
    squares: Any = 0.0
    first_bad: int | None = None

    @property
    def finite(self) -> int:
        """How many are finite."""
        return self.seen - self.nan - self.inf

    @property
    def std(self) -> float:
        """The standard deviation of the finite ones, of which there must be one."""
        return (
            float(sqrt(self.squares / self.finite))
            if self.squares < _HUGE**2
            else float((self.squares / self.finite) ** 0.5)
        )

    def __add__(self, later: Moments) -> Moments:
        """Of both; `later` were seen after these."""
        count = self.finite + later.finite
        bad = self.first_bad
        if bad is None and later.first_bad is not None:
            bad = self.seen + later.first_bad
        both = replace(
            self,
            seen=self.seen + later.seen,
            nan=self.nan + later.nan,
            inf=self.inf + later.inf,
            zeros=self.zeros + later.zeros,
            low=min(self.low, later.low),
            high=max(self.high, later.high),
            first_bad=bad,
        )
        if not self.finite or not later.finite:
            known = self if self.finite else later
            return replace(both, mean=known.mean, squares=known.squares)
        apart = later.mean - self.mean
        mean = self.mean + apart * (later.finite / count)
        squares = self.squares + later.squares + apart * apart * (self.finite * (later.finite / count))
        return replace(both, mean=mean, squares=squares)


def moments(data: Any, how: Decoder) -> Moments:
    """Of the numbers in an array of bytes, in whole blocks of the decoder."""
    if isinstance(how, Codes) and len(data) > _FEW:
        return _of_codes(how, how.codes(data) if how.swapped or how.bits == 4 else data)
    return of_numbers(how.numbers(data))


def of_numbers(numbers: Any) -> Moments:
    """Of an array of numbers of any kind."""
    import numpy

    if not len(numbers):
        return Moments()
    with numpy.errstate(over="ignore", invalid="ignore"):
        low, high = numbers.min(), numbers.max()
        if not numpy.isfinite(low) or not numpy.isfinite(high):
            return _of_some(numbers)
        wide = numpy.longdouble if float(high) - float(low) > _HUGE else numpy.float64
        distances = numbers.astype(wide)
        mean = distances.mean()
        distances -= mean
        zeros = len(numbers) - int(numpy.count_nonzero(numbers))
        squares = numpy.dot(distances, distances)
    return Moments(len(numbers), zeros=zeros, low=float(low), high=float(high), mean=mean, squares=squares)


def _of_some(numbers: Any) -> Moments:
    """Of numbers of which some are not finite."""
    import numpy

    finite = numpy.isfinite(numbers)
    nan = int(numpy.isnan(numbers).sum())
    inf = len(numbers) - int(finite.sum()) - nan
    first = int(numpy.argmin(finite))
    return replace(of_numbers(numbers[finite]), seen=len(numbers), nan=nan, inf=inf, first_bad=first)


def _of_codes(how: Codes, codes: Any) -> Moments:
    """By a histogram."""
    import numpy

    counts = _histogram(how, codes)
    there = counts.nonzero()[0]
    numbers, weights = how.table[there], counts[there]
    finite = numpy.isfinite(numbers)
    nan = int(weights[numpy.isnan(numbers)].sum())
    inf = int(weights[~finite].sum()) - nan
    first = None
    if nan or inf:
        first = int(numpy.argmin(numpy.isfinite(how.table)[_as_codes(how, codes)]))
    seen = int(weights.sum())
    numbers, weights = numbers[finite], weights[finite]
    if not len(numbers):
        return Moments(seen, nan, inf, first_bad=first)
    mean = numpy.dot(numbers, weights) / weights.sum()
    squares = numpy.dot((numbers - mean) ** 2, weights)
    zeros = int(weights[numbers == 0].sum())
    return Moments(seen, nan, inf, zeros, float(numbers.min()), float(numbers.max()), mean, squares, first)


def _as_codes(how: Codes, data: Any) -> Any:
    import numpy

    return data.view(numpy.uint16) if how.bits == 16 else data


def _histogram(how: Codes, data: Any) -> Any:
    """How often each code is there. Bytes are counted in pairs, which is twice as fast."""
    import numpy

    if how.bits == 16:
        return numpy.bincount(data.view(numpy.uint16), minlength=1 << 16)
    even = len(data) & ~1
    pairs = numpy.bincount(data[:even].view(numpy.uint16), minlength=1 << 16).reshape(256, 256)
    counts = pairs.sum(axis=0) + pairs.sum(axis=1)
    counts[data[even:]] += 1
    return counts[: 1 << how.bits]
