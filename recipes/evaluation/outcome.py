"""What came of an evaluation: the scorecard, and what a report shows beyond it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from formats.checkpoint import Checkpoint
from formats.snapshot import ModelFile, Snapshot
from recipes.calibration import Samples
from recipes.evaluation.details import Details, Size
from recipes.evaluation.rounds import LATE, Rounds
from recipes.evaluation.scorecard import Circumstances, Party, Scorecard, Verdict
from recipes.evaluation.scorecard import Samples as Used
from recipes.evaluation.series import decide, metrics, needed
from recipes.evaluation.suite import Suite
from recipes.fit import model_config
from recipes.task import whole_file
from registry.descriptor import Digest, digest_of
from registry.errors import ContentError
from registry.manifest import encode


@dataclass(frozen=True)
class Model:
    """One of the two models: its identity, the weight files that are read, what it is called if it does not say it, and
    the memory that running it took.
    """

    checkpoint: Checkpoint
    digest: Digest
    weights: tuple[ModelFile, ...]
    name: str = ""
    recipe: str = ""
    memory: int = 0

    @property
    def snapshot(self) -> Snapshot:
        """Its files."""
        return self.checkpoint.snapshot

    @property
    def is_quantized(self) -> bool:
        """Whether its config says how."""
        return bool(model_config(self.checkpoint).get("quantization_config"))

    def party(self) -> Party:
        """As a scorecard names it."""
        card, origin = self.checkpoint.card, self.snapshot.origin
        return Party(
            digest=self.digest,
            name=card.name or self.name,
            url=origin.url,
            revision=origin.revision,
            format=card.format,
            precision=card.quantization or card.precision,
            bytes=sum(file.size for file in self.weights),
            memory=self.memory,
            recipe=self.recipe,
        )

    def size(self, memory: int) -> Size:
        """Its files, and the memory that running it took."""
        return Size(tuple((str(file.name), file.size) for file in self.weights), memory)


@dataclass(frozen=True)
class Outcome:
    """All that is known after the last round. `facts` are what a child told of the suite."""

    baseline: Model
    candidate: Model
    suite: Suite
    samples: Samples | None
    rounds: Rounds
    facts: Mapping[str, Any]

    def scorecard(self, circumstances: Circumstances) -> Scorecard:
        """What it says. Before the least number of samples nothing is known, unless the candidate failed."""
        rounds = self.rounds
        gate, reader = rounds.gate, rounds.reader
        is_known = reader.units >= rounds.least
        series = reader.series()
        found = metrics(series, gate) if series and is_known else ()
        failures = (*reader.failures, *([rounds.crash] if rounds.crash else []))
        verdict = decide(found, failures)
        more = needed(series, gate, reader.items) if series and verdict is Verdict.UNDECIDED else 0
        return Scorecard(
            verdict=verdict,
            gate=gate,
            candidate=self.candidate.party(),
            baseline=self.baseline.party(),
            metrics=found,
            divergence=reader.divergence(gate.confidence) if is_known else None,
            samples=self._used(more),
            circumstances=circumstances,
            failures=failures,
        )

    def _used(self, more: int) -> Used:
        suite, samples, reader, facts = self.suite, self.samples, self.rounds.reader, self.facts
        return Used(
            suite=suite.name,
            suite_digest=suite.digest,
            data=samples.origin if samples else ", ".join(suite.tasks),
            data_digest=samples.digest if samples else Digest(facts["data"]),
            unit=reader.unit,
            used=reader.items,
            available=facts["units"] if samples else sum(facts["items"].values()),
            tokens=reader.tokens,
            needed=more,
        )

    def details(self, scorecard: Scorecard) -> Details:
        """Where it hurts, and how the interval of the worst measure narrowed."""
        worst = scorecard.worst
        curve = [
            (count, each.retention.low, each.retention.estimate, each.retention.high)
            for count, looked in self.rounds.curve
            for each in looked
            if worst and each.name == worst.name
        ]
        sizes = self.baseline.size(scorecard.baseline.memory), self.candidate.size(scorecard.candidate.memory)
        return replace(self.rounds.reader.details(*sizes), curve=tuple(curve))


def remembered(folder: Path, scorecard: Scorecard) -> Scorecard:
    """The scorecard of an earlier run that found the same, with its time and what it took; else this one.

    One that ended because time was up is not kept: the next goes further.
    """
    asked = {"gate": scorecard.to_json()["gate"], "suite": scorecard.samples.suite_digest}
    key = digest_of(encode(asked)).partition(":")[2][:16]
    path = folder / f"scorecard-{key}.json"
    known = _read(path) if path.exists() else None
    if known and _but_for_the_run(known, scorecard) == scorecard:
        return known
    if scorecard.circumstances.stopped != LATE:
        with whole_file(path) as scratch:
            scratch.write_text(json.dumps(scorecard.to_json()))
    return scorecard


def _but_for_the_run(known: Scorecard, now: Scorecard) -> Scorecard:
    """What was known, with the time and what it took of another run."""
    run = ("seconds", "time", "stopped")
    return replace(
        known,
        candidate=replace(known.candidate, memory=now.candidate.memory),
        baseline=replace(known.baseline, memory=now.baseline.memory),
        circumstances=replace(known.circumstances, **{name: getattr(now.circumstances, name) for name in run}),
    )


def _read(path: Path) -> Scorecard | None:
    """The scorecard in a file of ours; None if another version of packer wrote it."""
    try:
        return Scorecard.from_json(json.loads(path.read_bytes()), str(path))
    except (ContentError, ValueError):
        return None
