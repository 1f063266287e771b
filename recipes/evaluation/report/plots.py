"""The figures of the page. Each is an `svg` element, or empty if there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.evaluation.details import Floats
from recipes.evaluation.report import drawing, words
from recipes.evaluation.report.drawing import BAD, DATA, GOOD, HEATS, INK, LINE, MUTED, UNKNOWN
from recipes.evaluation.report.modules import Table, are_alike
from recipes.evaluation.scorecard import Metric, Verdict

NOTHING = 1e-6
"""Nats below which a divergence is that of rounding, and counts as none."""

MAX_ROWS = 12
_BARS = 36
_LOWEST = 0.005
"""The share of the divergences for which no axis is made longer: the smallest of them."""

_POSITIONS = 20
_LOOKS = 200
_FLOOR = 1e-3
"""Of the largest error: what is smaller has the palest shade."""

_COLOURS = {Verdict.RETAINED: GOOD, Verdict.LOST: BAD, Verdict.UNDECIDED: UNKNOWN}


@dataclass(frozen=True)
class Figure:
    """An `svg` element, and what stands below it."""

    svg: str
    caption: str


def intervals(metrics: Sequence[Metric], retain: float) -> str:
    """The interval of each metric's retention against the threshold."""
    shown = [one for one in metrics[:MAX_ROWS] if _is_finite(one)]

    def paint(_: Any, axes: Any) -> None:
        axes.grid(visible=False)
        axes.axvline(1, color=LINE, linewidth=1)
        axes.axvline(retain, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        for row, metric in enumerate(shown):
            colour = _COLOURS[metric.verdict] if metric.is_gated else MUTED
            span = metric.retention
            axes.plot([span.low, span.high], [row, row], color=colour, linewidth=5, alpha=0.35, solid_capstyle="round")
            axes.plot([span.estimate], [row], color=colour, marker="o", markersize=7, linestyle="none")
        axes.set_yticks(range(len(shown)), [words.visible(one.name, 18) for one in shown])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(*_frame([end for one in shown for end in _ends(one)], retain))
        _in_percent(axes.xaxis)
        axes.set_xlabel("retained of the baseline")
        axes.annotate(
            f"asked for: {words.threshold(retain)}",
            (retain, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )

    label = "Retention with its interval, for each metric, against what is asked for; the table has the numbers"
    return drawing.draw("intervals", label, 1.15 + 0.34 * len(shown), paint) if shown else ""


def curve(looks: Sequence[tuple[int, float, float, float]], retain: float, units: str) -> str:
    """How the interval narrowed with the samples."""
    unit = words.visible(units, 30)
    known = np.array([look for look in looks if all(map(math.isfinite, look))][:100_000], dtype=float)
    if len(known) < 2:
        return ""
    samples, low, estimate, high = known[_spread(len(known), _LOOKS)].T

    def paint(_: Any, axes: Any) -> None:
        axes.fill_between(samples, low, high, color=DATA, alpha=0.22, linewidth=0)
        axes.plot(samples, estimate, color=DATA, linewidth=1.8)
        axes.axhline(retain, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        later = slice(len(samples) // 3, None)
        axes.set_ylim(*_frame([*low[later], *high[later]], retain))
        axes.set_xlim(samples[0], max(samples[-1], samples[0] + 1))
        _in_percent(axes.yaxis)
        _whole(axes.xaxis)
        axes.set_xlabel(unit)

    label = (
        f"The interval of the retention after each look, from {samples[0]:,.0f} to {samples[-1]:,.0f} {unit}: "
        f"it ended at {words.percent(low[-1], 2)} to {words.percent(high[-1], 2)}"
    )
    return drawing.draw("curve", label, 2.7, paint)


def histogram(divergence: Floats) -> Figure:
    """The divergence of the tokens, on a logarithmic axis that begins where nearly all of them are."""
    known = divergence[np.isfinite(divergence)]
    some = known[known >= NOTHING]
    if not some.size:
        return Figure("", "")
    edges = np.geomspace(_decade(np.quantile(some, _LOWEST), down=True), _decade(some.max(), down=False), _BARS + 1)
    shares = np.histogram(some, edges)[0] / known.size
    ticks = _decades(edges[0], edges[-1])
    marks = sorted(((known.mean(), "mean"), (np.quantile(known, 0.99), "p99")))

    def paint(_: Any, axes: Any) -> None:
        axes.set_xscale("log")
        axes.bar(np.sqrt(edges[:-1] * edges[1:]), shares, width=np.diff(edges) * 0.9, color=DATA)
        axes.set_xticks(ticks, [_plain(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.tick_params(axis="x", pad=10)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, shares.max() * 1.18)
        for (value, text), side in zip(marks, ("right", "left"), strict=True):
            if value > edges[0]:
                _mark(axes, value, text, side)
        _in_percent(axes.yaxis)
        axes.set_xlabel("KL divergence of a token, nats")

    label = (
        f"Histogram of the divergence of {known.size:,} tokens: mean {words.nats(known.mean())}, "
        f"99th percentile {words.nats(np.quantile(known, 0.99))}, largest {words.nats(known.max())} nats"
    )
    times = f"each mark on the axis is {ticks[1] / ticks[0]:,.0f} times the one before"
    caption = f"Share of the tokens; {times}. p99: 99 of 100 tokens are below."
    if left := int(np.count_nonzero(known < edges[0])):
        caption += f" Left out: {words.counted(left, 'token')} ({words.percent(left / known.size)}) "
        caption += f"below {_plain(edges[0])}, which hardly differ."
    return Figure(drawing.draw("histogram", label, 2.7, paint), caption)


def agreement(shares: Floats, overall: float) -> str:
    """The share of tokens of which both models find the same one the likeliest, by the position in the passage."""
    known = shares[np.isfinite(shares)]
    if known.size < 2:
        return ""
    parts = np.array_split(np.arange(shares.size), min(_POSITIONS, shares.size))
    means = np.array([np.mean(found) if (found := _finite(shares[part])).size else np.nan for part in parts])
    middle = np.array([part.mean() for part in parts])

    def paint(_: Any, axes: Any) -> None:
        axes.plot(middle, means, color=DATA, linewidth=1.8)
        axes.axhline(overall, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        bottom = max(0.0, min(np.nanmin(means), overall) - 0.05)
        axes.set_ylim(bottom, 1 + (1 - bottom) * 0.03)
        axes.set_xlim(0, shares.size)
        _in_percent(axes.yaxis)
        _whole(axes.xaxis)
        axes.set_xlabel("position in the passage, tokens")

    label = (
        f"Agreement by position, over {shares.size:,} positions: between {words.percent(float(np.nanmin(means)))} and "
        f"{words.percent(float(np.nanmax(means)))}, {words.percent(overall)} overall"
    )
    return drawing.draw("agreement", label, 2.7, paint)


def heat(table: Table) -> str:
    """The weight error by kind of module and layer, in the shades that `shades` separates."""
    errors = np.array(table.errors, dtype=float)
    if errors.ndim != 2 or errors.shape[1] < 2:
        return ""
    level = np.where(np.isnan(errors), -1, np.digitize(errors, shades(table)))

    def paint(_: Any, axes: Any) -> None:
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        for shade, colour in enumerate(HEATS):
            _cells(axes, np.argwhere(level == shade), colour)
        axes.set_xlim(0, errors.shape[1])
        axes.set_ylim(errors.shape[0], 0)
        axes.set_yticks(np.arange(errors.shape[0]) + 0.5, [words.visible(kind[-20:], 20) for kind in table.kinds])
        axes.tick_params(axis="y", labelcolor=INK)
        columns = _ticks(errors.shape[1])
        axes.set_xticks([column + 0.5 for column in columns], [f"{column * table.step}" for column in columns])
        axes.set_xlabel("layer")

    label = f"Weight error of {errors.shape[0]} kinds of modules in {table.layers:,} layers; the table names the worst"
    return drawing.draw("heat", label, 0.75 + 0.26 * errors.shape[0], paint)


def shades(table: Table) -> tuple[float, ...]:
    """The errors from which on there is the next shade, in equal ratios from the smallest to the largest; none where
    all are the same.
    """
    low, high = _ends_of(table)
    if low >= high:
        return ()
    return tuple(np.geomspace(max(low, high * _FLOOR), high, len(HEATS) + 1)[1:-1].tolist())


def legend(table: Table) -> Sequence[str]:
    """Which errors have which shade."""
    edges = shades(table)
    if not edges:
        return (f"all {words.percent(_ends_of(table)[1], 2)}",)
    digits = next(
        (count for count in range(2, 7) if len({round(edge * 100, count) for edge in edges}) == len(edges)), 7
    )
    texts = [words.percent(edge, digits) for edge in edges]
    return (f"below {texts[0]}", *(f"from {text}" for text in texts))


def evenness(table: Table) -> str:
    """Said where no module is much worse than another, though the shades differ."""
    low, high = _ends_of(table)
    if not (low < high and are_alike((low, high))):
        return ""
    more = words.percent(high / low - 1)
    return f"No module stands out: the largest error is {more} above the smallest; the shades divide what lies between."


def _ends_of(table: Table) -> tuple[float, float]:
    known = [error for row in table.errors for error in row if math.isfinite(error)]
    return min(known), max(known)


def _cells(axes: Any, cells: Any, colour: str) -> None:
    """One path for all cells of a shade: a page of thousands of elements is slow."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not len(cells):
        return
    corners = [
        (column + right, row + down)
        for row, column in cells
        for right, down in ((0.04, 0.05), (0.96, 0.05), (0.96, 0.95), (0.04, 0.95), (0, 0))
    ]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(cells)
    axes.add_patch(PathPatch(Path(corners, codes), facecolor=colour, linewidth=0))


def _ticks(columns: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if columns / step <= 8 or step == 50)
    return list(range(0, columns, step))


def _mark(axes: Any, value: float, text: str, side: str) -> None:
    """A line at a value with its name, the end of which is at that side of it."""
    axes.axvline(value, ymax=0.98, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    where = {"xytext": (3 if side == "left" else -3, 0), "textcoords": "offset points"}
    axes.annotate(
        text, (value, 0.98), xycoords=("data", "axes fraction"), ha=side, va="top", fontsize=9, color=INK, **where
    )


def _in_percent(axis: Any) -> None:
    """Ticks of an axis whose ends are known, all with the same decimals."""
    from matplotlib.ticker import MaxNLocator

    low, high = axis.get_view_interval()
    ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high]
    digits = next((count for count in range(5) if all(_is_round(100 * tick, count) for tick in ticks)), 5)
    axis.set_ticks(ticks, [words.percent(tick, digits) for tick in ticks])


def _is_round(value: float, digits: int) -> bool:
    return math.isclose(value, round(value, digits), rel_tol=1e-9, abs_tol=1e-9)


def _whole(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _frame(values: Sequence[float], retain: float) -> tuple[float, float]:
    """Ends of an axis that has all of the values and the threshold in it, with some room."""
    low, high = min(*values, retain), max(*values, retain)
    room = max((high - low) * 0.12, 0.002)
    return low - room, high + room


def _spread(count: int, most: int) -> Any:
    """At most so many indexes of `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _decade(value: float, *, down: bool) -> float:
    power = math.log10(value)
    return float(10.0 ** (math.floor(power) if down else max(math.ceil(power), math.floor(math.log10(NOTHING)) + 1)))


def _decades(first: float, last: float) -> list[float]:
    powers = range(round(math.log10(first)), round(math.log10(last)) + 1)
    return [10.0**power for power in powers[:: max(1, -(-len(powers) // 7))]]


def _plain(value: float) -> str:
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _ends(metric: Metric) -> tuple[float, float, float]:
    return metric.retention.low, metric.retention.estimate, metric.retention.high


def _is_finite(metric: Metric) -> bool:
    return all(map(math.isfinite, _ends(metric)))
