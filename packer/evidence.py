"""From a scorecard to what is published of it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import isfinite, nan
from typing import Any

from containers.evidence import REPORT, SCORECARD, Evidence, document
from recipes.evaluation.report.verdict import headline
from recipes.evaluation.scorecard import Interval, Party, Scorecard, Verdict
from registry.descriptor import Digest
from registry.manifest import encode

RETENTION, LOW = "packer.retention", "packer.retention.low"
"""Annotations: the least retention of a gated metric, and the lower end of its interval, never rounded up; shares of 1,
absent where they are not known.
"""

SUITE, BASELINE, RECIPE, VERDICT = "packer.suite", "packer.baseline", "packer.recipe", "packer.verdict"
"""Annotations: the suite's name, the identity of the baseline, the recipe by which the model was made, the verdict."""

_NO_BREAK = "\u00a0"
_RESULTS = {Verdict.RETAINED: "PASSED", Verdict.UNDECIDED: "WARNED", Verdict.LOST: "FAILED"}


def evidence_of(scorecard: Scorecard, report: str) -> Evidence:
    """What goes beside the published model: the scorecard, and `report`, a page of HTML, as they are.

    The same scorecard and report give the same bytes.
    """
    return Evidence(
        checkpoint=scorecard.candidate.digest,
        is_accepted=scorecard.is_accepted,
        why=headline(scorecard).replace(_NO_BREAK, " "),
        time=scorecard.circumstances.time,
        annotations=_annotations(scorecard),
        predicate=_predicate(scorecard),
        documents=(
            document("scorecard.json", SCORECARD, encode(scorecard.to_json())),
            document("report.html", REPORT, report.encode()),
        ),
    )


def _annotations(scorecard: Scorecard) -> dict[str, str]:
    retention = scorecard.worst.retention if scorecard.worst else Interval(nan, nan, nan)
    annotations = {
        RETENTION: _share(retention.estimate, ROUND_HALF_EVEN),
        LOW: _share(retention.low, ROUND_FLOOR),
        SUITE: scorecard.samples.suite,
        BASELINE: scorecard.baseline.digest,
        RECIPE: scorecard.candidate.recipe,
        VERDICT: scorecard.verdict.value,
    }
    return {key: value for key, value in annotations.items() if value}


def _share(value: float, rounding: str) -> str:
    """A share with four digits; empty if it is not finite."""
    return str(Decimal(repr(float(value))).quantize(Decimal("0.0001"), rounding)) if isfinite(value) else ""


def _predicate(scorecard: Scorecard) -> dict[str, Any]:
    """A test result: a test for each gated metric. A metric of which nobody can tell warns."""

    def tests(verdict: Verdict) -> list[str]:
        return [metric.name for metric in scorecard.metrics if metric.is_gated and metric.verdict is verdict]

    return {
        "result": _RESULTS[scorecard.verdict],
        "configuration": list(_resources(scorecard)),
        "passedTests": tests(Verdict.RETAINED),
        "warnedTests": tests(Verdict.UNDECIDED),
        "failedTests": tests(Verdict.LOST),
    }


def _resources(scorecard: Scorecard) -> Iterator[dict[str, Any]]:
    """What the result depends on, as in-toto's resource descriptors, each with its part under `annotations`."""
    samples = scorecard.samples
    yield _resource("suite", samples.suite, samples.suite_digest)
    yield _resource("data", samples.data, samples.data_digest)
    yield _model("candidate", scorecard.candidate)
    yield _model("baseline", scorecard.baseline)


def _model(part: str, party: Party) -> dict[str, Any]:
    """A model, by the digest of all that steers what it says."""
    said = {"uri": party.url} if party.url else {}
    return {**_resource(part, party.name, party.digest, party.revision), **said}


def _resource(part: str, name: str, digest: Digest, revision: str = "") -> dict[str, Any]:
    return {
        **({"name": name} if name else {}),
        "digest": {"sha256": digest.partition(":")[2]},
        "annotations": {"part": part, **({"revision": revision} if revision else {})},
    }
