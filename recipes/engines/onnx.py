"""The engine `onnxruntime`: ONNX models become others whose weights are integers, each model by itself.

Settings, which are those of `onnxruntime.quantization`:

    mode             dynamic: activations are quantized as they come; static: by ranges that samples showed
    op_types         the operators to quantize, such as MatMul; in dynamic mode Gemm counts as MatMul
    weight_type      QInt8 (the default) or QUInt8
    activation_type  the same, for static; dynamic ones are uint8
    per_channel      a scale for each channel of a weight; false by default
    reduce_range     weights of seven bits, for processors whose sums of eight bits saturate; false by default

A static result has QuantizeLinear and DequantizeLinear around what is quantized (QDQ).
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.engines.onnx_files import Source, load, publish, save, stage
from recipes.engines.onnx_graph import Graph, is_quantized, operators, sort_nodes
from recipes.engines.onnx_notes import Made, Notes
from recipes.engines.onnx_samples import Samples
from recipes.task import PARTIAL, Done, Module, Step, Task, Tell
from registry.errors import ModelError, UsageError

_TYPES = {"QInt8": "int8", "QUInt8": "uint8"}
_SILENT = 4
"""onnxruntime's severity `fatal`: what matters it raises as well."""

_MAX_SAID = 500
_PER_CHANNEL = 13
"""The first opset whose DequantizeLinear has an axis."""


@dataclass(frozen=True)
class Settings:
    """What a recipe says."""

    mode: str
    op_types: tuple[str, ...] = ()
    weight_type: str = "QInt8"
    activation_type: str = ""
    per_channel: bool = False
    reduce_range: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """The settings of a recipe; `UsageError` for unknown ones, or values that they cannot have."""
        if unknown := sorted(set(given) - set(cls.__dataclass_fields__)):
            known = ", ".join(cls.__dataclass_fields__)
            raise UsageError("the engine onnxruntime has no such option", expected=known, found=", ".join(unknown))
        static = given.get("mode") == "static"
        _one_of("mode", given.get("mode"), "dynamic", "static")
        _one_of("weight_type", given.get("weight_type", "QInt8"), *_TYPES)
        _one_of("activation_type", given.get("activation_type", "QUInt8"), *(_TYPES if static else ["QUInt8"]))
        for key in ("per_channel", "reduce_range"):
            _one_of(key, given.get(key, False), True, False)
        settings = cls(**{"activation_type": "QInt8" if static else "QUInt8", **given})
        return settings._with_operators(known_operators(static=static))

    def _with_operators(self, known: frozenset[str]) -> Settings:
        chosen = self.op_types
        if not isinstance(chosen, list | tuple) or not chosen or not known.issuperset(map(str, chosen)):
            what = f"onnxruntime quantizes other operators in {self.mode} mode"
            raise UsageError(what, subject="op_types", expected=", ".join(sorted(known)), found=chosen or "none")
        return Settings(**{**vars(self), "op_types": tuple(chosen)})

    @property
    def activations(self) -> str:
        """What becomes of a module's activations."""
        return f"{self.mode} {_TYPES[self.activation_type]} activations"


def _one_of(key: str, value: object, *known: object) -> None:
    if not any(value is each or (isinstance(value, str) and value == each) for each in known):
        raise UsageError("this is not one of its values", subject=key, expected=", ".join(map(str, known)), found=value)


def known_operators(*, static: bool) -> frozenset[str]:
    """The operators that the installed onnxruntime can quantize."""
    from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry, QLinearOpsRegistry

    return frozenset([*QDQRegistry, *QLinearOpsRegistry] if static else [*IntegerOpsRegistry, "Gemm"])


def run(task: Task, tell: Tell) -> Done:
    """Quantize every ONNX model in `task.files` that is not whole in the target yet, as `Notes` there tell.

    The same files, settings and versions make the same bytes.

    A model keeps its name. Its weights stay in one file with it up to `onnx_files.EXTERNAL` bytes. `UsageError` for
    settings that are not as told above, a model that is quantized already or has nothing that the recipe quantizes,
    and samples that do not fit; `ModelError` for a result that onnxruntime or the checker of onnx refuses.
    """
    with _silence():
        settings = Settings.of(task.settings)
        samples = _samples(task) if settings.mode == "static" else None
        names = [name for name in task.files if name.lower().endswith(".onnx")]
        if not names:
            raise UsageError("there is no ONNX model", expected="*.onnx", found=", ".join(task.files) or "no files")
        sources = [Source.of(task.source, name) for name in names]
        shared = Counter(data for source in sources for data in source.data)
        notes = Notes(task.target)
        files: dict[str, tuple[str, ...]] = {}
        modules: list[Module] = []
        for at, source in enumerate(sources):
            tell(Step(at, len(sources), "models", source.name))
            made = notes.read(source.name) or _quantize(source, task, settings, samples, tell, shared)
            _account(files, source, made.files)
            prefix = f"{source.name}: " if len(sources) > 1 else ""
            modules.extend(Module(prefix + module.name, module.scheme, module.why) for module in made.modules)
        tell(Step(len(sources), len(sources), "models", names[-1]))
    notes.remove()
    return Done(files, tuple(modules))


def _samples(task: Task) -> Samples:
    if task.samples:
        return Samples(task.samples, task.source, task.max_length)
    raise UsageError("static quantization needs calibration samples", hint="give some, or take a dynamic recipe")


def _account(files: dict[str, tuple[str, ...]], source: Source, made: tuple[str, ...]) -> None:
    """Say what stands for what: a model for itself, new external data for data of that name or the model."""
    files[source.name] = tuple(name for name in made if name not in source.data)
    for data in source.data:
        files[data] = (data,) if data in made else files.get(data, ())


def _quantize(
    source: Source, task: Task, settings: Settings, samples: Samples | None, tell: Tell, shared: Mapping[str, int]
) -> Made:
    """What one model becomes, noted before it gets its name."""
    folder = (task.target / source.name).parent
    folder.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as scratch:
        staged = stage(source, scratch)
        graph = Graph(load(staged, data=False))
        _refuse_quantized(source, graph)
        raw = scratch / "quantized.onnx"
        if samples is None:
            _dynamic(staged, raw, settings, graph.without_weights, external=source.is_large)
        else:
            if settings.per_channel:
                _raise_opset(staged, source, tell)
            staged = _prepare(staged, scratch, external=source.is_large)
            graph = Graph(load(staged, data=False))
            feeds = _Reader(samples.feeds(source.name, graph), len(samples), tell)
            _static(staged, raw, settings, feeds, external=source.is_large)
        model = load(raw)
        sort_nodes(model.graph)
        modules = tuple(graph.compare(model, settings.op_types, settings.activations, is_static=samples is not None))
        _refuse_unchanged(source, graph, model, settings)
        made = Made(save(model, source, load(source.path, data=False), scratch / "made", shared), modules)
        _check(scratch / "made" / Path(source.name).name, source)
        Notes(task.target).write(source.name, made)
        publish(scratch / "made", folder)
    return made


def _dynamic(source: Path, target: Path, settings: Settings, left: Sequence[str], *, external: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=[*settings.op_types, *["MatMul"] * ("Gemm" in settings.op_types)],
        per_channel=settings.per_channel,
        reduce_range=settings.reduce_range,
        weight_type=QuantType[settings.weight_type],
        nodes_to_exclude=list(left),
        use_external_data_format=external,
    )


def _raise_opset(path: Path, source: Source, tell: Tell) -> None:
    """Convert a model to opset 13 if it is older: only then can DequantizeLinear have a scale for each channel.

    `UsageError` if onnx cannot, which for a large model is always so.
    """
    from onnx import version_converter

    model = load(path, data=False)
    version = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), _PER_CHANNEL)
    if version >= _PER_CHANNEL:
        return
    try:
        if source.is_large:
            raise ValueError("it is too large to be converted")
        path.write_bytes(version_converter.convert_version(model, _PER_CHANNEL).SerializeToString())
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            "scales for each channel need a newer opset, which the model cannot be converted to",
            subject=source.name,
            expected=f"opset {_PER_CHANNEL} or later",
            found=f"opset {version}: {' '.join(str(error).split())[:_MAX_SAID]}",
            hint="use a recipe with per_channel: false, or export the model again",
        ) from error
    tell(f"{source.name}: converted from opset {version} to {_PER_CHANNEL}, for scales for each channel")


def _prepare(source: Path, scratch: Path, *, external: bool) -> Path:
    """The graph simplified, with constants folded, and its shapes inferred.

    Not symbolically: that gives up at what torch exports, and types alone matter here.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = scratch / "prepared.onnx"
    place: dict[str, Any] = {"all_tensors_to_one_file": True, "external_data_location": "prepared.data"}
    quant_pre_process(
        source, target, skip_symbolic_shape=True, save_as_external_data=external, **(place if external else {})
    )
    return target


def _static(source: Path, target: Path, settings: Settings, feeds: _Reader, *, external: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    quantize_static(
        source,
        target,
        feeds,
        op_types_to_quantize=list(settings.op_types),
        per_channel=settings.per_channel,
        reduce_range=settings.reduce_range,
        activation_type=QuantType[settings.activation_type],
        weight_type=QuantType[settings.weight_type],
        use_external_data_format=external,
    )


class _Reader:
    """Feeds one at a time, as onnxruntime's `CalibrationDataReader`, and tells each."""

    def __init__(self, feeds: Iterator[dict[str, Any]], total: int, tell: Tell) -> None:
        self._feeds, self._total, self._tell, self._done = feeds, total, tell, 0

    def get_next(self) -> dict[str, Any] | None:
        feed = next(self._feeds, None)
        if feed:
            self._done += 1
            self._tell(Step(self._done, self._total, "samples", str(self._done)))
        return feed


def _refuse_quantized(source: Source, graph: Graph) -> None:
    if found := [name for name in graph.operators if is_quantized(name)]:
        raise UsageError(
            "the model is quantized already",
            subject=source.name,
            expected="a model of floating-point operators",
            found=", ".join(found),
            hint="start from the model that it was made of",
        )


def _refuse_unchanged(source: Source, graph: Graph, model: Any, settings: Settings) -> None:
    if not any(map(is_quantized, operators(model.graph))):
        raise UsageError(
            "the recipe quantizes nothing of this model",
            subject=source.name,
            expected=f"{' or '.join(settings.op_types)}, with constant weights",
            found=", ".join(f"{count} {name}" for name, count in graph.operators.most_common()),
            hint="choose a recipe with other op_types",
        )


def _check(path: Path, source: Source) -> None:
    """`ModelError` if what was made is not valid, or onnxruntime cannot load it."""
    import onnxruntime
    from onnx import checker

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        checker.check_model(str(path))
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # both raise whatever their C++ meets
        said = " ".join(str(error).split())[:_MAX_SAID]
        hint = "choose other op_types, or weight_type: QUInt8"
        raise ModelError("what it became does not load", subject=source.name, found=said, hint=hint) from error


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what is not finished, in which onnxruntime's own temporary files go too: they are as large."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as name:
        tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before


@contextmanager
def _silence() -> Iterator[None]:
    """No logs: onnxruntime recommends what is done here already."""
    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        yield
    finally:
        logging.disable(before)
