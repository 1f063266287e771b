"""The way of a model, from its source to a release. This is the whole of it.

    Source -> Snapshot -> Checkpoint -> Checkpoint -> Artifact -> Release
           fetch     validate      shard       package     publish

Each stage takes values and returns values. Progress, events and `--until` are wrappers around the stages: `run` calls
a stage and watches it, and whoever consumes the generator decides how far it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from containers.artifact import Artifact, package
from containers.base import Base
from containers.modelpack import ModelPack
from formats.checkpoint import Checkpoint
from formats.reshard import shard
from formats.snapshot import Snapshot
from packer.publish import publish
from packer.sources import Source, fetch
from packer.validate import Policy, validate
from packer.watch import Run
from registry.reference import LayoutReference, Reference
from registry.store import Release, Store


@dataclass(frozen=True)
class Build:
    """Everything that one build needs, resolved: only the command line makes one."""

    source: Source
    policy: Policy
    max_size: int | None
    base: Base
    modelpack: ModelPack
    to: Reference | LayoutReference
    store: Store


def pipeline(build: Build, run: Run) -> Iterator[Snapshot | Checkpoint | Artifact | Release]:
    """Run the stages one by one, as far as the results are asked for."""
    yield (snapshot := run("fetch", fetch, build.source))
    yield (checkpoint := run("validate", validate, snapshot, build.policy))
    yield (checkpoint := run("shard", shard, checkpoint, build.max_size) if build.max_size else checkpoint)
    # `quantize` stands before it: it takes a checkpoint and returns one.
    # `evaluate` follows: it takes two checkpoints and returns the scorecard that `package` will ask for.
    yield (artifact := run("package", package, checkpoint, build.base, build.modelpack))
    yield run("publish", publish, artifact, build.store, build.to)
