"""What counts of a task: one of the metrics that lm-eval computes for each document.

A metric of the first filter goes by its name, of another one by `metric,filter`, as in lm-eval's results.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from formats.text import printable
from registry.errors import UsageError

_FIRST = ("acc", "exact_match")
"""Those that count where they are."""

_ROLLING = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Those that are sums over a text: [log-likelihood in nats, number of words or bytes]."""


@dataclass(frozen=True)
class Measure:
    """The metric that counts, and whether more of it is better."""

    key: str
    higher_is_better: bool


def scores(task: Any, doc: Any, requests: Sequence[Any]) -> dict[str, Any]:
    """The metrics of a document that are numbers, or pairs where a text is scored as a whole; after `apply_filters`."""
    found: dict[str, Any] = {}
    for at, name in enumerate(_filters(task)):
        results = [request.filtered_resps[name] for request in requests]
        values = task.process_results(doc, results)
        found |= {f"{key},{name}" if at else key: value for key, value in _numbers(values).items()}
    return found


def choose(name: str, task: Any, requests: Sequence[Any], target: str, wanted: str | None) -> Measure:
    """The metric that counts: the one that is `wanted`, or else accuracy, exact match, or the first that can.

    It must have a value from 0 to 1 for each document, or be a perplexity. That is found without a model, by scoring
    the document of these requests with no answer and with its own `target`. `UsageError` if there is none.
    """
    tried = [_try(task, requests, text, wanted) for text in ("", target)]
    filters = _filters(task)
    usable = [key for key in tried[0] if all(_is_usable(key, values.get(key)) for values in tried)]
    known = [f"{key},{filter_}" if at else key for at, filter_ in enumerate(filters) for key in usable]
    if wanted is None:
        first = next((key for key in _FIRST if key in usable), None)
        picked = first or next((key for key in usable if key not in _ROLLING), None) or next(iter(usable), None)
    else:
        picked = wanted.removesuffix(f",{filters[0]}")
    if picked not in known:
        raise _unknown(name, wanted, known)
    return Measure(picked, _direction(name, task, picked.partition(",")[0]))


def _direction(name: str, task: Any, metric: str) -> bool:
    """Whether more of a metric is better; `UsageError` if nobody says so: lm-eval knows it of its own alone."""
    known = task.higher_is_better().get(metric)
    if known is None:
        raise UsageError(
            "the task does not say whether more of this metric is better",
            subject=name,
            found=printable(metric),
            hint="higher_is_better: true, or false, beside the metric in its metric_list",
        )
    return bool(known)


def _filters(task: Any) -> list[str]:
    return [ensemble.name for ensemble in task._filters]


def _try(task: Any, requests: Sequence[Any], text: str, wanted: str | None) -> dict[str, Any]:
    """The metrics of a document if the model says this; what a task must have that cannot score it is believed."""
    try:
        return _numbers(task.process_results(requests[0].doc, _made_up(requests, text)))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
        return {key: 0.0 for key in task.aggregation() if key in (*_FIRST, wanted)}


def _made_up(requests: Sequence[Any], text: str) -> list[Any]:
    """What a model might have responded."""
    might: Mapping[str, Any] = {"generate_until": text, "loglikelihood_rolling": -1.0}
    return [might.get(request.request_type, (-1.0, False)) for request in requests]


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: made for key, value in values.items() if (made := _number(key, value)) is not None}


def _number(key: str, value: Any) -> Any:
    if isinstance(value, Real) or hasattr(value, "item"):
        return float(value) if getattr(value, "size", 1) == 1 else None
    if key in _ROLLING and isinstance(value, tuple):
        return float(value[0]), float(value[1])
    return None


def _is_usable(key: str, value: Any) -> bool:
    return key in _ROLLING if isinstance(value, tuple) else isinstance(value, float) and 0 <= value <= 1


def _unknown(name: str, wanted: str | None, known: Sequence[str]) -> UsageError:
    if wanted is None:
        what = "no metric of this task has a value from 0 to 1 for each document"
        return UsageError(what, subject=name, hint="take another task")
    near = difflib.get_close_matches(wanted, known, 1, 0.4)
    return UsageError(
        "this task has no such metric that is a value from 0 to 1 for each document",
        subject=name,
        expected=", ".join(known) or "none",
        found=printable(wanted),
        hint=f"did you mean {near[0]!r}?" if near else "name one of them, or leave it out",
    )
