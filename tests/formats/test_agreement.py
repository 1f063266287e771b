"""The readers beside the reference libraries: their tables, what they write, what they refuse, and real files."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy
import onnx
import pytest
import safetensors
import safetensors.numpy
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from formats.document import MAX_CONFIG, read_json
from formats.examine import examine
from formats.findings import RejectedError
from formats.gguf import TYPES
from formats.onnx_tensors import _types, located_tensors
from formats.onnx_wire import ALL_TENSORS, read_outline
from formats.rules import model as rules
from formats.safetensors import BITS
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo
from fuzz.lane import Lane
from fuzz.oracles import ORACLES
from fuzz.safetensors import hollow
from fuzz.subject import snapshot_of
from fuzz.wire import BYTES, join
from registry.blob import FileBlob
from tests.parts import models
from tests.parts.tiny import safetensors_bytes

REAL = models.CACHE / "real"
FEW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
NUMPY = (
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def read(folder: Path, name: str, data: bytes) -> tuple[TensorInfo, ...]:
    """The tensors of a model of one file, which must be accepted."""
    (folder / name).write_bytes(data)
    report = examine(snapshot_of(folder))
    assert report.ok, [finding.to_json() for finding in report.findings]
    return report.tensors


# Tables


def test_dtypes_are_those_of_the_safetensors_library() -> None:
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(safetensors_bytes({"a": {"dtype": "?", "shape": [], "data_offsets": [0, 0]}}, b""))  # type: ignore[no-untyped-call]
    assert set(re.findall(r"`(\w+)`", str(caught.value).partition("expected one of")[2])) == set(BITS)


def test_ggml_types_are_those_of_the_gguf_package() -> None:
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert theirs.items() <= TYPES.items()


def test_onnx_types_are_those_of_the_onnx_package() -> None:
    types = _types()
    assert {number: name for name, number in TensorProto.DataType.items()} == {
        number: name for number, (name, _, _) in types.items()
    }
    for number, (name, bits, _) in types.items():
        if bits:
            tensor = helper.make_tensor("t", number, [8], bytes(bits), raw=True)
            assert len(onnx.numpy_helper.to_array(tensor)) == 8, name
            onnx.checker.check_tensor(tensor)


def test_all_messages_that_hold_tensors_are_known() -> None:
    """Every field of onnx.proto that leads to a tensor; sparse ones are taken whole."""
    names = {"model": "ModelProto", "training": "TrainingInfoProto", "function": "FunctionProto", "graph": "GraphProto"}
    names |= {"node": "NodeProto", "attribute": "AttributeProto", "tensor": "TensorProto"}
    known = {
        names[kind]: {number: names[inner] for number, inner in fields.items()}
        for kind, fields in ALL_TENSORS.items()
        if kind != "tensor"
    }
    theirs: dict[str, dict[int, str]] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        inner = {
            field.number: field.message_type
            for field in message.fields
            if field.message_type and field.message_type.name in known | {"TensorProto": {}}
        }
        theirs[message.name] = {number: kind.name for number, kind in inner.items()}
        waiting += [kind for kind in inner.values() if kind.name not in theirs and kind.name != "TensorProto"]
    assert theirs == known


# What the libraries write


@FEW
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(NUMPY), SHAPES), max_size=8),
    st.dictionaries(NAMES, NAMES, max_size=3),
)
@example({"__metadata__x": ("bool", ())}, {"\u2028": "\0"})
def test_what_the_safetensors_library_writes(
    tmp_path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    tensors.pop("__metadata__", None)
    arrays = {name: numpy.zeros(shape, dtype) for name, (dtype, shape) in tensors.items()}
    data = safetensors.numpy.save(arrays, metadata or None)
    ours = {
        info.name: (info.dtype, info.shape, info.start, info.end) for info in read(tmp_path, "model.safetensors", data)
    }
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    base = 8 + int.from_bytes(data[:8], "little")
    header.pop("__metadata__", None)
    assert ours == {
        name: (entry["dtype"], tuple(entry["shape"]), *(base + offset for offset in entry["data_offsets"]))
        for name, entry in header.items()
    }
    assert ours.keys() == arrays.keys()


VALUES = st.one_of(
    st.booleans(), st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False, width=32), NAMES,
    st.lists(st.integers(0, 9), min_size=1, max_size=80), st.lists(NAMES, min_size=1, max_size=80),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=3),
)  # fmt: skip


@FEW
@given(
    st.dictionaries(
        NAMES,
        st.tuples(
            st.sampled_from(("float32", "float16", "int32")), st.lists(st.integers(1, 5), min_size=1, max_size=4)
        ),
        max_size=5,
    ),
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.sampled_from(list(gguf.GGUFEndian)),
    st.sampled_from((None, 32, 64, 256)),
)
def test_what_the_gguf_writer_writes(
    tmp_path: Path, tensors: dict[str, tuple[str, list[int]]], pairs: dict[str, Any], order: Any, alignment: int | None
) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "any", endianess=order)
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, value in pairs.items():
        add = {bool: writer.add_bool, int: writer.add_int32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(f"any.{key}", value)
    for name, (dtype, shape) in tensors.items():
        writer.add_tensor(name[:30], numpy.zeros(shape, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    theirs = [
        (str(each.name), each.tensor_type.name, tuple(map(int, reversed(each.shape))), int(each.data_offset))
        for each in gguf.GGUFReader(path).tensors
    ]
    ours = read(tmp_path, "model.gguf", path.read_bytes())
    assert [(info.name, info.dtype, info.shape, info.start) for info in ours] == theirs


@FEW
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(set(TensorProto.DataType.values()) - {0, 8})), SHAPES, st.booleans()),
        max_size=8,
    ),
    st.booleans(),
)
def test_what_the_onnx_package_writes(
    tmp_path: Path, tensors: list[tuple[int, tuple[int, ...], bool]], external: bool
) -> None:
    weights = [_weight(f"w{at}", kind, shape, raw) for at, (kind, shape, raw) in enumerate(tensors)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    constants = [
        helper.make_node("Constant", [], [f"c{at}"], value=_weight(f"k{at}", *rest))
        for at, rest in enumerate(tensors[:2])
    ]
    graph = helper.make_graph([*constants, helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    for path in tmp_path.iterdir():
        path.unlink()
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=external, location="data", size_threshold=4)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    ours = read(tmp_path, "model.onnx", (tmp_path / "model.onnx").read_bytes())
    every = [*weights, *(node.attribute[0].t for node in constants)]
    assert [(info.name, info.dtype, info.shape) for info in ours] == [
        (tensor.name, TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims)) for tensor in every
    ]


def _weight(name: str, kind: int, shape: tuple[int, ...], raw: bool) -> Any:
    """A tensor of 0 to 256 zeros, or four times as many where payloads are to be large."""
    shape = (*shape, 4)
    elements = int(numpy.prod(shape))
    bits = _types()[kind][1]
    if raw:
        return helper.make_tensor(name, kind, shape, bytes(-(-bits * elements // 8)), raw=True)
    return helper.make_tensor(name, kind, shape, numpy.zeros(elements, helper.tensor_dtype_to_np_dtype(kind)))


def test_large_payloads_are_left_where_they_are(tmp_path: Path) -> None:
    """Of every type, raw and typed, at every depth; what is left is small, and the checker still sees enough."""
    kinds = sorted(set(TensorProto.DataType.values()) - {0, 8})
    tensors = [_weight(f"w{kind}{raw}", kind, (3000,), raw) for kind in kinds for raw in (False, True)]
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["r"], value=_weight("deep", 1, (999,), True))],
        "i",
        [],
        [helper.make_tensor_value_info("r", 1, [999, 4])],
        [_weight("inner", 1, (777,), False)],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [1])),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
    ]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", 1, [999, 4])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    data = model.SerializeToString()
    ours = read(tmp_path, "model.onnx", data)
    outline = read_outline(ModelFile.of("model.onnx", FileBlob.at(tmp_path / "model.onnx")))
    assert len(outline.data) < 5000 < len(data)
    assert len(outline.payloads) == len(tensors) + 4
    by_path = dict(located_tensors(model))
    for path, payload in outline.payloads.items():
        kept = data[payload.start : payload.end]
        assert kept == by_path[path].raw_data or payload.field != 9
    assert len(ours) == len(tensors) + 5


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_an_outline_and_its_payloads_are_the_model(tmp_path: Path, start: int) -> None:
    """Of mutants too: whatever protobuf reads in a message, it reads in its outline once the payloads are back."""
    with Lane("onnx", 1) as lane:
        whole = [lane.mutant(number).files["model.onnx"].head for number in range(start, start + 100)]
    for data in whole:
        (tmp_path / "model.onnx").write_bytes(data)
        try:
            outline = read_outline(ModelFile.of("model.onnx", FileBlob.at(tmp_path / "model.onnx")))
            model = onnx.ModelProto.FromString(outline.data)
        except (RejectedError, DecodeError):
            continue
        tensors = dict(located_tensors(model))
        for path, payload in outline.payloads.items():
            piece = data[payload.start : payload.end]
            tensors[path].MergeFromString(join([(payload.field, BYTES, piece)]))
        expected = onnx.ModelProto.FromString(data).SerializeToString(deterministic=True)
        assert model.SerializeToString(deterministic=True) == expected


# What the libraries refuse

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(("F32", "U8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("dtype", "shape", "data_offsets", "a", "__metadata__")), inner, max_size=4)
    ),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(("F32", "U8", "F4", "BF16", "x")),
        "shape": st.lists(st.integers(0, 3) | JSON, max_size=3),
        "data_offsets": st.lists(st.integers(0, 9), min_size=2, max_size=2) | JSON,
    },
    optional={"more": JSON},
)


@settings(FEW, max_examples=300)
@given(JSON | st.dictionaries(st.text(max_size=3), ENTRIES | JSON, max_size=3), st.integers(0, 16), st.booleans())
def test_any_json_as_a_header(tmp_path: Path, header: Any, size: int, escaped: bool) -> None:
    text = json.dumps(header, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    if examine(snapshot_of(tmp_path)).ok:
        ORACLES["safetensors"](tmp_path)


PLAIN = st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32)
A = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
HEADERS = {
    "plain": f"{{{A}}}",
    "spaces": ' { "a" : { "dtype" : "U8" , "shape" : [ 1 ] , "data_offsets" : [ 0 , 1 ] } } '[1:],
    "lines": f"{{\n\t{A}\r\n}}",
    "another-order": '{"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}}',
    "more-members": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":[1.5,null,"x"]}}',
    "escaped-name": '{"\\u0061\\ud83d\\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    "escaped-dtype": '{"a":{"dtype":"\\u00558","shape":[1],"data_offsets":[0,1]}}',
    "metadata": f'{{"__metadata__":{{"a":"\\"b\\"","c" : "{{}}"}},{A}}}',
    "metadata-last": f'{{{A},"__metadata__" : {{ "a" : "" }} }}',
    "no-metadata": f'{{"__metadata__":{{}},{A}}}',
    "escaped-metadata": f'{{"__meta\\u0064ata__":{{"a":""}},{A}}}',
}
"""Headers that the safetensors library takes, of one byte."""

WRONG = {
    "metadata-twice": f'{{"__metadata__":{{}},"__metadata__":{{}},{A}}}',
    "escaped-metadata-twice": f'{{"__metadata__":{{"a":""}},"__meta\\u0064ata__":{{"a":""}},{A}}}',
    "metadata-of-a-number": f'{{"__metadata__":{{"a":1}},{A}}}',
    "metadata-of-half-a-surrogate": f'{{"__metadata__":{{"a":"\\udc00"}},{A}}}',
    "metadata-of-a-tensor": '{"__metadata__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    "minus-zero": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}',
    "fraction": '{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}',
    "power": '{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}',
    "leading-zero": '{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}',
    "truth": '{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}',
    "comma-at-the-end": f"{{{A},}}",
    "two-commas": f"{{{A},,}}",
    "member-twice": '{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    "half-a-surrogate": '{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    "control-character": '{"\x01":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    "three-offsets": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}',
    "backwards": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}',
    "beyond-64-bits": f'{{{A},"b":{{"dtype":"U8","shape":[0,{1 << 64}],"data_offsets":[1,1]}}}}',
    "something-behind": f"{{{A}}}x",
    "another-object": f"{{{A}}}{{}}",
    "byte-order-mark": f"\ufeff{{{A}}}",
    "nulls-behind": f"{{{A}}}\0\0",
}
"""Headers that it refuses."""

STRICTER = {
    "space-in-front": (f" {{{A}}}", "safetensors-json"),
    "name-twice": (f"{{{A},{A}}}", "safetensors-duplicate-key"),
    "metadata-of-nothing": (f'{{"__metadata__":null,{A}}}', "safetensors-json"),
    "entry-of-a-list": ('{"a":["U8",[1],[0,1]]}', "safetensors-json"),
    "many-dimensions": (A.join("{}").replace("[1]", f"[{','.join(['1'] * 65)}]"), "safetensors-rank"),
}
"""Headers that it takes and we refuse on purpose, each by a rule whose `why` says so."""


@pytest.mark.parametrize("name", HEADERS | WRONG)
def test_headers(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes((HEADERS | WRONG)[name], b"\0"))
    report = examine(snapshot_of(tmp_path))
    assert report.ok == (name in HEADERS), [finding.to_json() for finding in report.findings]
    if name in HEADERS:
        ours = [[info.file, info.name, info.dtype, list(info.shape)] for info in report.tensors]
        assert ours == ORACLES["safetensors"](tmp_path)
    else:
        with pytest.raises(safetensors.SafetensorError):
            ORACLES["safetensors"](tmp_path)


@pytest.mark.parametrize("name", STRICTER)
def test_headers_that_are_refused_on_purpose(tmp_path: Path, name: str) -> None:
    header, rule = STRICTER[name]
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(header, b"\0"))
    findings = examine(snapshot_of(tmp_path)).findings
    assert [finding.rule.id for finding in findings] == [rule]
    assert "on purpose" in findings[0].rule.why
    assert ORACLES["safetensors"](tmp_path)


ANY = st.characters(codec="utf-8")
SCALARS = st.integers(-9, 10**18) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
MAPS = st.dictionaries(
    st.sampled_from(("metadata", "weight_map", "caf\u00e9")),
    st.dictionaries(st.text(ANY), st.text(ANY, max_size=5) | SCALARS, max_size=5),
    min_size=1,
)


def large(path: Path, document: Any, indent: int | None = None) -> ModelFile:
    """The document in a file of more than four megabytes, most of them spaces."""
    text = json.dumps(document, ensure_ascii=False, indent=indent).encode()
    path.write_bytes(text + b" " * (MAX_CONFIG + 1 - len(text)))
    return ModelFile.of(path.name, FileBlob.at(path))


@FEW
@given(MAPS, st.sampled_from((None, 0, 3)))
def test_large_documents_of_maps_are_read_as_a_parser_reads_them(
    tmp_path: Path, maps: dict[str, Any], indent: int | None
) -> None:
    assert read_json(large(tmp_path / "a.json", maps, indent), rules.INDEX_JSON, 2 * MAX_CONFIG) == maps


@pytest.mark.parametrize(
    "document", [[], {"a": 1}, {"a": {"b": []}}, {"a": {"b": float("nan")}}, {"a": {"b": {}}}, {"a": None}, {}]
)
def test_large_documents_of_anything_else_are_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(RejectedError, match="no index"):
        read_json(large(tmp_path / "a.json", document), rules.INDEX_JSON, 2 * MAX_CONFIG)


# Real files


def real() -> Iterator[Path]:
    yield from sorted(path for path in REAL.iterdir() if path.is_dir())
    yield from (models.gguf(), models.safetensors())


@pytest.mark.parametrize("folder", [path.name for path in real()])
def test_real_models_are_accepted_and_read_as_the_libraries_read_them(folder: str) -> None:
    path = next(path for path in real() if path.name == folder)
    report = examine(snapshot_of(path))
    assert report.ok, [finding.to_json() for finding in report.findings]
    ours = sorted((info.file, info.name, info.dtype, info.shape) for info in report.tensors)
    assert ours == sorted(_theirs(path))


def _theirs(folder: Path) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    for name, tensor, dtype, shape in ORACLES["safetensors"](folder) or ():
        yield name, tensor, dtype, tuple(shape)
    for path in folder.glob("*.gguf"):
        for each in gguf.GGUFReader(path).tensors:
            yield path.name, str(each.name), each.tensor_type.name, tuple(map(int, reversed(each.shape)))
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        onnx.checker.check_model(model)
        for tensor in onnx.external_data_helper._get_all_tensors(model):
            yield path.name, tensor.name, TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims)


@pytest.mark.parametrize(
    "path",
    sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx")),
    ids=lambda path: path.parent.name + "-" + path.stem,
)
def test_models_of_the_onnx_package(path: Path) -> None:
    read_outline(ModelFile.of("model.onnx", FileBlob.at(path)))
    report = examine(snapshot_of(path.parent)) if len(list(path.parent.iterdir())) == 1 else None
    assert report is None or report.ok


def test_a_hollow_file_is_as_good_as_the_whole(tmp_path: Path) -> None:
    path = models.safetensors() / "model.safetensors"
    hollow(path).write(tmp_path / "model.safetensors")
    ours, theirs = (examine(snapshot_of(folder)).tensors for folder in (tmp_path, path.parent))
    assert ours == theirs
