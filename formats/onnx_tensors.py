"""The tensors of an ONNX model: where each is, and whether its bytes are those of its shape.

https://github.com/onnx/onnx/blob/main/docs/IR.md and `docs/ExternalData.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any, NoReturn

from formats.findings import Finding, Rule
from formats.onnx_wire import RAW_DATA, Path, Payload
from formats.rules import onnx as rules
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo
from formats.text import printable
from registry.errors import ModelError
from registry.names import RelativePath, relative_path

MAX_TEXT = 300
"""Characters of a name that are kept."""

MAX_RANK = 64
"""Dimensions of a tensor; the product of a million of them takes hours."""

MAX_FINDINGS = 100
"""Findings about the external data of one model."""

LARGEST = (1 << 63) - 1
"""Elements that a tensor's sizes may come to: the checker computes with 64 bits and a sign."""

_FIELDS = {4: "float_data", 5: "int32_data", 6: "string_data", 7: "int64_data", 10: "double_data", 11: "uint64_data"}
"""The fields of a TensorProto that hold values one by one."""

_WIDTHS = {4: 4, 10: 8}
"""Bytes of a value in the fields that hold fixed ones; the others hold varints."""

_SMALL = {
    **dict.fromkeys(("INT2", "UINT2"), (2, 16)),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), (4, 8)),
    **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), (6, 1)),
}
"""Types of less than a byte: the bits of an element, and elements in a value of int32_data."""

_CHUNK = 1 << 20
_NOT_LAST = bytes(range(0x80, 0x100))
"""Bytes of a varint that are not its last."""


def text(value: str | bytes) -> str:
    """A text of a protobuf, shortened and safe to print."""
    return printable(_decoded(value[:MAX_TEXT]))


def _decoded(value: str | bytes) -> str:
    """A text as the protobuf library gives it: bytes, where it is no UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def located_tensors(model: Any) -> Iterator[tuple[Path, Any]]:
    """Every tensor with its place: of the graph, first its initializers, of functions, of training graphs.

    Those of sparse tensors have no place: they are never left out of an outline.
    """
    yield from _in_graph(model.graph, (7, 0))
    for at, function in enumerate(model.functions):
        yield from _in_nodes(function.node, (25, at), 7)
        for place, attribute in enumerate(function.attribute_proto):
            yield from _in_attribute(attribute, (25, at, 11, place))
    for at, training in enumerate(model.training_info):
        yield from _in_graph(training.initialization, (20, at, 1, 0))
        yield from _in_graph(training.algorithm, (20, at, 2, 0))


def all_tensors(model: Any) -> Iterator[Any]:
    """The same tensors without their places."""
    return (tensor for _, tensor in located_tensors(model))


def _in_graph(graph: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    for at, tensor in enumerate(graph.initializer):
        yield (*path, 5, at), tensor
    yield from (((), tensor) for sparse in graph.sparse_initializer for tensor in (sparse.values, sparse.indices))
    yield from _in_nodes(graph.node, path, 1)


def _in_nodes(nodes: Any, path: Path, field: int) -> Iterator[tuple[Path, Any]]:
    for at, node in enumerate(nodes):
        for place, attribute in enumerate(node.attribute):
            yield from _in_attribute(attribute, (*path, field, at, 5, place))


def _in_attribute(attribute: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if attribute.HasField("t"):
        yield (*path, 5, 0), attribute.t
    if attribute.HasField("g"):
        yield from _in_graph(attribute.g, (*path, 6, 0))
    if attribute.HasField("sparse_tensor"):
        yield from (((), tensor) for tensor in (attribute.sparse_tensor.values, attribute.sparse_tensor.indices))
    for at, tensor in enumerate(attribute.tensors):
        yield (*path, 10, at), tensor
    for at, graph in enumerate(attribute.graphs):
        yield from _in_graph(graph, (*path, 11, at))
    yield from (((), tensor) for sparse in attribute.sparse_tensors for tensor in (sparse.values, sparse.indices))


def raw_size(dtype: str, elements: int) -> int | None:
    """Bytes of so many elements in the raw form of a type, by its name; None if it has none."""
    bits = next((bits for name, bits, _ in _types().values() if name == dtype), 0)
    return -(-bits * elements // 8) if bits else None


class TensorReader:
    """Makes tensors of their protobufs, and leaves of these what a checker needs. `payloads` are those of the file."""

    def __init__(self, file: ModelFile, snapshot: Snapshot, payloads: Mapping[Path, Payload]) -> None:
        self._file, self._snapshot, self._payloads = file, snapshot, dict(payloads)
        self.findings: list[Finding] = []
        """Of external data that is missing or too short, with which the reading goes on; at most `MAX_FINDINGS`."""

    def read(self, model: Any) -> Iterator[TensorInfo]:
        """The tensors of a model, their bytes accounted for or in `findings`; `RejectedError` otherwise.

        Afterwards a tensor whose values are not in the protobuf is an empty one there, or has a single value, so that
        a checker finds nothing that was not asked here.
        """
        for path, tensor in located_tensors(model):
            yield self._tensor(path, tensor, self._payloads.pop(path, None))
        for payload in self._payloads.values():
            rules.NO_DATA.reject(self._file.name, expected="one tensor", found=f"a second one by byte {payload.start}")

    def _tensor(self, path: Path, tensor: Any, payload: Payload | None) -> TensorInfo:
        from onnx import TensorProto

        if isinstance(tensor.name, bytes):
            self._reject(rules.PROTOBUF, tensor, "the name of a tensor in UTF-8", text(tensor.name))
        shape, elements = self._shape(tensor)
        is_external = tensor.data_location == TensorProto.EXTERNAL
        kinds = [key for key in (*_FIELDS.values(), "raw_data") if len(getattr(tensor, key))]
        kinds += ["a large payload"] * bool(payload) + ["external data"] * is_external
        if len(kinds) > 1 or bool(kinds) < bool(elements) or (payload and not elements):
            self._reject(rules.NO_DATA, tensor, f"{elements} values", ", ".join(kinds) or "none")
        file, start, end = self._file.name, 0, len(tensor.raw_data)
        if is_external:
            file, start, end = self._external(path, tensor)
            if end < 0:
                tensor.dims[:] = [0]
                return TensorInfo(text(tensor.name), _types()[tensor.data_type][0], shape, file, 0, 0)
        elif payload and payload.field == RAW_DATA:
            start, end = payload.start, payload.end
        elif payload:
            self._count(tensor, elements, payload)
        dtype, bits, _ = _types()[tensor.data_type]
        if is_external or end:
            self._fits(tensor, -(-bits * elements // 8) if bits else None, end - start)
        if file == self._file.name and not start:
            return TensorInfo(text(tensor.name), dtype, shape, file, 0, 0)
        tensor.dims[:] = [0]
        return TensorInfo(text(tensor.name), dtype, shape, file, start, end)

    def _shape(self, tensor: Any) -> tuple[tuple[int, ...], int]:
        """The sizes of a tensor, and their product, both within bounds, as is its type."""
        shape = tuple(tensor.dims)
        if tensor.data_type not in _types() or len(shape) > MAX_RANK or min(shape, default=0) < 0:
            found = f"type {tensor.data_type}, sizes {list(shape[:MAX_RANK])}"
            self._reject(rules.TYPE, tensor, f"a known type, at most {MAX_RANK} sizes, none below 0", found)
        if max(accumulate(shape, mul), default=0) > LARGEST:
            self._reject(rules.SIZE, tensor, "sizes whose product is below 2**63", list(shape))
        return shape, prod(shape)

    def _fits(self, tensor: Any, size: int | None, length: int) -> None:
        if size is None or length != size:
            expected = "string_data" if size is None else f"{size} bytes"
            self._reject(rules.SIZE, tensor, expected, f"{length} bytes")

    def _count(self, tensor: Any, elements: int, payload: Payload) -> None:
        """Whether a payload of single values has enough of them; the protobuf gets one of them, for the checker."""
        _, _, packed = _types()[tensor.data_type]
        wanted = -(-elements // packed) if packed else 2 * elements
        width = _WIDTHS.get(payload.field)
        there = (payload.end - payload.start) // width if width else self._varints(payload)
        if there < wanted:
            self._reject(rules.SIZE, tensor, f"{wanted} values", f"{there} values in {_FIELDS[payload.field]}")
        tensor.dims[:] = [1]
        getattr(tensor, _FIELDS[payload.field]).extend([0, 0])

    def _varints(self, payload: Payload) -> int:
        count, left = 0, payload.end - payload.start
        with self._file.open() as stream:
            stream.seek(payload.start)
            while left and (piece := stream.read(min(left, _CHUNK))):
                count += len(piece.translate(None, _NOT_LAST))
                left -= len(piece)
        return count

    def _external(self, path: Path, tensor: Any) -> tuple[RelativePath, int, int]:
        """The file with the tensor's values, and where they begin and end in it; an end below 0 if it lacks them."""
        if not path:
            self._reject(rules.EXTERNAL_PATH, tensor, "values of a sparse tensor in the model itself", "external data")
        entries = [(_decoded(entry.key), _decoded(entry.value)) for entry in tensor.external_data]
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        locations = [value for key, value in entries if key == "location"]
        if len(locations) != 1:
            found = " and ".join(map(repr, locations)) or "none"
            self._reject(rules.EXTERNAL_PATH, tensor, "one location", f"{len(locations)} locations: {found}")
        data = self._beside(tensor, locations[0])
        if not data:
            return self._file.name, 0, -1
        given = dict(entries)
        try:
            start = int(given.get("offset", 0))
            length = int(given.get("length", data.size - start))
        except ValueError:
            start = length = -1
        if start < 0 or length < 0 or start + length > data.size:
            wanted = f"{given.get('offset', 0)} + {given.get('length', 'the rest')}"
            self._note(rules.EXTERNAL_RANGE, tensor, f"{wanted} bytes in {data.name}", f"{data.size} bytes")
            return data.name, 0, -1
        return data.name, start, start + length

    def _beside(self, tensor: Any, location: str) -> ModelFile | None:
        """The file at a path from the model's folder, if it is there."""
        try:
            path = relative_path("/".join(part for part in location.split("/") if part != "."), self._file.name)
        except ModelError as error:
            self._reject(
                rules.EXTERNAL_PATH,
                tensor,
                "a path in the model's folder",
                f"{location!r}: {error.what.partition(': ')[2]}",
            )
        if ".." in path:
            self._reject(rules.EXTERNAL_PATH, tensor, "a path without two dots in a row", path)
        data = self._snapshot.get(self._file.folder + path)
        if not data:
            self._note(rules.EXTERNAL_MISSING, tensor, path, "no such file")
        return data

    def _note(self, rule: Rule, tensor: Any, expected: str, found: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(
                rule.finding(self._file.name, tensor=text(tensor.name), expected=expected, found=found)
            )

    def _reject(self, rule: Rule, tensor: Any, expected: object, found: object) -> NoReturn:
        rule.reject(self._file.name, tensor=text(tensor.name), expected=expected, found=found)


@cache
def _types() -> dict[int, tuple[str, int, int]]:
    """Number of a data type to its name, the bits of an element, and elements in a value of its typed field.

    0 bits: it has no raw form; 0 elements: it takes two values.
    """
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    types = {TensorProto.UNDEFINED: ("UNDEFINED", 0, 1), TensorProto.STRING: ("STRING", 0, 1)}
    for name, number in TensorProto.DataType.items():
        if number not in types:
            bits = 8 * tensor_dtype_to_np_dtype(number).itemsize
            types[number] = (name, *_SMALL.get(name, (bits, 0 if name.startswith("COMPLEX") else 1)))
    return types
