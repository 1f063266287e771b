"""The files of ONNX models on their way through onnxruntime: read, made ready, written.

https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from formats.onnx_tensors import all_tensors
from recipes.task import settle
from registry.errors import ModelError
from registry.names import relative_path

EXTERNAL = 3 << 29
"""Bytes up to which a model is one file with its weights: a protobuf ends at two GiB, and 1.5 leave room to edit it."""

_OWN_KEYS = frozenset({"onnx.infer", "onnx.quant.pre_process"})
"""What onnxruntime notes for itself among a model's metadata."""

_MIN_EXTERNAL = 1024
"""Bytes of a tensor that goes to the external data."""


@dataclass(frozen=True)
class Source:
    """A model, by its `name` in the model's folder, and the names there of the files with its external data."""

    name: str
    path: Path
    data: tuple[str, ...]
    root: Path

    @classmethod
    def of(cls, root: Path, name: str) -> Source:
        """The model of that name; `ModelError` if it is no ONNX, or names data outside or not there."""
        model = load(root / name, data=False)
        folder = PurePosixPath(name).parent
        places = sorted({place for tensor in all_tensors(model) if (place := location(tensor))})
        data = tuple(relative_path(os.path.normpath(folder / place), name) for place in places)
        for each in data:
            if not (root / each).is_file():
                raise ModelError("external data is missing", subject=name, expected=each)
        return cls(name, root / name, data, root)

    @property
    def is_large(self) -> bool:
        """Whether a protobuf might not hold it."""
        return sum(path.stat().st_size for path in (self.path, *(self.root / each for each in self.data))) > EXTERNAL

    def data_name(self, shared: Mapping[str, int]) -> str:
        """The base name for external data of the result: the source's, if it has one file that is its own."""
        own = [PurePosixPath(each).name for each in self.data if shared[each] == 1]
        return own[0] if len(self.data) == len(own) == 1 else f"{PurePosixPath(self.name).name}.data"


def location(tensor: Any) -> str:
    """The file that holds a tensor's values, as the tensor says; empty if it holds them itself."""
    from onnx import TensorProto

    if tensor.data_location != TensorProto.EXTERNAL:
        return ""
    return next((str(pair.value) for pair in tensor.external_data if pair.key == "location"), "")


def load(path: Path, *, data: bool = True) -> Any:
    """The model in a file, with its external data if there is any and it is wanted; `ModelError` if it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=data)
    except DecodeError as error:
        raise ModelError("this is no ONNX model", subject=path.name, found=str(error)) from error


def stage(source: Source, scratch: Path) -> Path:
    """A copy of the model to work on, in which every node has a name and weights are initializers.

    onnxruntime quantizes initializers alone, while some exporters write every weight as a node Constant. External data
    is copied: onnx refuses links, symbolic and hard, and onnxruntime writes beside a model. It joins a model that is
    not large, since not every step finds it elsewhere.
    """
    model = load(source.path, data=False)
    _name_nodes(model.graph)
    _move_constants(model.graph)
    folder = scratch / "source"
    folder.mkdir()
    path = folder / PurePosixPath(source.name).name
    path.write_bytes(model.SerializeToString())
    base = PurePosixPath(source.name).parent
    for each in source.data:
        copy = folder / os.path.relpath(each, base)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.root / each, copy)
    if source.data and not source.is_large:
        path.write_bytes(load(path).SerializeToString())
    return path


def _name_nodes(graph: Any) -> None:
    """A name for each node that has none, which says its operator and place."""
    taken = {node.name for node in graph.node}
    for at, node in enumerate(graph.node):
        if not node.name:
            name = f"{node.op_type}_{at}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name


def _move_constants(graph: Any) -> None:
    """Make an initializer of each Constant that is a floating-point tensor of two dimensions or more."""
    kept = []
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        tensor = constant(node)
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
            continue
        moved = graph.initializer.add()
        moved.CopyFrom(tensor)
        moved.name = node.output[0]
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def constant(node: Any) -> Any:
    """The floating-point tensor of two dimensions or more in a node Constant; None if it is something else."""
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
        return None
    values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
    return next((tensor for tensor in values if is_weight(tensor)), None)


def is_weight(tensor: Any) -> bool:
    """Whether a tensor may be a weight: floating point, and of two dimensions at least."""
    from onnx import TensorProto

    return len(tensor.dims) > 1 and tensor.data_type in {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
    }


def save(model: Any, source: Source, before: Any, folder: Path, shared: Mapping[str, int]) -> tuple[str, ...]:
    """Write a result with the metadata of the source, and return the names of its files in the model's folder.

    It is one file unless its tensors have more than `EXTERNAL` bytes.
    """
    import onnx

    _restore(model, before)
    folder.mkdir()
    name = PurePosixPath(source.name)
    path = folder / name.name
    if sum(len(tensor.raw_data) for tensor in all_tensors(model)) <= EXTERNAL:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return (source.name,)
    data = source.data_name(shared)
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data,
        size_threshold=_MIN_EXTERNAL, convert_attribute=False,
    )  # fmt: skip
    return source.name, str(name.parent / data)


def _restore(model: Any, before: Any) -> None:
    """Take out what onnxruntime notes for itself, and domains of operators that the graph does not have."""
    known = {pair.key for pair in before.metadata_props}
    kept = [pair for pair in model.metadata_props if pair.key in known or pair.key not in _OWN_KEYS]
    del model.metadata_props[:]
    model.metadata_props.extend(sorted(kept, key=lambda pair: str(pair.key)))
    used = {"", *(entry.domain for entry in before.opset_import), *domains(model.graph)}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    for key in ("doc_string", "domain", "model_version"):
        setattr(model, key, getattr(before, key))


def domains(graph: Any) -> set[str]:
    """The domains of a graph's operators, those of the graphs inside it too."""
    found = {node.domain for node in graph.node}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= domains(inner)
    return found


def publish(made: Path, folder: Path) -> None:
    """Move finished files where they belong: the model, which makes the others part of it, last."""
    for path in sorted(made.iterdir(), key=lambda path: path.suffix.lower() == ".onnx"):
        settle(path, folder / path.name)
