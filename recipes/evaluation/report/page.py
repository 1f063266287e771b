"""The page: what is shown of a scorecard and its details, in which order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.evaluation.details import Details, Item, Size, WeightError
from recipes.evaluation.report import modules, passages, plots, verdict, words
from recipes.evaluation.scorecard import Divergence, Metric, Party, Scorecard

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_FAILURES = MAX_METRICS = MAX_VERSIONS = 20
MAX_FILES = 12
MAX_ITEMS = 15
MAX_MODULES = 8

MEMORY = "Memory of the evaluation"

_FOLDER = Path(__file__).parent
_SIGNS = {"retained": "✓", "lost": "✕", "undecided": "?"}
_ABSENT = "\u2013"
_NO_BREAK = "\u00a0"
_CODE = re.compile("`([^`]*)`")


@dataclass(frozen=True)
class Row:
    """A thing before and after: in words, and as shares of the larger one in percent."""

    name: str
    before: str
    after: str
    change: str = ""
    bars: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A metric and its numbers in words, each rounded as everywhere on the page."""

    metric: Metric
    retained: str
    interval: str
    before: str
    after: str


@dataclass(frozen=True)
class Tile:
    """A number that one looks for first, and what makes sense of it."""

    name: str
    value: str
    note: str


def render(scorecard: Scorecard, details: Details) -> str:
    """The report as one HTML document, in English, without scripts and without anything from elsewhere.

    The same values give the same text. It stays below a megabyte: what is too much is counted instead of shown.
    """
    environment = _environment(_FOLDER)
    return environment.get_template("page.html.j2").render(
        card=scorecard,
        details=details,
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        icon=_icon(scorecard),
        title=_title(scorecard),
        called=_called,
        sign=_SIGNS[scorecard.verdict],
        headline=verdict.headline(scorecard),
        outcome=verdict.outcome(scorecard),
        extent=verdict.extent(scorecard),
        steps=verdict.next_steps(scorecard, details),
        tiles=tuple(_tiles(scorecard, details)),
        metrics=tuple(_metrics(scorecard)),
        sureness=tuple(verdict.sureness(scorecard)),
        agreed=None if _agreement(scorecard) else _agreed,
        passages=tuple(passages.shown(details.passages)),
        levels=passages.LEVELS,
        items=sorted(details.items, key=_has_won)[:MAX_ITEMS],
        won=sum(map(_has_won, details.items)),
        table=modules.table(details.weights),
        worst=_worst(details.weights),
        sizes=tuple(_sizes(details)),
        files=_files(details),
        listed=[(when, size, _listed(size)) for when, size in _sides(details) if size.files],
        memory=MEMORY,
        versions=sorted(scorecard.circumstances.versions.items())[:MAX_VERSIONS],
        parties=(("Candidate", scorecard.candidate), ("Baseline", scorecard.baseline)),
        plots=plots,
        words=words,
        unseen=int(np.count_nonzero(~np.isfinite(details.divergence))),
        limits={
            "failures": MAX_FAILURES,
            "passages": passages.MAX_PASSAGES,
            "metrics": MAX_METRICS,
            "files": MAX_FILES,
        },
        facts=_facts,
    )


def _environment(folder: Path) -> Environment:
    """Whatever is put into the template is made visible and escaped, unless it is a figure of ours."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=partial(_visible, kept=Markup),
    )
    environment.filters["ours"] = Markup
    environment.filters["coded"] = partial(_coded, markup=Markup)
    return environment


def _visible(value: Any, kept: type) -> Any:
    return words.visible(value) if isinstance(value, str) and not isinstance(value, kept) else value


def _coded(text: str, markup: Any) -> Any:
    """What stands between backticks as code."""
    parts = _CODE.split(text)
    shown = (markup.escape(words.visible(part)) for part in parts)
    return markup("").join(markup(f"<code>{part}</code>") if odd % 2 else part for odd, part in enumerate(shown))


def _called(party: Party) -> str:
    """What a model is called: by its name, else by where it is from, else by the recipe that made it; or nothing."""
    return party.name or party.url.rstrip("/").rpartition("/")[2] or party.recipe


def _title(card: Scorecard) -> str:
    """What the browser's tab says: the verdict on the model, or all of the verdict if the model has no name."""
    name = _called(card.candidate)
    return f"{card.verdict.capitalize()}: {name}" if name else verdict.headline(card)


def _icon(card: Scorecard) -> str:
    colour = {"retained": "2e8b57", "lost": "c8352b", "undecided": "c98a10"}[card.verdict]
    circle = f"<circle cx='4' cy='4' r='3.4' fill='%23{colour}'/>"
    return f"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'>{circle}</svg>"


def _tiles(card: Scorecard, details: Details) -> Iterator[Tile]:
    if (metric := verdict.deciding(card)) is not None:
        kept, span = _kept(metric, card)
        note = f"{span}; asked for: {words.threshold(card.gate.retain)}"
        yield Tile(f"{metric.name} retained", kept, note)
    if (far := card.divergence) is not None:
        if not metric or metric is not _agreement(card):
            share, span = _agreed(card, far)
            yield Tile("Agreement", share, f"of the likeliest token; {span}")
        below = f"; 99{_NO_BREAK}% of the tokens below {words.nats(far.p99)}" if far.p99 >= plots.NOTHING else ""
        yield Tile("KL divergence", words.nats(far.mean.estimate), f"nats per token on average{below}")
    before, after = _weights(details.before, card.baseline), _weights(details.after, card.candidate)
    if before and after:
        yield Tile(
            "Weights", words.size(after), f"{words.change(before, after) or 'unchanged'}, from {words.size(before)}"
        )


def _metrics(card: Scorecard) -> Iterator[Measured]:
    for metric in card.metrics[:MAX_METRICS]:
        before, after = words.measured(metric.name, metric.baseline, metric.candidate)
        yield Measured(metric, *_kept(metric, card), before, after)


def _kept(metric: Metric, card: Scorecard) -> tuple[str, str]:
    """What is retained, and between what: with the same digits wherever it stands."""
    digits = words.digits(metric.retention, card.gate.retain)
    return words.percent(metric.retention.estimate, digits), words.between(metric.retention, digits)


def _agreement(card: Scorecard) -> Metric | None:
    """The metric that is the agreement, if it is one."""
    return next((one for one in card.metrics if one.name == "agreement"), None)


def _agreed(card: Scorecard, far: Divergence) -> tuple[str, str]:
    """The share of tokens for which both models agree: as a metric, if it is one, since one that counts has an interval
    of another confidence.
    """
    if (metric := _agreement(card)) is not None:
        return _kept(metric, card)
    return words.percent(far.agreement.estimate), words.between(far.agreement, 1)


def _has_won(item: Item) -> bool:
    return item.candidate > item.baseline


def _worst(weights: tuple[WeightError, ...]) -> list[tuple[WeightError, str]]:
    changed = [one for one in weights if one.error]
    order = sorted(changed, key=lambda one: math.inf if math.isnan(one.error) else one.error, reverse=True)
    return [(one, words.percent(one.error, 2)) for one in order[:MAX_MODULES]]


def _weights(size: Size, party: Party) -> int:
    return party.bytes or sum(count for _, count in size.files)


def _sizes(details: Details) -> Iterator[Row]:
    files = [tuple(count for _, count in size.files) for size in (details.before, details.after)]
    if any(files):
        before, after = map(sum, files)
        bars = tuple(round(100 * count / max(before, after, 1), 1) for count in (before, after))
        yield Row("Weights", *_both(before, after), words.change(before, after), bars)
        counts = [f"{len(found):,}" if found else _ABSENT for found in files]
        yield Row("Layers of weights", counts[0], counts[1])
    before, after = details.before.memory, details.after.memory
    if before and after:
        yield Row(MEMORY, *_both(before, after), words.change(before, after))


def _both(before: int, after: int) -> tuple[str, str]:
    return words.size(before) if before else _ABSENT, words.size(after) if after else _ABSENT


def _files(details: Details) -> list[Row]:
    """Weight files side by side, if they have the same names."""
    before, after = dict(details.before.files), dict(details.after.files)
    if before.keys() != after.keys():
        return []
    return [Row(name, *_both(before[name], after[name]), words.change(before[name], after[name])) for name in before]


def _sides(details: Details) -> tuple[tuple[str, Size], tuple[str, Size]]:
    return ("before", details.before), ("after", details.after)


def _listed(size: Size) -> list[tuple[str, str]]:
    return [(name, words.size(count)) for name, count in size.files[:MAX_FILES]]


def _facts(party: Party) -> Iterator[tuple[str, str, bool]]:
    """What is known of a model: what it is called, its value, and whether that is a text for machines."""
    yield "Digest", party.digest, True
    yield "Source", party.url, True
    yield "Revision", party.revision, True
    yield "Format", ", ".join(filter(None, (party.format, party.precision))), False
    yield "Recipe", party.recipe, True
    yield "Weights", words.size(party.bytes) if party.bytes else "", False
    yield MEMORY, words.size(party.memory) if party.memory else "", False
