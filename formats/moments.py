"""What is known about numbers that have been seen: counts, extremes, mean and variance, exact enough to be merged.

Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from formats.decode import Codes, Decoder

_FEW = 1 << 15
"""Codes below which a histogram costs more than a look at each."""

_HUGE, _TINY = 1e150, 1e-150
"""Numbers above which, and distances below which, float64 cannot hold the squares."""


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
        return float((self.squares / self.finite) ** 0.5)

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
        counts = _Counts(how)
        counts.add(data)
        return counts.moments()
    return of_numbers(how.numbers(data))


def of_pieces(pieces: Iterable[Any], how: Decoder) -> Moments:
    """Of arrays of bytes, one after the other, each in whole blocks; a piece is done with before the next is taken.

    Codes are counted through all pieces and looked at once, which saves a quarter of the time.
    """
    known, counts = Moments(), _Counts(how) if isinstance(how, Codes) else None
    for piece in pieces:
        if counts and (counts.seen or len(piece) > _FEW):
            counts.add(piece)
        else:
            known += of_numbers(how.numbers(piece))
    return known + counts.moments() if counts else known


def of_numbers(numbers: Any) -> Moments:
    """Of an array of numbers of any kind."""
    import numpy

    if not len(numbers):
        return Moments()
    with numpy.errstate(over="ignore", invalid="ignore"):
        low, high = numbers.min(), numbers.max()
        if not numpy.isfinite(low) or not numpy.isfinite(high):
            return _of_some(numbers)
        is_wide = max(abs(float(low)), abs(float(high))) > _HUGE or 0 < float(high) - float(low) < _TINY
        wide = numpy.longdouble if is_wide else numpy.float64
        distances = numbers.astype(wide)
        mean = distances.mean()
        distances -= mean
        zeros = int(numpy.count_nonzero(numbers == 0))
        squares = numpy.square(distances, out=distances).sum()
    return Moments(len(numbers), zeros=zeros, low=float(low), high=float(high), mean=mean, squares=squares)


def _of_some(numbers: Any) -> Moments:
    """Of numbers of which some are not finite."""
    import numpy

    finite = numpy.isfinite(numbers)
    nan = int(numpy.isnan(numbers).sum())
    inf = len(numbers) - int(finite.sum()) - nan
    first = int(numpy.argmin(finite))
    return replace(of_numbers(numbers[finite]), seen=len(numbers), nan=nan, inf=inf, first_bad=first)


class _Counts:
    """How often each code is there. Bytes are counted in pairs, which is twice as fast."""

    def __init__(self, how: Codes) -> None:
        import numpy

        self._how, self._counts = how, numpy.zeros(1 << 16, numpy.int64)
        self._tails = numpy.zeros(256, numpy.int64)
        self._finite = numpy.isfinite(how.table)
        bad = ~self._finite if how.bits == 16 else ~(self._finite[:, None] & self._finite).reshape(-1)
        self._bad = bad.nonzero()[0] if how.bits >= 8 else bad[:0]
        self.seen = 0
        self._first_bad: int | None = None

    def add(self, data: Any) -> None:
        """Count the codes in bytes."""
        import numpy

        codes = self._how.codes(data)
        even = len(codes) if self._how.bits == 16 else len(codes) & ~1
        counts = numpy.bincount(codes[:even].view(numpy.uint16), minlength=1 << 16)
        self._counts += counts
        if even < len(codes):
            self._tails[codes[-1]] += 1
        if self._first_bad is None and (counts[self._bad].any() or not self._finite[codes[even:]].all()):
            self._first_bad = self.seen + int(numpy.argmin(self._finite[codes]))
        self.seen += len(codes)

    def moments(self) -> Moments:
        """Of all codes together."""
        import numpy

        counts = self._counts
        if self._how.bits < 16:
            pairs = counts.reshape(256, 256)
            counts = (pairs.sum(axis=0) + pairs.sum(axis=1) + self._tails)[: len(self._how.table)]
        there = counts.nonzero()[0]
        numbers, weights = self._how.table[there], counts[there]
        finite = numpy.isfinite(numbers)
        nan = int(weights[numpy.isnan(numbers)].sum())
        infinite = int(weights[~finite].sum()) - nan
        numbers, weights = numbers[finite], weights[finite]
        if not len(numbers):
            return Moments(self.seen, nan, infinite, first_bad=self._first_bad)
        mean = (numbers * weights).sum() / weights.sum()
        squares = ((numbers - mean) ** 2 * weights).sum()
        zeros, low, high = int(weights[numbers == 0].sum()), float(numbers.min()), float(numbers.max())
        return Moments(self.seen, nan, infinite, zeros, low, high, mean, squares, self._first_bad)
