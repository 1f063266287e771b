"""`packer plan`: what a build would do, stage by stage, before it does anything.

Of files only headers are read, of a repository of the Hub or an artifact far away only what their headers cost; of the
destination it is asked what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from containers.layers import ROOT, Draft, draft_layers
from formats.checkpoint import Checkpoint
from formats.snapshot import Snapshot
from packer.hub import HubSource
from packer.look import look
from packer.pipeline import Build
from packer.progress import human
from packer.reshard import shard
from packer.sources import ArtifactSource
from recipes.evaluation.evaluate import Evaluation, expected
from recipes.evaluation.room import room as evaluation_room
from recipes.evaluation.scorecard import Undecided
from recipes.evaluation.suite import Kind
from recipes.fit import require_fit, weight_files
from recipes.quantize import Quantization
from recipes.recipe import Engine
from recipes.size import result_size, room
from registry.access import Access
from registry.outcome import Outcome
from registry.reference import LayoutReference, Reference

MEMORY = 100 << 20
"""Bytes of memory that a build takes at most, whatever the size of the model; a goal that `make bench` measures."""

LIBRARIES = 2 << 30
"""Bytes of memory that quantizing takes besides weights."""

LARGE, COPIES, COPIES_OF_LARGE = 3 << 29, 6, 4
"""Bytes beyond which an ONNX model is worked on beside its data, and how often onnxruntime has one in memory."""


@dataclass(frozen=True)
class LayerForecast:
    """What would become of one layer. `digest` is absent if the layer must be read to know it; sizes are in bytes."""

    path: str
    bytes: int
    digest: str | None
    outcome: str
    exceeds: int | None


@dataclass(frozen=True)
class EvaluationForecast:
    """On what a model would be measured: at most so many `units` of it, all there are if None, in so many seconds, with
    so many bytes of disk.
    """

    suite: str
    retain: float
    units: int | None
    unit: str
    budget: float
    disk: int

    def render(self) -> str:
        """For people."""
        units = f"at most {self.units}" if self.units else "all"
        disk = f", {human(self.disk)} of disk" if self.disk else ""
        spent = f"{units} of its {self.unit}, {self.budget / 60:.3g} min at most{disk}"
        return f"{self.suite}, {spent}; published only if {self.retain} is retained"


@dataclass(frozen=True)
class Forecast:
    """What a build would do. Sizes are in bytes; `disk` is what it writes, `max_size` what would fit as `shard`."""

    source: str
    to: str
    files: int
    fetch: int
    read: int
    upload: int
    mount: int
    skip: int
    unknown: int
    disk: int
    memory: int
    max_size: int | None
    recipe: str | None
    evaluation: EvaluationForecast | None
    layers: tuple[LayerForecast, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def render(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"fetch     {self.source}: {self.files} files, {human(self.fetch)} to download"
        yield "validate  headers alone"
        if self.recipe:
            yield f"quantize  {self.recipe}; the sizes of weights from here on are estimates"
        if self.evaluation:
            yield f"evaluate  {self.evaluation.render()}"
        yield f"package   {len(self.layers)} layers, {human(self.read)} to read for digests that are not known yet"
        parts = [f"{human(self.upload)} to upload", f"{human(self.mount)} to mount", f"{human(self.skip)} there"]
        if self.unknown:
            parts.append(f"{human(self.unknown)} to upload unless it is there")
        yield f"publish   {self.to}: {', '.join(parts)}"
        yield f"needs     {human(self.disk)} of disk, {human(self.memory)} of memory at most"
        for layer in self.layers:
            yield f"  {layer.outcome:<8} {human(layer.bytes):>10}  {layer.path}"
        if self.max_size:
            large = [layer for layer in self.layers if layer.exceeds]
            limit = human(large[0].exceeds or 0)
            yield f"refused   {len(large)} layers are larger than the {limit} that this registry takes"
            yield f"next      add --max-size {self.max_size >> 20}MiB"


def foresee(build: Build, access: Access, source: str) -> Forecast:
    """What `build` would do. `ModelError` for a model that would be refused, and for pickles that are to be converted:
    what becomes of them is not known before.
    """
    snapshot, fetch = _snapshot(build, access)
    checkpoint = Checkpoint(snapshot, allow_code=True)
    if build.max_size:
        checkpoint = shard(checkpoint, build.max_size)
    shrunk = _shrunk(checkpoint, build.quantization)
    layers = tuple(_layer(draft, build, access, shrunk.get(draft.path)) for draft in draft_layers(checkpoint))
    working = _working(snapshot, checkpoint, build.quantization)
    evaluation = _evaluation(build.evaluation, checkpoint) if build.evaluation else None
    working += evaluation.disk if evaluation else 0

    def total(*outcomes: str) -> int:
        return sum(layer.bytes for layer in layers if layer.outcome in outcomes)

    too_large = [layer for layer in layers if layer.exceeds]
    upload, unknown = total("upload"), total("unknown")
    return Forecast(
        source=source,
        to=str(build.to),
        files=len(snapshot.files),
        fetch=fetch,
        read=unknown,
        upload=upload,
        mount=total("mount"),
        skip=total("there"),
        unknown=unknown,
        disk=fetch + working + (upload + unknown if isinstance(build.to, LayoutReference) else 0),
        memory=max(_memory(checkpoint, build.quantization), _loaded(checkpoint) if build.evaluation else 0),
        max_size=_fitting(too_large[0].exceeds or 0) if too_large else None,
        recipe=build.quantization.recipe.name if build.quantization else None,
        evaluation=evaluation,
        layers=layers,
    )


def _evaluation(how: Evaluation, baseline: Checkpoint) -> EvaluationForecast:
    suite, is_open = how.suite, how.gate.undecided is Undecided.EXTEND
    is_text = suite.kind is Kind.FIDELITY
    units = None if is_open else suite.passages if is_text else suite.limit
    unit, disk = "passages" if is_text else "items", evaluation_room(baseline, suite, expected(how))
    return EvaluationForecast(suite.name, how.gate.retain, units, unit, how.gate.budget, disk)


def _loaded(checkpoint: Checkpoint) -> int:
    """What is needed at most to run the model, in float32 where a processor has no units for less."""
    weights = sum(file.size for file in checkpoint.snapshot.files if file.name in checkpoint.weights)
    return 2 * weights + LIBRARIES


def _shrunk(checkpoint: Checkpoint, how: Quantization | None) -> dict[str, int]:
    """About how large each weight file will be that is quantized; `UsageError` if the recipe does not fit."""
    if not how:
        return {}
    require_fit(how.recipe, checkpoint)
    files = weight_files(how.recipe, checkpoint)
    ratio = result_size(how.recipe, checkpoint) / max(sum(file.size for file in files), 1)
    return {f"{ROOT}/{file.name}": int(file.size * ratio) for file in files}


def _working(snapshot: Snapshot, checkpoint: Checkpoint, how: Quantization | None) -> int:
    """Bytes of disk that quantizing takes: what the engine writes, and files that regrouping made, for it to read."""
    if not how:
        return 0
    there = {id(file.blob) for file in snapshot.files}
    loose = sum(file.size for file in checkpoint.snapshot.files if id(file.blob) not in there)
    return room(how.recipe, checkpoint) + loose


def _memory(checkpoint: Checkpoint, how: Quantization | None) -> int:
    """What is needed at most: by all of a model that is loaded, as each ONNX model is, else by its largest file."""
    if not how:
        return MEMORY
    sizes = [file.size for file in weight_files(how.recipe, checkpoint)]
    if how.recipe.engine is Engine.ONNXRUNTIME:
        return sum(sizes) * (COPIES if sum(sizes) <= LARGE else COPIES_OF_LARGE) + LIBRARIES
    return (sum(sizes) if how.samples else 2 * max(sizes)) + LIBRARIES


def _snapshot(build: Build, access: Access) -> tuple[Snapshot, int]:
    """The files, as far as headers need, and the bytes that a build would download."""
    match build.source:
        case HubSource():
            snapshot = build.source.peek()
            return snapshot, build.source.missing(snapshot)
        case ArtifactSource() if isinstance(build.source.reference, Reference):
            if build.source.is_here():
                return build.source.fetch(), 0
            snapshot = look(str(build.source.reference), build.source.include, access)
            return snapshot, snapshot.size
        case _:
            return build.source.fetch(), 0


def _layer(draft: Draft, build: Build, access: Access, size: int | None) -> LayerForecast:
    """What would become of a layer; `size` is what its file will be about if it is quantized before."""
    digest, limit = access.memory.recall(draft.mark) if size is None else None, build.store.max_layer
    size = draft.tar.size if size is None else size
    outcome = _OUTCOMES[build.store.foresee(digest)] if digest else "unknown"
    exceeds = limit if limit and size > limit else None
    return LayerForecast(draft.path, size, digest, outcome, exceeds)


_OUTCOMES = {Outcome.PRESENT: "there", Outcome.MOUNTED: "mount", Outcome.SENT: "upload"}


def _fitting(limit: int) -> int:
    """A size of weight files whose layers stay below a limit, in whole MiB: a tar adds some kilobytes."""
    return max(limit - (1 << 20) >> 20, 1) << 20
