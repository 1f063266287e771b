"""The scorecard: which checkpoint was measured against which, on what, with which result and which uncertainty.

Its JSON form is what is published (`docs/scorecard.schema.json`). It says yes or no; why it does is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from registry.descriptor import Digest
from registry.errors import ContentError

VERSION = 1
"""Of the JSON form."""


class Verdict(StrEnum):
    """What is known of a retention: it is at least what is asked for, it is less, or nobody can tell yet."""

    RETAINED = "retained"
    LOST = "lost"
    UNDECIDED = "undecided"


class Undecided(StrEnum):
    """What is done when nobody can tell: refuse, accept, or go on with more samples, as long as time and data last."""

    REFUSE = "refuse"
    ACCEPT = "accept"
    EXTEND = "extend"


@dataclass(frozen=True)
class Interval:
    """An estimate, and the ends of the interval that holds the true value with the gate's confidence. All finite."""

    low: float
    estimate: float
    high: float


@dataclass(frozen=True)
class Gate:
    """What is asked of a candidate: to retain at least `retain` of the baseline, known with `confidence`.

    `budget` is in seconds.
    """

    retain: float = 0.99
    confidence: float = 0.95
    undecided: Undecided = Undecided.REFUSE
    budget: float = 1200.0

    def judge(self, retention: Interval) -> Verdict:
        """Whether a retention of this interval suffices."""
        if retention.low >= self.retain:
            return Verdict.RETAINED
        return Verdict.LOST if retention.high < self.retain else Verdict.UNDECIDED


@dataclass(frozen=True)
class Metric:
    """One measure of both models. `retention` is 1 where the candidate is as good as the baseline, less where worse.

    `method` names how the interval came about (docs/evaluation.md). A metric that `is_gated` has a part in the verdict.
    """

    name: str
    baseline: float
    candidate: float
    retention: Interval
    method: str
    is_gated: bool
    verdict: Verdict


@dataclass(frozen=True)
class Divergence:
    """How far the candidate's next-token distributions are from the baseline's, over all scored tokens.

    `mean`, `p99` and `most` are of the Kullback-Leibler divergence D(baseline || candidate) in nats. `agreement` is the
    share of tokens for which both find the same one the likeliest; `lost` and `won` are the shares that only the
    baseline, or only the candidate, predicts rightly: the flips.
    """

    mean: Interval
    p99: float
    most: float
    agreement: Interval
    lost: float
    won: float


@dataclass(frozen=True)
class Party:
    """One of the two models: the digest of all that steers what it says, its name, whence it came, and its weights.

    `bytes` are those of its weight files; `memory` is what evaluating it took at most, on the device if there is one,
    else on the host; 0 if that is not known. `recipe` is that by which packer made it, if it did.
    """

    digest: Digest
    name: str
    url: str
    revision: str
    format: str
    precision: str
    bytes: int
    memory: int
    recipe: str


@dataclass(frozen=True)
class Samples:
    """What was used of what there is, counted in `unit`s (passages or items), and the digest of all of it.

    `tokens` are those that were scored, if that is what is scored. `needed` is the number of units, these included,
    that would decide if the rest were like these; 0 where the verdict is known or no number would do.
    """

    suite: str
    suite_digest: Digest
    data: str
    data_digest: Digest
    unit: str
    used: int
    available: int
    tokens: int
    needed: int


@dataclass(frozen=True)
class Circumstances:
    """By what, where and when it was measured. `kind` is what computed, `stopped` why it went no further.

    `seconds` are those of this evaluation, without what was remembered of others; `time` is RFC 3339, in UTC.
    """

    backend: str
    versions: Mapping[str, str]
    kind: str
    seed: int
    stopped: str
    seconds: float
    time: str


@dataclass(frozen=True)
class Scorecard:
    """All of it. `failures` tell, a line each, what of the candidate counts as lost: a crash, NaN, other tokens."""

    verdict: Verdict
    gate: Gate
    candidate: Party
    baseline: Party
    metrics: tuple[Metric, ...]
    divergence: Divergence | None
    samples: Samples
    circumstances: Circumstances
    failures: tuple[str, ...] = ()

    @property
    def is_accepted(self) -> bool:
        """Whether the candidate may ship: not if nothing is known of it, whatever the gate accepts."""
        may_be_unknown = self.gate.undecided is Undecided.ACCEPT and self.verdict is Verdict.UNDECIDED
        return self.verdict is Verdict.RETAINED or (may_be_unknown and bool(self.metrics))

    @property
    def worst(self) -> Metric | None:
        """The gated metric of which the least is retained, as far as one can know; None if nothing was measured."""
        return min((one for one in self.metrics if one.is_gated), key=lambda one: one.retention.low, default=None)

    def to_json(self) -> dict[str, Any]:
        """The published form."""
        return {"version": VERSION, "accepted": self.is_accepted, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], origin: str) -> Scorecard:
        """What `to_json` made; `ContentError` naming `origin` for anything else."""
        try:
            if document["version"] != VERSION:
                raise ContentError(
                    "this scorecard is of another version of packer",
                    subject=origin,
                    expected=f"version {VERSION}",
                    found=str(document["version"])[:20],
                )
            return cls(
                verdict=Verdict(document["verdict"]),
                gate=_gate(document["gate"]),
                candidate=Party(**document["candidate"]),
                baseline=Party(**document["baseline"]),
                metrics=tuple(map(_metric, document["metrics"])),
                divergence=_divergence(document["divergence"]) if document["divergence"] else None,
                samples=Samples(**document["samples"]),
                circumstances=Circumstances(**document["circumstances"]),
                failures=tuple(document["failures"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ContentError(f"this is no scorecard ({error})", subject=origin) from error


def _gate(document: Mapping[str, Any]) -> Gate:
    return Gate(**{**document, "undecided": Undecided(document["undecided"])})


def _metric(document: Mapping[str, Any]) -> Metric:
    typed = {"retention": Interval(**document["retention"]), "verdict": Verdict(document["verdict"])}
    return Metric(**{**document, **typed})


def _divergence(document: Mapping[str, Any]) -> Divergence:
    typed = {key: Interval(**document[key]) for key in ("mean", "agreement")}
    return Divergence(**{**document, **typed})
