"""ONNX: models that are right, real ones among them, and messages that are wrong."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from formats.onnx_tensors import all_tensors
from fuzz.blind import mutate as mutate_bytes
from fuzz.blind import mutate_content
from fuzz.mutant import Content, Mutant, Seed
from fuzz.wire import mutate_message
from tests.parts.models import CACHE

FILE = "model.onnx"
DATA = "model.onnx_data"
_SMALL_REAL = 40_000
"""Bytes of a model of the onnx package's own tests that is taken often."""


def seeds() -> list[Seed]:
    """Models made here, with everything that holds a tensor; models of the onnx package's tests; large real ones."""
    made = {"add": _add(), "types": _types(), "subgraph": _subgraph(), "function": _function(), "sparse": _sparse()}
    seeds = [Seed(name, {FILE: Content(model.SerializeToString())}, 3.0) for name, model in made.items()]
    external = {FILE: Content(_external().SerializeToString()), DATA: Content(b"", 4096)}
    tests = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx"))
    small = [path for path in tests if path.stat().st_size < _SMALL_REAL]
    real = sorted((CACHE / "real").rglob("*.onnx"))
    return [
        *seeds,
        Seed("external", external, 8.0),
        *(Seed(path.parent.name + "/" + path.name, {FILE: Content(path.read_bytes())}, 0.1) for path in small),
        *(Seed(path.name, {FILE: Content(path.read_bytes())}, 0.1) for path in real if path.stat().st_size < 4 << 20),
    ]


def model(nodes: list[Any], weights: list[Any], **parts: Any) -> Any:
    """A model of `x` and `y`, with these nodes and initializers."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    sparse = parts.pop("sparse", None)
    graph = helper.make_graph(nodes, "g", [value], [result], weights, sparse_initializer=sparse)
    imports = [helper.make_opsetid("", 19), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, **parts)


def weight(name: str = "w", size: int = 4) -> Any:
    """A raw initializer of zeros."""
    return helper.make_tensor(name, TensorProto.FLOAT, [size], bytes(4 * size), raw=True)


def _add() -> Any:
    """Weights of each length that the wire format's reader treats in its own way."""
    nodes = [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "t"], ["y"])]
    typed = helper.make_tensor("t", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    return model(nodes, [weight(), typed, weight("large", 512), helper.make_tensor("n", 1, [400], [0.5] * 400)])


def _types() -> Any:
    """A raw and a typed initializer of every type."""
    weights = []
    for name, kind in TensorProto.DataType.items():
        if name in ("UNDEFINED", "STRING"):
            continue
        weights.append(helper.make_tensor(name, kind, [4], [0, 1, 1, 0]))
        if not name.startswith(("COMPLEX", "FLOAT6")):
            bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.get(name)
            size = bits // 2 if bits else helper.tensor_dtype_to_np_dtype(kind).itemsize * 4
            weights.append(helper.make_tensor(f"raw {name}", kind, [4], bytes(size), raw=True))
    weights.append(helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"b"]))
    weights.append(helper.make_tensor("none", TensorProto.FLOAT, [0, 3], []))
    return model([helper.make_node("Identity", ["x"], ["y"])], weights)


def _subgraph() -> Any:
    """Constants, and weights in the branches of an If."""
    branches = {}
    for name in ("then_branch", "else_branch"):
        result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [4])
        nodes = [helper.make_node("Add", ["x", f"w_{name}"], ["r"])]
        branches[name] = helper.make_graph(nodes, name, [], [result], [weight(f"w_{name}")])
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [1])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=condition),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    return model(nodes, [weight()])


def _function() -> Any:
    """A function of the model's own, which holds a tensor."""
    body = [helper.make_node("Constant", [], ["c"], value=weight("k")), helper.make_node("Add", ["v", "c"], ["s"])]
    function = helper.make_function("local", "plus", ["v"], ["s"], body, [helper.make_opsetid("", 19)])
    return model([helper.make_node("plus", ["x"], ["y"], domain="local")], [], functions=[function])


def _sparse() -> Any:
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("", TensorProto.INT64, [2], [1, 3])
    sparse = helper.make_sparse_tensor(values, indices, [4])
    return model([helper.make_node("Add", ["x", "sparse"], ["y"])], [], sparse=[sparse])


def _external() -> Any:
    """Weights in a file beside the model, one of them in a node."""
    inside, outside = weight("k"), weight()
    for at, tensor in enumerate((inside, outside)):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA), ("offset", str(1024 * at)), ("length", "16")):
            tensor.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=inside),
        helper.make_node("Add", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    return model(nodes, [outside])


def _tensor(rng: Random, data: bytes) -> bytes:
    """The model with one of its tensors changed, its message whole."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return mutate_bytes(rng, data)[0]
    tensors = list(all_tensors(model))
    if not tensors:
        return mutate_message(rng, data, onnx.ModelProto.DESCRIPTOR)[0]
    tensor = rng.choice(tensors)
    match rng.choice(("dims", "dims", "type", "data", "external", "external", "location", "name")):
        case "dims":
            tensor.dims[:] = rng.choice((*_DIMS, [*tensor.dims, 1], [*tensor.dims, 0], list(tensor.dims)[1:]))
        case "type":
            tensor.data_type = rng.choice((*range(30), -1, 1 << 30))
        case "data":
            _exchange(rng, tensor)
        case "location":
            tensor.data_location = 1 - tensor.data_location
        case "name":
            tensor.name = rng.choice(("", "x", "a" * 2000, str(rng.choice(tensors).name)))
        case _:
            _refer(rng, tensor)
    return bytes(model.SerializeToString())


_DIMS: tuple[list[int], ...] = (
    *([], [0], [1], [4], [5], [2, 2], [-1], [-2, -2], [0, -1], [4] + [1] * 70, [1 << 62, 4], [1 << 62, 4, 0]),
    *([0, 1 << 62, 4], [1 << 63 - 1], [1 << 32, 1 << 32, 0], [1 << 60], [8], [16], [512], [511], [513]),
)
_KINDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "raw_data")


def _exchange(rng: Random, tensor: Any) -> None:
    """Other values, more or fewer of them, sometimes besides those that are there."""
    kind = rng.choice(_KINDS)
    if rng.random() < 0.7:
        for each in (*_KINDS, "string_data"):
            tensor.ClearField(each)
    count = rng.choice((0, 1, 2, 3, 4, 5, 8, 16, 400, 2048))
    if kind == "raw_data":
        tensor.raw_data = bytes(count)
    else:
        getattr(tensor, kind)[:] = [rng.randint(0, 200)] * count


def _refer(rng: Random, tensor: Any) -> None:
    """Values in the file beside the model, or somewhere else."""
    if rng.random() < 0.5:
        tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.4:
        for each in _KINDS:
            tensor.ClearField(each)
    if rng.random() < 0.5:
        del tensor.external_data[:]
    for _ in range(rng.choice((1, 1, 2, 3))):
        tensor.external_data.add(**dict(zip(("key", "value"), rng.choice(_ENTRIES), strict=True)))


_ENTRIES = (
    *(("location", value) for value in (DATA, f"./{DATA}", f"x/../{DATA}", f"../{DATA}", "", FILE, f"/{DATA}", "x..y")),
    *(("offset", value) for value in ("0", "1", "16", "4080", "4081", "-1", " 8", "1_6", "0x10", "1e2", "", "9" * 30)),
    *(("length", value) for value in ("0", "1", "16", "17", "-16", "4096", "+16", "\u0661\u0666", "", "9" * 5000)),
    *(("checksum", "x"), ("basepath", ".."), ("", ""), ("location\0", DATA)),
)


def mutate(rng: Random, seed: Seed) -> Mutant:
    """One to three changes: of a tensor, of a field at any depth, of any byte, or of the file with the weights."""
    files, made = dict(seed.files), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if len(files[FILE].head) < _SMALL_REAL and rng.random() < 0.35:
            files[FILE], said = Content(_tensor(rng, files[FILE].head)), "tensor"
        elif rng.random() < 0.8:
            head, said = mutate_message(rng, files[FILE].head, onnx.ModelProto.DESCRIPTOR)
            files[FILE] = Content(head)
        elif DATA in files and rng.random() < 0.7:
            files[DATA], said = Content(b"", rng.choice((0, 1, 15, 16, 1039, 1040, 4095))), "data"
        else:
            files[FILE], said = mutate_content(rng, files[FILE])
        made.append(said)
    return Mutant(files, f"{seed.name}: {', '.join(made)}")
