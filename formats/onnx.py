"""ONNX: a protobuf with a graph, whose tensors may lie in files beside it.

https://github.com/onnx/onnx/blob/main/docs/IR.md and `docs/ExternalData.md`. The protobuf is the onnx package's.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NoReturn

from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, WeightFile
from registry.errors import ModelError
from registry.names import relative_path

MAX_FILE = 1 << 31
"""Bytes: what a protobuf may hold."""

_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def read(file: ModelFile, snapshot: Snapshot) -> WeightFile:
    """The initializers of an ONNX model, their bytes accounted for; `ModelError` otherwise.

    The file itself is read whole (a protobuf has no table of contents); external data is not.
    """
    model = _parse(file)
    if not model.ir_version or not model.opset_import or not model.graph.node:
        _refuse(file, "it is truncated, or no ONNX model", "ir_version, opset_import and a graph with nodes", "not all")
    tensors = tuple(_tensor(file, snapshot, tensor) for tensor in _initializers(model))
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return WeightFile(tensors, {"producer": model.producer_name, "ir_version": model.ir_version, "opsets": opsets})


def _parse(file: ModelFile) -> Any:
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if file.size > MAX_FILE:
        _refuse(file, "it is larger than a protobuf can be", f"at most {MAX_FILE} bytes", f"{file.size} bytes")
    model = ModelProto()
    try:
        with file.open() as stream:
            model.ParseFromString(stream.read())
    except DecodeError as error:
        _refuse(file, f"it is truncated, or no ONNX model ({error})", "a protobuf of an ONNX model", "none")
    return model


def _initializers(model: Any) -> Iterator[Any]:
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


def _tensor(file: ModelFile, snapshot: Snapshot, tensor: Any) -> TensorInfo:
    from onnx import TensorProto

    if tensor.data_type not in TensorProto.DataType.values() or any(size < 0 for size in tensor.dims):
        _refuse(file, f"tensor {tensor.name!r} has an unknown type or a negative size", "a type", tensor.data_type)
    dtype, shape, size = TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims), _size(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        data, start, length = _external(file, snapshot, tensor)
        if size is not None and length != size:
            _refuse(
                file, f"the bytes of tensor {tensor.name!r} do not fit its shape", f"{size} bytes", f"{length} bytes"
            )
        return TensorInfo(tensor.name, dtype, shape, data.name, start, start + length)
    if tensor.raw_data and size is not None and len(tensor.raw_data) != size:
        found = f"{len(tensor.raw_data)} bytes"
        _refuse(file, f"the bytes of tensor {tensor.name!r} do not fit its shape", f"{size} bytes", found)
    if prod(shape) and not tensor.raw_data and not any(len(getattr(tensor, name)) for name in _TYPED):
        _refuse(file, f"tensor {tensor.name!r} has no data", f"{prod(shape)} values", "none")
    return TensorInfo(tensor.name, dtype, shape, file.name, 0, 0)


def _size(tensor: Any) -> int | None:
    """Bytes of a tensor's raw form; None for strings, which have none."""
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    name = TensorProto.DataType.Name(tensor.data_type)
    elements = prod(tensor.dims)
    if name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"):
        return int(elements * (2 if name.endswith("2") else 4) + 7) // 8
    return int(elements * tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _external(file: ModelFile, snapshot: Snapshot, tensor: Any) -> tuple[ModelFile, int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    folder = file.name.rpartition("/")[0]
    location = relative_path(entries.get("location", ""), file.name)
    data = snapshot.get(f"{folder}/{location}" if folder else location)
    if not data:
        raise ModelError(
            f"the file {location!r} with the data of tensor {tensor.name!r} is missing",
            subject=file.name,
            hint="give the folder that holds both files, and let `include` match both",
        )
    try:
        start = int(entries.get("offset", 0))
        length = int(entries.get("length", data.size - start))
    except ValueError:
        _refuse(file, f"tensor {tensor.name!r} has malformed external data", "numbers", entries)
    if start < 0 or length < 0 or start + length > data.size:
        _refuse(file, f"{data.name} is truncated: tensor {tensor.name!r} ends beyond it", start + length, data.size)
    return data, start, length


def _refuse(file: ModelFile, what: str, expected: object, found: object) -> NoReturn:
    hint = "export the model again, and compare its size and digest with those of its source"
    raise ModelError(what, subject=file.name, expected=expected, found=found, hint=hint)
