"""ONNX: a protobuf with a graph, whose tensors may lie in files beside it.

https://github.com/onnx/onnx/blob/main/docs/IR.md. The protobuf and the checker are the onnx package's; neither sees the
weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from formats.findings import Finding
from formats.onnx_operators import check_versions, find_foreign, foreign_operators, set_experiments_apart
from formats.onnx_tensors import TensorReader, all_tensors, text
from formats.onnx_weight import weigh
from formats.onnx_wire import Outline, Skeleton, read_outline
from formats.pickle import find_appended
from formats.rules import onnx as rules
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import WeightFile

__all__ = ["MAX_FILE", "all_tensors", "parse", "read"]

MAX_FILE = (1 << 31) - 1
"""Bytes: what a protobuf may hold."""

MAX_WEIGHT = 48 << 20
"""Bytes of memory that a model may take without its tensors."""

MAX_LISTED = 64
"""Inputs, outputs or operators that are kept of each."""


def read(file: ModelFile, snapshot: Snapshot) -> WeightFile:
    """The tensors of an ONNX model, their bytes accounted for or told as findings; `RejectedError` otherwise.

    What the model names outside is known even where it lacks something, or the checker refuses it. Read are the file
    without the large payloads of its tensors, and nothing of external data.
    """
    if file.size > MAX_FILE:
        rules.TOO_LARGE.reject(file.name, expected=f"at most {MAX_FILE} bytes", found=f"{file.size} bytes")
    outline = read_outline(file)
    _weigh(file, outline)
    model = parse(file, outline)
    if not model.ir_version or not model.opset_import or not model.graph.node:
        rules.PROTOBUF.reject(file.name, expected="ir_version, opset_import and a graph with nodes", found="not all")
    check_versions(file, model)
    set_experiments_apart(model)
    foreign = foreign_operators(file, model)
    appended = find_appended(file)
    reader = TensorReader(file, snapshot, outline.payloads)
    tensors = tuple(reader.read(model))
    metadata, data = _metadata(model, foreign), model.SerializeToString()
    del model, outline
    found = (*reader.findings, *_check(file, data), *find_foreign(file, foreign), *filter(None, [appended]))
    return WeightFile(tensors, metadata, found)


def _weigh(file: ModelFile, outline: Outline) -> None:
    """Refuse what would take too much memory, before it is made objects of."""
    try:
        weight = weigh(outline.data, MAX_WEIGHT)
    except ValueError as error:
        rules.PROTOBUF.reject(file.name, expected="a protobuf of an ONNX model", found=str(error))
    if weight > MAX_WEIGHT:
        rules.TOO_LARGE.reject(file.name, expected=f"at most {MAX_WEIGHT} bytes in memory", found="more")


def parse(file: ModelFile, skeleton: Skeleton | Outline) -> Any:
    """What is left of a model as a ModelProto."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(skeleton.data)
    except (DecodeError, UnicodeDecodeError) as error:
        rules.PROTOBUF.reject(file.name, expected="a protobuf of an ONNX model", found=str(error))
    return model


def _check(file: ModelFile, data: bytes) -> Iterator[Finding]:
    """Ask the ONNX checker, who sees only tensors whose values are at hand; the others were asked about before."""
    from onnx import checker

    try:
        checker.check_model(data)
    except Exception as error:  # noqa: BLE001 - the checker raises whatever its C++ meets
        said = str(error)[:_SAID].strip().split("\n")[0]
        yield rules.CHECKER.finding(file.name, found=text(said) or type(error).__name__)


_SAID = 1000


def _metadata(model: Any, foreign: list[str]) -> dict[str, object]:
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    return {
        "producer": text(model.producer_name),
        "ir_version": model.ir_version,
        "opsets": {text(entry.domain) or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [_value(value) for value in inputs[:MAX_LISTED]],
        "outputs": [_value(value) for value in model.graph.output[:MAX_LISTED]],
        "foreign_operators": foreign[:MAX_LISTED],
    }


def _known(size: Any) -> str:
    return str(size.dim_value) if size.HasField("dim_value") else "?"


def _value(value: Any) -> str:
    """A graph's input or output in words: `input_ids: INT64[batch, 7]`."""
    from onnx import TensorProto

    kind = value.type.tensor_type
    known = kind.elem_type in TensorProto.DataType.values()
    dtype = TensorProto.DataType.Name(kind.elem_type) if known else str(kind.elem_type)
    sizes = (text(size.dim_param) or _known(size) for size in kind.shape.dim[:MAX_LISTED])
    return f"{text(value.name)}: {dtype}[{', '.join(sizes)}]"[:_SAID]
