"""Numbers and texts as a person reads them."""

from __future__ import annotations

import math
import unicodedata
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from recipes.evaluation.scorecard import Interval

MAX_DIGITS = 5
"""Decimals of a percentage, at most."""

_JOINERS = "\u200c\u200d"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_NO_BREAK = "\u00a0"
_MINUS = "\u2212"


def visible(text: str, limit: int = 300) -> str:
    """At most `limit` characters of `text`, with its number for each that one would not see.

    Spaces and the joiners that some scripts need stay. What comes out is valid UTF-8 and has no directions of its own.
    """
    shown = "".join(map(_seen, text[: limit + 1]))
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"


def _seen(letter: str) -> str:
    if letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs":
        return letter
    return f"\\u{{{ord(letter):X}}}"


def percent(value: float, digits: int = 1, rounding: str = ROUND_HALF_EVEN) -> str:
    """A share as a percentage with so many decimals."""
    if not math.isfinite(value):
        return number(value)
    rounded = rounded_percent(value, digits, rounding)
    return f"{abs(rounded) if rounded.is_zero() else rounded:,f}{_NO_BREAK}%".replace("-", _MINUS)


def rounded_percent(value: float, digits: int, rounding: str) -> Decimal:
    """A share in hundredths with so many decimals; `value` is finite."""
    exact = Decimal(repr(float(value))).scaleb(2)
    return exact.quantize(Decimal(1).scaleb(-digits), rounding) if abs(exact) < 10**12 else Decimal(f"{exact:.3g}")


def threshold(retain: float) -> str:
    """What is asked for, with all its digits."""
    return f"{Decimal(repr(float(retain))).scaleb(2).normalize():f}{_NO_BREAK}%"


def at_least(interval: Interval, digits: int) -> str:
    """The lower end, never rounded up."""
    return percent(interval.low, digits, ROUND_FLOOR)


def at_most(interval: Interval, digits: int) -> str:
    """The upper end, never rounded down."""
    return percent(interval.high, digits, ROUND_CEILING)


def between(interval: Interval, digits: int) -> str:
    """Both ends."""
    return f"{at_least(interval, digits).removesuffix(f'{_NO_BREAK}%')} to {at_most(interval, digits)}"


def digits(interval: Interval, retain: float) -> int:
    """The fewest decimals, one at least, at which one sees on which side of the threshold both ends lie, and that the
    interval is one.
    """
    ends = (interval.low, ROUND_FLOOR), (interval.high, ROUND_CEILING)
    if not all(math.isfinite(end) for end, _ in ends):
        return 1
    line = Decimal(repr(float(retain))).scaleb(2)
    width = (interval.high - interval.low) * 100
    for count in range(1, MAX_DIGITS):
        is_true = all((rounded_percent(end, count, way) >= line) == (end >= retain) for end, way in ends)
        if is_true and (width <= 0 or 10.0**-count <= width):
            return count
    return MAX_DIGITS


def number(value: float) -> str:
    """A number with four significant digits."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}".replace("-", _MINUS)
    places = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f}".replace("-", _MINUS)


def measured(name: str, baseline: float, candidate: float) -> tuple[str, str]:
    """What a measure is of both models: as percentages if it is a share, such as an accuracy."""
    is_share = "perplexity" not in name and all(0 <= value <= 1 for value in (baseline, candidate))
    shown = percent if is_share else number
    return shown(baseline), shown(candidate)


def score(value: float) -> str:
    """What an item scored, mostly 0 or 1."""
    return f"{value:.3g}" if math.isfinite(value) else number(value)


def nats(value: float) -> str:
    """A divergence with two or three digits."""
    if not math.isfinite(value):
        return number(value)
    if value < 1e-4:
        return "0" if value < 1e-6 else f"{value:.0e}".replace("e-0", "e-").replace("-", _MINUS)
    return f"{value:.{max(1, 1 - math.floor(math.log10(value)))}f}"


def size(count: int) -> str:
    """A number of bytes."""
    power = min(max(int(count).bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{count / (1 << 10 * power):,.{1 if power else 0}f}{_NO_BREAK}{_UNITS[power]}"


def change(before: int, after: int) -> str:
    """By how much something grew or shrank."""
    if before <= 0 or after <= 0 or before == after:
        return ""
    grown = percent(after / before - 1, 0)
    return grown if after <= before else f"+{grown}"


def duration(seconds: float) -> str:
    """A span of time."""
    if not math.isfinite(seconds):
        return number(seconds)
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}{_NO_BREAK}s" if seconds < 9.95 else f"{whole}{_NO_BREAK}s"
    count, names = (whole, ("min", "s")) if whole < 3600 else (whole // 60, ("h", "min"))
    rest = f" {count % 60}{_NO_BREAK}{names[1]}" if count % 60 else ""
    return f"{count // 60:,}{_NO_BREAK}{names[0]}{rest}"


def counted(count: int, unit: str) -> str:
    """So many of something: `unit` is its name, in the singular or with an s."""
    one = unit.removesuffix("s") or "sample"
    return f"{count:,} {one if count == 1 else one + 's'}"
