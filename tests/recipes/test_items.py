"""What is made of the answers of two models to the same items, as runs leave them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recipes.evaluation.answers import Answers
from recipes.evaluation.engines.tasks import results
from recipes.evaluation.scorecard import Gate, Metric, Verdict
from recipes.evaluation.series import decide, metrics
from registry.errors import ModelError

COUNT = 200


def item(at: int, value: Any, metric: str, *, is_empty: bool = False) -> dict[str, Any]:
    shown = {"question": "?", "target": "!"}
    return {"task": "t", "doc": at, "hash": f"{at}", "metrics": {metric: value}, "empty": is_empty, **shown}


def items(value: Any, metric: str = "acc", count: int = COUNT) -> list[dict[str, Any]]:
    return [item(at, value, metric) for at in range(count)]


def read(
    folder: Path, before: Sequence[Any], after: Sequence[Any], metric: str = "acc", *, is_less_better: bool = False
) -> Answers:
    places = folder / "baseline", folder / "candidate"
    for place, rows in zip(places, (before, after), strict=True):
        place.mkdir()
        results(place, 0).write_text(json.dumps(rows))
    answers = Answers(*places, {"t": metric}, frozenset(["t"] if is_less_better else []))
    assert answers.read()
    return answers


def judged(answers: Answers) -> tuple[Metric, Verdict]:
    found = metrics(answers.series(), Gate(retain=0.9))
    return found[0], decide(found, answers.failures)


def test_an_empty_answer_is_the_worst_where_less_is_better_too(tmp_path: Path) -> None:
    empty = [item(at, 0.0, "ter", is_empty=at % 10 > 0) for at in range(COUNT)]
    metric, verdict = judged(read(tmp_path, items(0.3, "ter"), empty, "ter", is_less_better=True))
    assert (metric.candidate, verdict) == (0.9, Verdict.LOST)


def test_an_empty_answer_is_the_worst_where_more_is_better(tmp_path: Path) -> None:
    """Whatever the task makes of it."""
    empty = [item(at, 1.0, "acc", is_empty=True) for at in range(COUNT)]
    metric, verdict = judged(read(tmp_path, items(1.0), empty))
    assert (metric.candidate, verdict) == (0.0, Verdict.LOST)


def test_a_likelihood_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    before, after = (items([-50.0, 20.0], "word_perplexity", 40) for _ in range(2))
    after[3] = item(3, [None, 20.0], "word_perplexity")
    answers = read(tmp_path, before, after, "word_perplexity")
    assert "1 of 40 items" in answers.failures[0]
    metric, verdict = judged(answers)
    assert verdict is Verdict.LOST
    assert metric.candidate == pytest.approx(math.exp(2.5))


def test_of_the_baseline_it_is_an_error(tmp_path: Path) -> None:
    before, after = (items([-50.0, 20.0], "word_perplexity", 40) for _ in range(2))
    before[3] = item(3, [None, 20.0], "word_perplexity")
    with pytest.raises(ModelError, match="the baseline's answer has no number"):
        read(tmp_path, before, after, "word_perplexity")


def test_bits_are_bits(tmp_path: Path) -> None:
    rows = items([-50.0, 100.0], "bits_per_byte", 40)
    metric, verdict = judged(read(tmp_path, rows, rows, "bits_per_byte"))
    assert metric.baseline == metric.candidate == pytest.approx(0.5 / math.log(2))
    assert verdict is Verdict.RETAINED


def test_items_that_are_not_the_same_are_not_paired(tmp_path: Path) -> None:
    other = items(1.0)
    other[7]["hash"] = "another"
    with pytest.raises(ModelError, match="asked different things"):
        read(tmp_path, items(1.0), other)
