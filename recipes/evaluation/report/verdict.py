"""The verdict in words: the line at the top, what it means for the candidate, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import ROUND_FLOOR

from recipes.evaluation.details import Details
from recipes.evaluation.report import words
from recipes.evaluation.report.modules import are_alike
from recipes.evaluation.scorecard import Gate, Interval, Metric, Scorecard, Undecided, Verdict

_NO_BREAK = "\u00a0"

_KINDS = 3
_METHODS_OF = 20
"""Metrics of which the methods are told."""

_METHODS = {
    "asymptotic": "from how much the samples differ from each other; good from 32 of them on",
    "betting": "from how fast one who bets against it would lose; exact for any number of samples",
}


def deciding(card: Scorecard) -> Metric | None:
    """The metric by which the verdict came about; None if it was not by a metric, or not by a number."""
    if card.verdict is Verdict.RETAINED:
        return card.worst
    gated = [one for one in card.metrics if one.is_gated and math.isfinite(one.retention.estimate)]
    guilty = [one for one in gated if one.verdict is card.verdict]
    return min(guilty, key=lambda one: _order(_blamed_by(card.verdict, one.retention)), default=None)


def headline(card: Scorecard) -> str:
    """What came out, in one line."""
    metric = deciding(card)
    if metric is None:
        return _without_metric(card)
    name, interval, asked = metric.name, metric.retention, words.threshold(card.gate.retain)
    digits = words.digits(interval, card.gate.retain)
    keeps = f"{name} keeps {words.percent(interval.estimate, digits)} of the baseline"
    if card.verdict is Verdict.RETAINED:
        return f"Retained: {keeps} (at least {words.at_least(interval, digits)}, asked for: {asked})"
    if card.verdict is Verdict.LOST:
        return f"Lost: {keeps} (at most {words.at_most(interval, digits)}, asked for: {asked})"
    return f"Undecided: {name} keeps {words.between(interval, digits)} of the baseline, asked for: {asked}"


def outcome(card: Scorecard) -> str:
    """What follows for the candidate."""
    if card.verdict is not Verdict.UNDECIDED:
        return "It may ship." if card.is_accepted else "It does not ship."
    if card.is_accepted:
        return "It may ship: this gate accepts what is undecided."
    if not card.metrics:
        return "It does not ship: nothing is known of it yet."
    return "It does not ship: this gate refuses what is undecided."


def extent(card: Scorecard) -> str:
    """On how much this is known, and how surely."""
    samples = card.samples
    if not samples.used:
        return f"Nothing of the suite {samples.suite} was measured."
    tokens = f" ({words.counted(samples.tokens, 'token')})" if samples.tokens else ""
    of = f" of {samples.available:,}" if samples.available > samples.used else ""
    used = words.counted(samples.used, samples.unit) if not of else f"{samples.used:,}{of} {_many(samples.unit)}"
    known = f"Known with {words.threshold(card.gate.confidence)} confidence from" if card.metrics else "Seen:"
    return f"{known} {used}{tokens} of the suite {samples.suite}."


def next_steps(card: Scorecard, details: Details) -> tuple[str, ...]:
    """What one can do now, if there is anything; keys and commands stand between backticks."""
    if card.verdict is Verdict.RETAINED:
        return ()
    if card.verdict is Verdict.LOST:
        return tuple(_when_lost(card, details))
    return tuple(_when_undecided(card))


def sureness(card: Scorecard) -> Iterator[str]:
    """How retention and its interval are to be read."""
    yield (
        f"100{_NO_BREAK}% is as good as the baseline. Where less is better, as with perplexity, it is baseline over "
        "candidate. A metric that is not gated is shown, and has no part in the verdict."
    )
    asked = words.threshold(card.gate.confidence)
    yield (
        f"The truth lies in the interval with {asked} confidence, however often one looked before stopping. It is "
        f"retained if the whole interval is at or above what is asked for, lost if all of it is below.{_shared(card)}"
    )
    methods = dict.fromkeys(metric.method for metric in card.metrics[:_METHODS_OF] if metric.method)
    told = "; ".join(f"{method} ({_METHODS[method]})" if method in _METHODS else method for method in methods)
    if told:
        yield f"Method: {told}. More of it, with its source: `docs/evaluation.md` of packer, under “The interval”."


def _shared(card: Scorecard) -> str:
    """How the metrics that count share the doubt."""
    counting = sum(one.is_gated for one in card.metrics)
    if counting < 2:
        return ""
    each = words.percent(1 - (1 - card.gate.confidence) / counting)
    all_of = words.threshold(card.gate.confidence)
    return f" {counting:,} metrics are gated: each has {each}, which makes {all_of} for all of them together."


def _blamed_by(verdict: Verdict, interval: Interval) -> float:
    return interval.high if verdict is Verdict.LOST else interval.low


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _without_metric(card: Scorecard) -> str:
    if card.verdict is Verdict.RETAINED:
        return "Retained"
    if card.failures:
        more = f" (and {len(card.failures) - 1:,} more)" if len(card.failures) > 1 else ""
        return f"{card.verdict.capitalize()}: {card.failures[0][:200]}{more}"
    return f"{card.verdict.capitalize()}: nothing could be measured"


def _many(unit: str) -> str:
    return words.counted(2, unit).removeprefix("2 ")


def _when_lost(card: Scorecard, details: Details) -> Iterator[str]:
    if card.failures:
        yield "Mend what failed first: a candidate that crashes, says nothing or is not a number counts as lost."
    if deciding(card) is None:
        return
    if card.candidate.recipe:
        yield "Choose a recipe that costs less: `packer recipes` lists them."
    worst = sorted(details.weights, key=lambda one: -_order(one.error))[:_KINDS]
    if worst and not are_alike([one.error for one in details.weights]):
        names = ", ".join("`{}`".format(one.module[-80:].replace("`", "'")) for one in worst)
        yield f"Or leave out of it, by `ignore` in a recipe of your own, what hurts most; the largest errors: {names}."
    yield from _suffices(card)


def _when_undecided(card: Scorecard) -> Iterator[str]:
    samples = card.samples
    more = samples.needed - samples.used
    if more > 0:
        unit = words.counted(more, samples.unit).split(" ", 1)[1]
        would = f"About {more:,} more {unit} ({samples.needed:,} in all) would decide, if they are like these"
        if samples.needed <= samples.available:
            yield f"{would}; the data has {samples.available:,}. {_go_on(card.gate)}"
        else:
            yield f"{would}; the data has only {samples.available:,} in all: give more with `data`."
    else:
        yield "More samples would hardly decide: what is retained lies too near to what is asked for."
    yield from _suffices(card)


def _go_on(gate: Gate) -> str:
    longer = f"a `budget` of more than {words.duration(gate.budget)}"
    return f"Give it {longer}." if gate.undecided is Undecided.EXTEND else f"Set `undecided: extend`, and {longer}."


def _suffices(card: Scorecard) -> Iterator[str]:
    low = card.worst.retention.low if card.worst and not card.failures else math.nan
    if math.isfinite(low) and 0.005 <= low < card.gate.retain:
        floor = words.rounded_percent(low, 1, ROUND_FLOOR).scaleb(-2).normalize()
        yield f"If less is enough for you: what was measured suffices for `retain: {floor:f}`."
