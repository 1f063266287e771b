"""ONNX: a protobuf with a graph, whose tensors may lie in files beside it.

https://github.com/onnx/onnx/blob/main/docs/IR.md and `docs/ExternalData.md`. The protobuf and the checker are the onnx
package's; neither sees the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from formats.findings import Finding
from formats.onnx_wire import RAW_DATA, Payload, Skeleton, read_skeleton
from formats.rules import onnx as rules
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, WeightFile
from formats.text import printable
from registry.errors import ModelError
from registry.names import relative_path

MAX_FILE = (1 << 31) - 1
"""Bytes: what a protobuf may hold."""

MAX_LISTED = 64
"""Inputs, outputs or operators that are kept of each."""

_STANDARD = frozenset(("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"))
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


def read(file: ModelFile, snapshot: Snapshot) -> WeightFile:
    """The tensors of an ONNX model, their bytes accounted for; `RejectedError` otherwise.

    Read are the file without the payloads of its initializers, and nothing of external data.
    """
    if file.size > MAX_FILE:
        rules.TOO_LARGE.reject(file.name, expected=f"at most {MAX_FILE} bytes", found=f"{file.size} bytes")
    skeleton = read_skeleton(file)
    model = parse(file, skeleton)
    if not model.ir_version or not model.opset_import or not model.graph.node:
        rules.PROTOBUF.reject(file.name, expected="ir_version, opset_import and a graph with nodes", found="not all")
    tensors = tuple(_tensors(file, snapshot, model, skeleton))
    _check(file, parse(file, skeleton), skeleton)
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in _foreign(model)})
    return WeightFile(tensors, _metadata(model, foreign), tuple(_foreign_findings(file, foreign)))


def parse(file: ModelFile, skeleton: Skeleton) -> Any:
    """The skeleton as a ModelProto."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(skeleton.data)
    except (DecodeError, UnicodeDecodeError) as error:
        rules.PROTOBUF.reject(file.name, expected="a protobuf of an ONNX model", found=str(error))
    return model


def _check(file: ModelFile, model: Any, skeleton: Skeleton) -> None:
    """Ask the ONNX checker, with every tensor whose values are not at hand made an empty one.

    What the checker would say of those tensors is asked before, in `_tensors`.
    """
    from onnx import TensorProto, checker

    cut = [model.graph.initializer[position] for position in skeleton.payloads]
    external = [tensor for tensor in all_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    for tensor in (*cut, *external):
        tensor.dims[:] = [0]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    try:
        checker.check_model(model)
    except Exception as error:  # noqa: BLE001 - the checker raises whatever its C++ meets
        rules.CHECKER.reject(file.name, found=printable(str(error).strip().split("\n")[0]) or type(error).__name__)


def all_tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model: of its graph, of the graphs in its nodes, of its functions."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Any) -> Iterator[Any]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (tensor for tensor in (attribute.t, *attribute.tensors) if tensor.data_type)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (tensor for tensor in (sparse.values, sparse.indices) if tensor.data_type)
        for graph in (attribute.g, *attribute.graphs):
            yield from _in_graph(graph)


def _nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _foreign(model: Any) -> Iterator[Any]:
    own = {function.domain for function in model.functions}
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from (node for node in _nodes(nodes) if node.domain not in _STANDARD and node.domain not in own)


def _foreign_findings(file: ModelFile, foreign: list[str]) -> Iterator[Finding]:
    for domain in sorted({name.partition("::")[0] for name in foreign}):
        names = [name.partition("::")[2] for name in foreign if name.startswith(f"{domain}::")]
        yield rules.FOREIGN.finding(file.name, expected="operators of ai.onnx", found=f"{domain}: {', '.join(names)}")


def _metadata(model: Any, foreign: list[str]) -> dict[str, object]:
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    return {
        "producer": printable(model.producer_name[:200]),
        "ir_version": model.ir_version,
        "opsets": {printable(entry.domain[:200]) or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [_value(value) for value in inputs[:MAX_LISTED]],
        "outputs": [_value(value) for value in model.graph.output[:MAX_LISTED]],
        "foreign_operators": [printable(name[:200]) for name in foreign[:MAX_LISTED]],
    }


def _value(value: Any) -> str:
    """A graph's input or output in words: `input_ids: INT64[batch, 7]`."""
    from onnx import TensorProto

    kind = value.type.tensor_type
    known = kind.elem_type in TensorProto.DataType.values()
    dtype = TensorProto.DataType.Name(kind.elem_type) if known else str(kind.elem_type)
    sizes = (size.dim_param or str(size.dim_value) for size in kind.shape.dim[:MAX_LISTED])
    return printable(f"{value.name[:200]}: {dtype}[{', '.join(sizes)}]"[:500])


def _tensors(file: ModelFile, snapshot: Snapshot, model: Any, skeleton: Skeleton) -> Iterator[TensorInfo]:
    initializers = len(model.graph.initializer)
    for position, tensor in enumerate(all_tensors(model)):
        payload = skeleton.payloads.get(position) if position < initializers else None
        yield _tensor(file, snapshot, tensor, payload)


def _tensor(file: ModelFile, snapshot: Snapshot, tensor: Any, payload: Payload | None) -> TensorInfo:
    from onnx import TensorProto

    name = printable(tensor.name)
    if tensor.data_type not in TensorProto.DataType.values() or any(size < 0 for size in tensor.dims):
        rules.TYPE.reject(file.name, tensor=name, expected="a type and sizes", found=(tensor.data_type, *tensor.dims))
    dtype, shape, size = TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims), _size(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        data, start, length = _external(file, snapshot, tensor)
        _fits(file, name, size, length)
        return TensorInfo(name, dtype, shape, data.name, start, start + length)
    kinds = [key for key in (*_TYPED, "raw_data") if len(getattr(tensor, key))]
    if len(kinds) + bool(payload) > 1 or (prod(shape) and not kinds and not payload):
        found = ", ".join((*kinds, *(["a large payload"] if payload else []))) or "none"
        rules.NO_DATA.reject(file.name, tensor=name, expected=f"{prod(shape)} values", found=found)
    if payload and payload.field == RAW_DATA:
        _fits(file, name, size, payload.end - payload.start)
        return TensorInfo(name, dtype, shape, file.name, payload.start, payload.end)
    if payload and not prod(shape):
        rules.SIZE.reject(file.name, tensor=name, expected="no values", found=f"{payload.end - payload.start} bytes")
    if tensor.raw_data:
        _fits(file, name, size, len(tensor.raw_data))
    return TensorInfo(name, dtype, shape, file.name, 0, 0)


def _fits(file: ModelFile, name: str, size: int | None, length: int) -> None:
    if size is None or length != size:
        expected = "string_data" if size is None else f"{size} bytes"
        rules.SIZE.reject(file.name, tensor=name, expected=expected, found=f"{length} bytes")


def _size(tensor: Any) -> int | None:
    """Bytes of a tensor's raw form; None for strings, which have none."""
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    elements = prod(tensor.dims)
    bits = _PACKED_BITS.get(TensorProto.DataType.Name(tensor.data_type))
    if bits:
        return int(elements * bits + 7) // 8
    return int(elements * tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _external(file: ModelFile, snapshot: Snapshot, tensor: Any) -> tuple[ModelFile, int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name, folder, location = printable(tensor.name), file.name.rpartition("/")[0], entries.get("location", "")
    try:
        path = relative_path(location, file.name)
    except ModelError as error:
        rules.EXTERNAL_PATH.reject(file.name, tensor=name, expected="a path in the model's folder", found=error.what)
    data = snapshot.get(f"{folder}/{path}" if folder else path)
    if not data:
        rules.EXTERNAL_MISSING.reject(file.name, tensor=name, expected=path, found="no such file")
    try:
        start = int(entries.get("offset", 0))
        length = int(entries.get("length", data.size - start))
    except ValueError:
        start = length = -1
    if start < 0 or length < 0 or start + length > data.size:
        found = f"{entries.get('offset', 0)} + {entries.get('length', 'the rest')}"
        rules.EXTERNAL_RANGE.reject(file.name, tensor=name, expected=f"{data.size} bytes of {data.name}", found=found)
    return data, start, length
