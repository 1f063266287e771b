"""The way of a model, from its source to a release. This is the whole of it.

    Source -> Snapshot -> Checkpoint -> Checkpoint -> Checkpoint -> Scorecard -> Artifact -> Release
           fetch     validate      shard        quantize     evaluate     package     publish

Each stage takes values and returns values. Progress, events and `--until` are wrappers around the stages: `run` calls
a stage and watches it, and whoever consumes the generator decides how far it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import packer.facts  # noqa: F401 - what is told of the values here
from containers.artifact import Artifact, package
from containers.base import Base
from containers.modelpack import ModelPack
from formats.checkpoint import Checkpoint
from formats.snapshot import Snapshot
from packer.evidence import evidence_of
from packer.publish import publish
from packer.reshard import shard
from packer.sources import Source, fetch
from packer.validate import Policy, validate
from packer.watch import Run
from recipes.evaluation.evaluate import Evaluated, Evaluation, evaluate
from recipes.quantize import Quantization, Quantized, quantize
from registry.memory import Memory
from registry.reference import LayoutReference, Reference
from registry.store import Release, Store


@dataclass(frozen=True)
class Build:
    """Everything that one build needs, resolved: only the command line makes one."""

    source: Source
    policy: Policy
    max_size: int | None
    quantization: Quantization | None
    baseline: Source | None
    evaluation: Evaluation | None
    base: Base
    modelpack: ModelPack
    to: Reference | LayoutReference
    store: Store
    concurrency: int
    memory: Memory


def pipeline(build: Build, run: Run) -> Iterator[Snapshot | Checkpoint | Quantized | Evaluated | Artifact | Release]:
    """Run the stages one by one, as far as the results are asked for: no further than a scorecard that says no."""
    yield (snapshot := run("fetch", fetch, build.source))
    yield (checkpoint := run("validate", validate, snapshot, build.policy))
    yield (checkpoint := run("shard", shard, checkpoint, build.max_size) if build.max_size else checkpoint)
    quantized = run("quantize", quantize, checkpoint, build.quantization) if build.quantization else None
    yield quantized or checkpoint
    candidate = quantized.checkpoint if quantized else checkpoint
    evaluated = None
    if build.evaluation:
        baseline = _baseline(build, run) if build.baseline else checkpoint
        evaluated = run("evaluate", evaluate, baseline, candidate, build.evaluation)
    yield evaluated or candidate
    if evaluated and not evaluated.scorecard.is_accepted:
        return
    candidate = evaluated.checkpoint if evaluated else candidate
    evidence = evidence_of(evaluated.scorecard, evaluated.report) if evaluated else None
    yield (artifact := run("package", package, candidate, build.base, build.modelpack, build.memory, evidence))
    yield run("publish", publish, artifact, build.store, build.to, build.concurrency)


def _baseline(build: Build, run: Run) -> Checkpoint:
    """Another model that the result is measured against, in place of what it was made from."""
    assert build.baseline
    return run("validate", validate, run("fetch", fetch, build.baseline), Policy(allow_code=True))
