"""ONNX models with their weights beside them and inside again: what the onnx package and ONNX Runtime see stays."""

from __future__ import annotations

import shutil
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, checker, helper, numpy_helper

from formats.examine import examine
from formats.onnx_fill import fill
from formats.onnx_split import PAGE, regroup_onnx
from formats.onnx_wire import SMALL, read_skeleton
from formats.snapshot import ModelFile
from formats.tensors import Regrouped
from packer.sources import parse_source
from registry.blob import BytesBlob
from registry.descriptor import OCTETS
from registry.join import JoinedBlob, Region
from registry.names import relative_path
from tests.parts.models import CACHE

REAL: dict[str, dict[str, tuple[int, ...]]] = {
    "silero-vad/silero_vad_16k_op15.onnx": {"input": (1, 576), "state": (2, 1, 128)},
    "silero-vad/silero_vad_half.onnx": {"input": (1, 576), "state": (2, 1, 128)},
    "magika/model.onnx": {"bytes": (2, 2048)},
    "rapidocr/PP-OCRv6_det_small.onnx": {"x": (1, 3, 64, 64)},
}
"""Models with weights in initializers, and the shapes of their inputs."""

PACKAGED = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("model.onnx"))


def regroup(folder: Path, max_size: int | None) -> list[Regrouped]:
    report = examine(parse_source(str(folder)).fetch())
    assert report.ok, report.findings
    return list(regroup_onnx(report.read, report.snapshot, max_size))


def change(folder: Path, max_size: int | None, target: Path) -> list[str]:
    """Regroup the only model of a folder into another folder; the names in the order in which they came."""
    (made,) = regroup(folder, max_size)
    assert made.replaced == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    write(made.files, target)
    return [file.name for file in made.files]


def write(files: Iterable[ModelFile], folder: Path) -> None:
    for file in files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with file.open() as source, path.open("xb") as target:
            shutil.copyfileobj(source, target)
        assert path.stat().st_size == file.size


def seen(path: Path) -> ModelProto:
    """The model as onnx loads it, with floats as raw data; where the values were is not part of it."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.float_data or tensor.double_data:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        tensor.ClearField("data_location")
    return model


def run(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    types = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(double)": np.float64}
    feed = {
        each.name: (
            (random.random(shapes[each.name]) * 100).astype(types[each.type])
            if each.name in shapes
            else np.array(16000, np.int64)
        )
        for each in session.get_inputs()
    }
    return [np.asarray(output) for output in session.run(None, feed)]


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(map(np.array_equal, left, right))


def external_of(path: Path) -> dict[str, tuple[str, int, int]]:
    """Initializer to data file, offset and length."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert list(entries) == ["location", "offset", "length"]
            found[tensor.name] = (entries["location"], int(entries["offset"]), int(entries["length"]))
    return found


@pytest.mark.parametrize("name", REAL)
def test_real_model(tmp_path: Path, name: str) -> None:
    limit = 300_000
    original = CACHE / "real" / name
    shutil.copytree(
        original.parent, tmp_path / "whole", ignore=lambda _, names: [n for n in names if n != original.name]
    )
    names = change(tmp_path / "whole", limit, tmp_path / "split")
    split, stem = tmp_path / "split" / original.name, original.name.removesuffix(".onnx")
    assert names == [f"{stem}.onnx_data", *(f"{stem}.onnx_data_{n}" for n in range(1, len(names) - 1)), original.name]
    assert len(names) > 4
    external = external_of(split)
    for data in names[:-1]:
        inside = [offset for location, offset, _ in external.values() if location == data]
        assert (tmp_path / "split" / data).stat().st_size <= limit or len(inside) == 1
        assert all(offset % PAGE == 0 for offset in inside)
    checker.check_model(split)
    assert seen(split) == onnx.load(original)

    assert change(tmp_path / "split", None, tmp_path / "merged") == [original.name]
    merged = tmp_path / "merged" / original.name
    assert merged.read_bytes() == original.read_bytes()
    expected = run(original, REAL[name])
    assert all(np.isfinite(output).all() for output in expected)
    assert same(expected, run(split, REAL[name]))


def test_models_of_the_onnx_package(tmp_path: Path) -> None:
    moved = 0
    for number, original in enumerate(PACKAGED):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(original, folder)
        report = examine(parse_source(str(folder)).fetch())
        if not report.ok:
            continue
        for made in regroup_onnx(report.read, report.snapshot, 1):
            moved += 1
            write(made.files, folder / "split")
            assert seen(folder / "split/model.onnx") == seen(original)
            change(folder / "split", None, folder / "merged")
            assert seen(folder / "merged/model.onnx") == seen(original)
    assert moved >= 3


def model_of(*tensors: TensorProto, nodes: Iterable[Any] = (), **more: Any) -> ModelProto:
    """A model with these initializers, each of which is an output."""
    outputs = [helper.make_tensor_value_info(f"{each.name}_out", each.data_type, each.dims) for each in tensors]
    identities = [helper.make_node("Identity", [each.name], [f"{each.name}_out"]) for each in tensors]
    graph = helper.make_graph([*nodes, *identities], "g", [], outputs, list(tensors))
    opsets = [helper.make_opsetid("", 21), *more.pop("opsets", ())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)


def raw(name: str, *shape: int, dtype: Any = np.float32) -> TensorProto:
    values = np.arange(np.prod(shape, dtype=int)) % 120
    return numpy_helper.from_array(values.astype(dtype).reshape(shape), name)


def typed(name: str, kind: int, count: int) -> TensorProto:
    """A tensor whose values are numbers in a field of their own."""
    values = np.arange(count) % 100
    return helper.make_tensor(name, kind, [count], values.astype(helper.tensor_dtype_to_np_dtype(kind)))


def save(model: ModelProto, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, path, **options)
    return path.parent


@pytest.mark.parametrize(
    ("kind", "is_moved"),
    [
        (TensorProto.FLOAT, True),
        (TensorProto.DOUBLE, True),
        (TensorProto.COMPLEX64, True),
        (TensorProto.COMPLEX128, True),
        (TensorProto.INT64, False),
        (TensorProto.INT8, False),
        (TensorProto.FLOAT16, False),
        (TensorProto.UINT64, False),
    ],
)
def test_typed_data(tmp_path: Path, kind: int, is_moved: bool) -> None:
    model = model_of(typed("w", kind, 2000), raw("r", 500))
    assert not model.graph.initializer[0].raw_data
    folder = save(model, tmp_path / "whole" / "m.onnx")
    change(folder, 100, tmp_path / "split")
    assert list(external_of(tmp_path / "split/m.onnx")) == (["w", "r"] if is_moved else ["r"])
    change(tmp_path / "split", None, tmp_path / "merged")
    for path in (tmp_path / "split/m.onnx", tmp_path / "merged/m.onnx"):
        checker.check_model(path)
        assert seen(path) == seen(folder / "m.onnx")
        if kind in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64):
            assert same(run(path, {}), run(folder / "m.onnx", {}))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.bool_])
def test_raw_data_of_every_width(tmp_path: Path, dtype: Any) -> None:
    folder = save(model_of(raw("w", 60, 101, dtype=dtype)), tmp_path / "whole" / "m.onnx")
    change(folder, 100, tmp_path / "split")
    assert external_of(tmp_path / "split/m.onnx").keys() == {"w"}
    (tensor,) = onnx.load(tmp_path / "split/m.onnx").graph.initializer
    expected = onnx.load(folder / "m.onnx").graph.initializer[0]
    assert (tensor.raw_data, tensor.dims, tensor.data_type) == (expected.raw_data, expected.dims, expected.data_type)
    change(tmp_path / "split", None, tmp_path / "merged")
    assert (tmp_path / "merged/m.onnx").read_bytes() == (folder / "m.onnx").read_bytes()


def test_files_are_filled_in_order(tmp_path: Path) -> None:
    """Sizes in floats: three fit with their padding, the large one is alone, the small one stays."""
    sizes = {"a": 1000, "b": 1000, "c": 1024, "d": 300, "large": 9000, "e": 300, "small": 64}
    folder = save(model_of(*(raw(name, size) for name, size in sizes.items())), tmp_path / "whole/m.onnx")
    limit = 2 * PAGE + 4096
    change(folder, limit, tmp_path / "split")
    assert external_of(tmp_path / "split/m.onnx") == {
        "a": ("m.onnx_data", 0, 4000),
        "b": ("m.onnx_data", PAGE, 4000),
        "c": ("m.onnx_data", 2 * PAGE, 4096),
        "d": ("m.onnx_data_1", 0, 1200),
        "large": ("m.onnx_data_2", 0, 36000),
        "e": ("m.onnx_data_3", 0, 1200),
    }
    change(folder, limit - 1, tmp_path / "smaller")
    assert external_of(tmp_path / "smaller/m.onnx")["c"] == ("m.onnx_data_1", 0, 4096)
    assert (tmp_path / "split/m.onnx_data").read_bytes()[4000:PAGE] == bytes(96)


@pytest.mark.parametrize("one_file", [True, False])
@pytest.mark.parametrize("threshold", [0, 1024])
def test_external_data_of_the_onnx_package(tmp_path: Path, one_file: bool, threshold: int) -> None:
    def model() -> ModelProto:
        return model_of(raw("a", 1000), raw("b", 2000, dtype=np.int8), raw("tiny", 3), raw("none", 0))

    whole = save(model(), tmp_path / "whole/m.onnx")
    options = {"save_as_external_data": True, "all_tensors_to_one_file": one_file, "size_threshold": threshold}
    folder = save(model(), tmp_path / "theirs/m.onnx", location="weights.bin" if one_file else None, **options)
    assert len(list(folder.iterdir())) == (2 if one_file else 5 if threshold == 0 else 3)
    (made,) = regroup(folder, 1 << 30)
    write(made.files, tmp_path / "ours")
    assert [file.name for file in made.files] == ["m.onnx_data", "m.onnx"]
    assert made.replaced == {path.name for path in folder.iterdir()}
    assert list(external_of(tmp_path / "ours/m.onnx")) == ["a", "b", *(["tiny"] if threshold == 0 else [])]
    assert seen(tmp_path / "ours/m.onnx") == seen(whole / "m.onnx")
    assert same(run(tmp_path / "ours/m.onnx", {}), run(whole / "m.onnx", {}))
    for name in ("theirs", "ours"):
        assert change(tmp_path / name, None, tmp_path / f"{name}-merged") == ["m.onnx"]
        assert (tmp_path / f"{name}-merged/m.onnx").read_bytes() == (whole / "m.onnx").read_bytes()


def test_a_model_that_needs_no_change(tmp_path: Path) -> None:
    folder = save(model_of(raw("a", 1000)), tmp_path / "whole" / "m.onnx")
    size = (folder / "m.onnx").stat().st_size
    assert regroup(folder, None) == regroup(folder, size) == []
    assert regroup(folder, size - 1)
    save(model_of(raw("a", SMALL // 4)), tmp_path / "small" / "m.onnx")
    assert regroup(tmp_path / "small", 1) == []


def test_models_in_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("m.onnx", "onnx/m.onnx", "onnx/other.ONNX")):
        save(model_of(raw("a", 1000 + number)), tmp_path / "whole" / name)
    made = regroup(tmp_path / "whole", 100)
    assert [[file.name for file in each.files] for each in made] == [
        ["m.onnx_data", "m.onnx"],
        ["onnx/m.onnx_data", "onnx/m.onnx"],
        ["onnx/other.onnx_data", "onnx/other.ONNX"],
    ]
    for each in made:
        write(each.files, tmp_path / "split")
    for name in ("m.onnx", "onnx/m.onnx", "onnx/other.ONNX"):
        assert seen(tmp_path / "split" / name) == seen(tmp_path / "whole" / name)


def outside(tensor: TensorProto, folder: Path, location: str = "shared.bin", offset: int = 0) -> TensorProto:
    """The tensor with its values in a file that may hold those of others, and a checksum."""
    path = folder / location
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.read_bytes() if path.exists() else b""
    path.write_bytes(data[:offset].ljust(offset, b"\xff") + tensor.raw_data + data[offset + len(tensor.raw_data) :])
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length), ("checksum", "0" * 40)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_tensors_that_share_their_values(tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    tensors = [outside(raw("a", 1000), folder, offset=12), outside(raw("b", 100), folder, offset=9000)]
    tensors.append(outside(raw("tied", 1000), folder, offset=12))
    save(model_of(*tensors), folder / "m.onnx")
    change(folder, 1 << 20, tmp_path / "ours")
    assert external_of(tmp_path / "ours/m.onnx") == {
        "a": ("m.onnx_data", 0, 4000),
        "b": ("m.onnx_data", PAGE, 400),
        "tied": ("m.onnx_data", 0, 4000),
    }
    assert seen(tmp_path / "ours/m.onnx") == seen(folder / "m.onnx")
    change(tmp_path / "ours", None, tmp_path / "merged")
    assert seen(tmp_path / "merged/m.onnx") == seen(folder / "m.onnx")


def elsewhere(folder: Path) -> ModelProto:
    """A model with external tensors in a node, in a graph in a node, and in a function."""
    constant = helper.make_node("Constant", [], ["k"], value=outside(raw("node", 700), folder, "node.bin"))
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["branch_out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, [800])],
        [outside(raw("inner", 800), folder, "inner.bin")],
    )
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    choice = helper.make_node("If", ["c"], ["chosen"], then_branch=branch, else_branch=branch)
    body = [helper.make_node("Constant", [], ["f"], value=outside(raw("deep", 900), folder, "deep.bin"))]
    function = helper.make_function("own", "F", [], ["f"], body, [helper.make_opsetid("", 21)])
    call = helper.make_node("F", [], ["called"], domain="own")
    opsets = [helper.make_opsetid("own", 1)]
    weight = raw("w", 1000)
    return model_of(weight, nodes=[constant, condition, choice, call], functions=[function], opsets=opsets)


def everything(model: ModelProto) -> dict[str, bytes]:
    """Every tensor's values by name."""
    found: dict[str, bytes] = {}

    def visit(nodes: Iterable[Any]) -> None:
        for attribute in (attribute for node in nodes for attribute in node.attribute):
            if attribute.type == AttributeProto.TENSOR:
                found[attribute.t.name] = attribute.t.raw_data
            elif attribute.type == AttributeProto.GRAPH:
                found.update({tensor.name: tensor.raw_data for tensor in attribute.g.initializer})
                visit(attribute.g.node)

    visit(model.graph.node)
    for function in model.functions:
        visit(function.node)
    return found | {tensor.name: tensor.raw_data for tensor in model.graph.initializer}


def test_external_tensors_elsewhere_move_along(tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    save(elsewhere(folder), folder / "m.onnx")
    expected = everything(onnx.load(folder / "m.onnx"))
    assert [len(expected[name]) for name in ("node", "inner", "deep", "w")] == [2800, 3200, 3600, 4000]
    change(folder, 2 * PAGE, tmp_path / "split")
    assert sorted(path.name for path in (tmp_path / "split").iterdir()) == ["m.onnx", "m.onnx_data", "m.onnx_data_1"]
    assert change(tmp_path / "split", None, tmp_path / "merged") == ["m.onnx_data", "m.onnx"]
    assert external_of(tmp_path / "merged/m.onnx") == {}
    for name in ("split", "merged"):
        checker.check_model(tmp_path / name / "m.onnx")
        assert everything(onnx.load(tmp_path / name / "m.onnx")) == expected


def test_data_in_the_file_of_another_format_stays(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = tmp_path / "whole"
    folder.mkdir()
    save_file({"a": np.ones(1000, np.float32)}, folder / "model.safetensors")
    before = (folder / "model.safetensors").read_bytes()
    tensor = outside(raw("a", 1000), tmp_path / "scratch", "model.safetensors", len(before) - 4000)
    save(model_of(tensor), folder / "m.onnx")
    (made,) = regroup(folder, None)
    assert made.replaced == {"m.onnx"}
    write(made.files, tmp_path / "merged")
    assert numpy_helper.to_array(onnx.load(tmp_path / "merged/m.onnx").graph.initializer[0]).tolist() == [1.0] * 1000


def sparse(folder: Path, count: int, gigabytes: int) -> None:
    """A model whose data file is all holes."""
    size = gigabytes << 30
    tensors = []
    for number in range(count):
        tensor = TensorProto(name=f"t{number}", data_type=TensorProto.INT8, dims=[size])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "sparse.bin"), ("offset", number * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    save(model_of(*tensors, raw("small", 1000)), folder / "m.onnx")
    with (folder / "sparse.bin").open("wb") as stream:
        stream.truncate(count * size)


def test_more_than_a_protobuf_holds(tmp_path: Path) -> None:
    sparse(tmp_path, 2, 1)
    tracemalloc.start()
    started = time.monotonic()
    (made,) = regroup(tmp_path, None)
    (divided,) = regroup(tmp_path, 1 << 30)
    elapsed, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [file.name for file in made.files] == ["m.onnx_data", "m.onnx"]
    assert made.files[0].size == (2 << 30) + 4000
    assert [file.size for file in divided.files[:-1]] == [1 << 30, 1 << 30, 4000]
    assert made.files[1].size < 1000
    assert elapsed < 2
    assert peak < 20_000_000


def test_just_what_a_protobuf_holds(tmp_path: Path) -> None:
    sparse(tmp_path, 1, 1)
    (made,) = regroup(tmp_path, None)
    assert [(file.name, file.size > 1 << 30) for file in made.files] == [("m.onnx", True)]


tensors = st.builds(
    lambda make, size, extra: make(size, extra),
    st.sampled_from(
        [
            lambda size, extra: TensorProto(name="t" * extra, data_type=3, dims=[size], raw_data=bytes(size)),
            lambda size, extra: TensorProto(name="t" * extra, data_type=1, dims=[size], float_data=[0.5] * size),
            lambda size, extra: TensorProto(name="t" * extra, data_type=7, dims=[size], int64_data=[-1] * size),
            lambda size, extra: TensorProto(data_type=13, uint64_data=[1] * size, doc_string="d" * extra),
            lambda size, extra: TensorProto(data_type=11, double_data=[1] * size, name="n" * extra),
            lambda size, extra: TensorProto(data_type=8, string_data=[b"x" * size, b""]),
        ]
    ),
    st.integers(0, 3000),
    st.integers(0, 200),
)


@given(st.lists(tensors, max_size=5), st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_fill_is_the_way_back(initializers: list[TensorProto], text: int) -> None:
    model = model_of(doc_string="d" * text)
    model.graph.initializer.extend(initializers)
    data = model.SerializeToString(deterministic=True)
    file = ModelFile(relative_path("m.onnx", ""), len(data), BytesBlob.of(OCTETS, data))
    skeleton = read_skeleton(file)
    regions = {
        position: (payload.field, Region(file.blob, payload.start, payload.end - payload.start))
        for position, payload in skeleton.payloads.items()
    }
    with JoinedBlob.of(fill(skeleton.data, regions)).open() as stream:
        assert stream.read() == data
    assert len(skeleton.data) < len(data) or not regions
