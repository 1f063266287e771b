"""Scorecards that nobody measured, of models that are there, and how they are published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from containers.artifact import Artifact, package
from containers.base import no_base
from containers.modelpack import ModelPack
from formats.checkpoint import Checkpoint
from formats.identity import identity
from packer.evidence import evidence_of
from packer.publish import publish
from packer.sources import FolderSource
from recipes.evaluation.scorecard import (
    Circumstances,
    Divergence,
    Gate,
    Interval,
    Metric,
    Party,
    Samples,
    Scorecard,
    Verdict,
)
from registry.access import Access
from registry.descriptor import Digest, digest_of
from registry.reference import parse_reference
from registry.store import Release, open_store

REPORT = "<!DOCTYPE html><title>ü</title>"
DIVERGENCE = Divergence(
    mean=Interval(0.011, 0.0125, 0.014),
    p99=0.21,
    most=3.25,
    agreement=Interval(0.898, 0.9012, 0.905),
    lost=0.021,
    won=0.014,
)
PERPLEXITY = Metric(
    name="perplexity",
    baseline=12.31,
    candidate=12.5,
    retention=Interval(0.98129, 0.98481, 0.98833),
    method="asymptotic",
    is_gated=True,
    verdict=Verdict.RETAINED,
)
ACCURACY = Metric(
    name="accuracy",
    baseline=0.41,
    candidate=0.4,
    retention=Interval(0.95, 0.9756, 1.01),
    method="betting",
    is_gated=False,
    verdict=Verdict.UNDECIDED,
)
SAMPLES = Samples(
    suite="fidelity",
    suite_digest=digest_of(b"suite"),
    data="pride-and-prejudice",
    data_digest=digest_of(b"data"),
    unit="passages",
    used=96,
    available=400,
    tokens=24480,
    needed=0,
)
HOW = Circumstances(
    backend="transformers",
    versions={"torch": "2.13.0", "transformers": "5.1.0"},
    kind="cpu",
    seed=0,
    stopped="the verdict is known",
    seconds=123.4,
    time="2026-03-01T12:00:00Z",
)


def party(name: str, digest: Digest, recipe: str = "") -> Party:
    return Party(
        digest=digest,
        name=name,
        url="hf://acme/tiny",
        revision="0" * 40,
        format="safetensors",
        precision="int8" if recipe else "bfloat16",
        bytes=1000,
        memory=2 << 20,
        recipe=recipe,
    )


def scorecard(candidate: Digest = digest_of(b"candidate"), **changes: Any) -> Scorecard:
    """A scorecard of a model of this identity: retained, unless the changes say otherwise."""
    card = Scorecard(
        verdict=Verdict.RETAINED,
        gate=Gate(retain=0.98),
        candidate=party("tiny-int8", candidate, "int8-w8a8"),
        baseline=party("tiny", digest_of(b"baseline")),
        metrics=(PERPLEXITY, ACCURACY),
        divergence=DIVERGENCE,
        samples=SAMPLES,
        circumstances=HOW,
    )
    return replace(card, **changes)


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(FolderSource(folder).fetch(), allow_code=True)


def identity_of(model: Checkpoint) -> Digest:
    return identity(model, lambda file: file.blob.descriptor.digest)


def artifact(folder: Path, form: ModelPack = ModelPack.SHARED, recipe: str = "int8-w8a8", **changes: Any) -> Artifact:
    """What is published of the model in a folder, and of its scorecard, so changed."""
    model = checkpoint(folder)
    card = scorecard(identity_of(model), **changes)
    evidence = evidence_of(replace(card, candidate=replace(card.candidate, recipe=recipe)), REPORT)
    return package(model, no_base(), form, evidence=evidence)


def published(folder: Path, to: str, recipe: str = "int8-w8a8", **changes: Any) -> Release:
    """Publish the model in a folder with its scorecard, so changed."""
    reference = parse_reference(to)
    return publish(artifact(folder, recipe=recipe, **changes), open_store(reference, Access()), reference, 2)


def unmeasured(folder: Path, to: str) -> Release:
    """Publish the model in a folder, of which nothing was measured."""
    reference = parse_reference(to)
    made = package(checkpoint(folder), no_base(), ModelPack.SHARED)
    return publish(made, open_store(reference, Access()), reference, 2)
