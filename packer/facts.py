"""What is told of the values of a build, and how they are watched: additions to `packer/watch.py`."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from containers.artifact import Artifact
from containers.layers import FILEPATH
from formats.checkpoint import Checkpoint
from formats.snapshot import Snapshot
from packer.hub import HubSource
from packer.progress import human
from packer.sources import ArtifactSource
from packer.watch import Counted, Listener, facts, size_of, watched, watched_result
from recipes.evaluation.evaluate import Evaluated, Evaluation
from recipes.evaluation.report.words import duration
from recipes.quantize import Quantization, Quantized
from recipes.task import Step
from registry.descriptor import Descriptor
from registry.manifest import Index


@watched.register
def _(value: HubSource, listener: Listener) -> HubSource:
    return replace(value, meter=listener)


@watched.register
def _(value: ArtifactSource, listener: Listener) -> ArtifactSource:
    return replace(value, meter=listener)


@watched.register
def _(value: Quantization, listener: Listener) -> Quantization:
    return replace(value, tell=_Steps(listener))


@watched.register
def _(value: Evaluation, listener: Listener) -> Evaluation:
    return replace(value, tell=_Steps(listener))


class _Steps:
    """Tells a listener how far a child is: bytes as bytes, and now and then in words."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._done, self._told = listener, 0, time.monotonic()
        self._first, self._last, self._part = _Moment(0, time.monotonic()), 0, ""

    def __call__(self, what: Step | str) -> None:
        if isinstance(what, str):
            self._listener.noted(what)
            return
        if what.unit == "bytes":
            self._listener.advanced(what.done - self._done)
            self._done = what.done
        is_another = what.done <= self._last or not self._last or what.part != self._part
        if what.unit != "bytes" and is_another:  # a child has begun
            self._first = _Moment(what.done, time.monotonic())
        self._last, self._part = what.done, what.part
        if time.monotonic() - self._told >= _PAUSE:
            self._told = time.monotonic()
            self._listener.noted(_in_words(what, self._first))


_PAUSE = 15.0
"""Seconds between two lines about how far it is."""


class _Moment(NamedTuple):
    """How much was done when, in seconds of the monotonic clock."""

    done: int
    time: float


def _in_words(step: Step, first: _Moment) -> str:
    """Such as `candidate: 12 of 30 passages, about 40 s left; at most 1.2 GiB of memory`."""
    size = human if step.unit == "bytes" else str
    since = step.done - first.done
    pace = (time.monotonic() - first.time) / since if since else 0.0
    limit = math.inf if step.seconds is None else step.seconds
    left = f", {_left(pace * (step.total - step.done), limit)} left" if pace else ""
    part = f"{step.part}: " if step.part else ""
    memory = f"; at most {human(step.host)} of memory" if step.host else ""
    device = f", {human(step.device)} on the GPU" if step.device else ""
    unit = "" if step.unit == "bytes" else f" {step.unit}"
    known = f"; {step.name}" if step.name and step.unit in ("passages", "items") else ""
    return f"{part}{size(step.done)} of {size(step.total)}{unit}{left}{known}{memory}{device}"


def _left(seconds: float, limit: float) -> str:
    """How long it goes on, and if it is ended before, that."""
    about = f"about {duration(seconds)}" if seconds <= limit else f"at most {duration(limit)}, when time is up,"
    return about.replace("\u00a0", " ")


@size_of.register
def _(value: Quantized) -> int:
    return value.checkpoint.snapshot.size


@facts.register
def _(result: Quantized) -> dict[str, Any]:
    return {**result.account.to_json(), "warnings": [finding.to_json() for finding in result.checkpoint.findings]}


@facts.register
def _(result: Evaluated) -> dict[str, Any]:
    return result.scorecard.to_json()


@watched_result.register
def _(result: Snapshot, listener: Listener) -> Snapshot:
    return result.map(lambda blob: Counted(blob, listener.advanced))


@size_of.register
def _(value: Checkpoint) -> int:
    return value.snapshot.size


@size_of.register
def _(value: Artifact) -> int:
    return sum(blob.descriptor.size for blob in value.blobs())


@facts.register
def _(result: Snapshot) -> dict[str, Any]:
    return {"origin": asdict(result.origin), "files": len(result.files), "bytes": result.size}


@facts.register
def _(result: Checkpoint) -> dict[str, Any]:
    weights = [file for file in result.snapshot.files if file.name in result.weights]
    return {
        "tensors": len(result.tensors),
        **result.card.to_json(),
        "weights": [{"path": file.name, "bytes": file.size} for file in weights],
        "warnings": [finding.to_json() for finding in result.findings],
    }


@facts.register
def _(result: Artifact) -> dict[str, Any]:
    image = result.image
    layers = [blob.descriptor for blob in result.blobs()]
    return {
        "image": image.root.descriptor.digest,
        "modelpack": result.modelpack.root.descriptor.digest if result.modelpack else None,
        "platforms": [str(entry.platform) for entry in image.root.manifests] if isinstance(image.root, Index) else [],
        "blobs": [_of_layer(layer) for layer in layers],
        "bytes": sum(layer.size for layer in layers),
    }


def _of_layer(layer: Descriptor) -> dict[str, Any]:
    known = {"digest": layer.digest, "bytes": layer.size, "mediaType": layer.media_type}
    return {**known, "path": layer.annotations[FILEPATH]} if FILEPATH in layer.annotations else known
