"""The section about the evaluation in a model's card."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recipes.account import cell
from recipes.evaluation.scorecard import Interval, Scorecard

_HEADING = "## Evaluation"
_OURS = re.compile(rf"^{_HEADING}\n\nMeasured by packer.*?(?=^#{{1,2}} |\Z)", re.MULTILINE | re.DOTALL)
"""The section of an earlier evaluation, up to the next heading."""


def with_evaluation(card: str, scorecard: Scorecard) -> str:
    """A model card with a section about the evaluation at its end, in place of one from an earlier evaluation."""
    rest = _OURS.sub("", card).rstrip()
    return "\n".join([*([rest, ""] if rest else []), *_section(scorecard), ""])


def _section(scorecard: Scorecard) -> Iterator[str]:
    base, gate = scorecard.baseline, scorecard.gate
    revision = f" at {base.revision}" if base.revision else ""
    yield _HEADING
    yield ""
    yield (
        f"Measured by packer against {cell(base.name or base.url or 'its baseline')}{cell(revision)} on the suite "
        f"`{cell(scorecard.samples.suite)}`: **{scorecard.verdict}**, where {gate.retain:.4g} was asked for."
    )
    yield ""
    yield "| | Baseline | This model | Retained | |"
    yield "|---|---|---|---|---|"
    for metric in scorecard.metrics:
        part = "counts" if metric.is_gated else ""
        yield (
            f"| {cell(metric.name)} | {metric.baseline:.4g} | {metric.candidate:.4g} | {_within(metric.retention)} "
            f"| {part} |"
        )
    yield ""
    if known := scorecard.divergence:
        yield (
            f"Divergence of the next-token distributions: mean {known.mean.estimate:.3g} nats, 99th percentile "
            f"{known.p99:.3g}, largest {known.most:.3g}."
        )
        yield ""
    used = scorecard.samples
    yield (
        f"{used.used} {used.unit} of {cell(used.data)} ({used.data_digest}), {gate.confidence:.3g} confidence. "
        f"Baseline {base.digest}, this model {scorecard.candidate.digest}."
    )


def _within(interval: Interval) -> str:
    return f"{interval.estimate:.4f} ({interval.low:.4f} to {interval.high:.4f})"
