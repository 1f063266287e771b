"""Every value, read once: statistics against other libraries' own, and what is wrong found where it is."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy
import onnx
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFWriter, quants
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import save_file

from formats import moments as moments_module
from formats import parts as module
from formats.decode import decoder
from formats.examine import examine
from formats.findings import RejectedError
from formats.gguf import TYPES
from formats.moments import Moments, moments, of_numbers
from formats.safetensors import BITS
from formats.snapshot import ModelFile
from formats.values import TensorValues, judge_values, measure
from packer.sources import parse_source
from registry.blob import FileBlob
from registry.errors import ContentError
from tests.parts import tiny
from tests.parts.command import ROOT, run

DTYPES: dict[str, Any] = {
    "F64": numpy.float64,
    "F32": numpy.float32,
    "F16": numpy.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I8": numpy.int8,
    "U8": numpy.uint8,
    "BOOL": numpy.uint8,
    "I16": numpy.int16,
    "U16": numpy.uint16,
    "I32": numpy.int32,
    "U32": numpy.uint32,
    "I64": numpy.int64,
    "U64": numpy.uint64,
}
NOT_DECODED = {"F6_E2M3", "F6_E3M2"}


def by_name(folder: Path, threads: int = 0) -> dict[str, TensorValues]:
    return {value.tensor.name: value for value in measure(examine(parse_source(str(folder)).fetch()), threads)}


def broken(folder: Path) -> dict[str, tuple[str, str]]:
    found = [finding for value in by_name(folder).values() for finding in judge_values(value)]
    return {finding.tensor: (finding.rule.id, finding.found) for finding in found}


def one(path: Path, dtype: str, raw: bytes) -> TensorValues:
    bits = BITS[dtype]
    entry = {"dtype": dtype, "shape": [len(raw) * 8 // bits], "data_offsets": [0, len(raw)]}
    path.write_bytes(tiny.safetensors_bytes({"w": entry}, raw))
    return by_name(path)["w"]


def expect(known: Moments, numbers: numpy.ndarray) -> None:
    """The oracle: numpy, in float64, number by number."""
    wide = numbers.astype(numpy.float64)
    finite = wide[numpy.isfinite(wide)]
    assert known.seen == len(wide)
    assert known.nan == numpy.isnan(wide).sum()
    assert known.inf == numpy.isinf(wide).sum()
    assert known.zeros == (finite == 0).sum()
    bad = numpy.flatnonzero(~numpy.isfinite(wide))
    assert known.first_bad == (bad[0] if len(bad) else None)
    if len(finite):
        assert (known.low, known.high) == (finite.min(), finite.max())
        scale = max(abs(finite.min()), abs(finite.max())) or 1.0
        assert known.mean == pytest.approx(finite.mean(dtype=numpy.longdouble), abs=1e-12 * scale)
        spread = numpy.sqrt(numpy.square((finite / scale).astype(numpy.longdouble) - (finite / scale).mean()).mean())
        assert known.std == pytest.approx(float(spread * scale), rel=1e-6, abs=1e-9 * scale)


@pytest.mark.parametrize("size", [0, 8, 1000, 200_008])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_dtype(tmp_path: Path, dtype: str, size: int) -> None:
    raw = numpy.random.default_rng(size).bytes(size * BITS[dtype] // 8)
    if dtype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    if dtype in ("F64", "F32"):
        numbers = numpy.random.default_rng(1).standard_normal(size).astype(DTYPES[dtype])
        raw = numbers.tobytes()
    known = one(tmp_path / "m.safetensors", dtype, raw).moments
    expect(known, numpy.frombuffer(raw, DTYPES[dtype]))


def test_four_bits_two_in_a_byte(tmp_path: Path) -> None:
    raw = bytes(range(256)) * 300
    known = one(tmp_path / "m.safetensors", "F4", raw).moments
    nibbles = numpy.array([code for byte in raw for code in (byte & 15, byte >> 4)], numpy.uint8)
    expect(known, nibbles.view(ml_dtypes.float4_e2m1fn))


def test_every_dtype_is_decoded_or_said_not_to_be(tmp_path: Path) -> None:
    for dtype in BITS:
        assert (decoder(dtype) is None) == (dtype in NOT_DECODED), dtype
        assert dtype in {*DTYPES, *NOT_DECODED, "F4", "C64"}
    value = one(tmp_path / "m.safetensors", "F6_E2M3", bytes(12))
    assert [finding.rule.id for finding in judge_values(value)] == ["values-not-measured"]


@pytest.mark.parametrize("magnitude", [1e-320, 1e-200, 1.0, 1e150, 1e300])
def test_huge_and_tiny_numbers_do_not_overflow(tmp_path: Path, magnitude: float) -> None:
    numbers = numpy.random.default_rng(0).standard_normal(300_000) * magnitude
    known = one(tmp_path / "m.safetensors", "F64", numbers.tobytes()).moments
    assert math.isfinite(known.std) and known.std == pytest.approx(magnitude, rel=0.02, abs=0)


def test_numbers_whose_distance_has_no_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 1 << 12)
    numbers = numpy.repeat([1e300, -1e300], 4096)
    assert one(tmp_path / "m.safetensors", "F64", numbers.tobytes()).moments.std == pytest.approx(1e300)


def test_a_mean_far_from_zero_does_not_drown_the_deviation(tmp_path: Path) -> None:
    numbers = (1e6 + numpy.random.default_rng(0).standard_normal(2_000_000)).astype(numpy.float64)
    known = one(tmp_path / "m.safetensors", "F64", numbers.tobytes()).moments
    assert known.std == pytest.approx(numbers.std(), rel=1e-9)


@settings(deadline=None, max_examples=80)
@given(
    numbers=st.lists(st.floats(width=32), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_parts_add_up_to_the_whole(numbers: list[float], cuts: list[int]) -> None:
    array = numpy.array(numbers, numpy.float32)
    borders = sorted({0, len(array), *(cut for cut in cuts if cut < len(array))})
    parts = [of_numbers(array[start:end]) for start, end in pairwise(borders)]
    expect(sum(parts, Moments()), array)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "I8"])
@pytest.mark.parametrize("length", [1, 3, 40_001, 65_537])
def test_a_histogram_says_what_a_look_at_each_says(monkeypatch: pytest.MonkeyPatch, dtype: str, length: int) -> None:
    how = decoder(dtype)
    assert how
    data = numpy.frombuffer(numpy.random.default_rng(length).bytes(length * how.block_bytes), numpy.uint8)
    monkeypatch.setattr(moments_module, "_FEW", 0)
    by_histogram = moments(data, how)
    monkeypatch.setattr(moments_module, "_FEW", 1 << 40)
    one_by_one = moments(data, how)
    for name in ("seen", "nan", "inf", "zeros", "low", "high", "first_bad"):
        assert getattr(by_histogram, name) == getattr(one_by_one, name)
    if not by_histogram.finite:
        return
    assert by_histogram.mean == pytest.approx(one_by_one.mean, rel=1e-9, abs=1e-9)
    assert by_histogram.std == pytest.approx(one_by_one.std, rel=1e-9)


@pytest.mark.parametrize("at", [0, 1, (1 << 19) - 1, 1 << 19, (1 << 19) + 1, (1 << 23) + 5, (1 << 23) + 6])
@pytest.mark.parametrize(("value", "rule"), [(math.nan, "values-nan"), (-math.inf, "values-inf")])
def test_the_place_of_what_is_wrong(tmp_path: Path, at: int, value: float, rule: str) -> None:
    """Around the borders of pieces and of units."""
    numbers = torch.full(((1 << 23) + 7,), 0.5, dtype=torch.bfloat16)
    numbers[at] = value
    save_file({"w": numbers}, tmp_path / "m.safetensors")
    assert broken(tmp_path) == {"w": (rule, f"1, the first at {at} of {len(numbers)}")}


WRONG = {
    "zeros": ({"w": torch.zeros(9)}, "values-all-zero"),
    "negative scale": ({"a.weight_scale": torch.tensor([0.1, -0.1])}, "values-scale-sign"),
    "zero scale": ({"a.weight_scale": torch.tensor([0.1, 0.0])}, "values-scale-size"),
    "giant scale": ({"a.weight_scale_inv": torch.tensor([1e9])}, "values-scale-size"),
    "giant scale below zero": ({"a.scales": torch.tensor([-1e9, 1.0])}, "values-scale-size"),
    "zero among signed scales": ({"a.scales": torch.tensor([-0.1, 0.0, 0.1])}, "values-scale-size"),
    "all scales zero": ({"a.weight_scale": torch.zeros(9)}, "values-scale-size"),
    "all scales zero, in FP8": ({"a.weight_scale": torch.zeros(9).to(torch.float8_e4m3fn)}, "values-all-zero"),
    "infinite scale": ({"a.weight_scale": torch.tensor([1.0, math.inf])}, "values-inf"),
    "zero codes": ({"a.qweight": torch.zeros(9, dtype=torch.int32)}, "values-all-zero"),
    "giant weight": ({"w": torch.tensor([1.0, 70000.0])}, "values-magnitude"),
    "giant weight below zero": ({"w": torch.tensor([1.0, -70000.0]).bfloat16()}, "values-magnitude"),
}
RIGHT = {
    "bias": {"a.bias": torch.zeros(9)},
    "lora": {"a.lora_B.weight": torch.zeros(9, 2)},
    "scale": {"a.weight_scale": torch.tensor([1e-4, 3.0])},
    "scales of MLX": {"a.scales": torch.tensor([-0.01, 0.02])},
    "scales of NVFP4": {"a.weight_scale": torch.tensor([0.0, 448.0]).to(torch.float8_e4m3fn)},
    "adapter by name": {"a.lora_B.default.weight": torch.zeros(9, 2)},
    "zero points": {
        "a.qzeros": torch.zeros(9, dtype=torch.int32),
        "a.zeros": torch.zeros(9),
        "a.zero_point": torch.zeros(9),
    },
    "counter": {"a.num_batches_tracked": torch.tensor(0), "a.running_mean": torch.zeros(9)},
    "one token type": {"embeddings.token_type_embeddings.weight": torch.zeros(1, 768)},
    "norm": {"a.norm.scale": torch.tensor([-1.0, 2.0])},
    "largest half": {"w": torch.tensor([65504.0, -65504.0])},
    "integers": {"w": torch.tensor([1 << 40])},
    "empty": {"w": torch.zeros(0)},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong(tmp_path: Path, name: str) -> None:
    tensors, rule = WRONG[name]
    save_file(tensors, tmp_path / "m.safetensors")
    assert [found for found, _ in broken(tmp_path).values()] == [rule]


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right(tmp_path: Path, name: str) -> None:
    save_file(RIGHT[name], tmp_path / "m.safetensors")
    assert broken(tmp_path) == {}


def test_threads_change_nothing_and_every_byte_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.manual_seed(0)
    tensors = {f"t{at}": torch.randn(40_000 + at, generator=values).bfloat16() for at in range(40)}
    save_file({**tensors, "big": torch.randn(3_000_000, generator=values)}, tmp_path / "m.safetensors")
    monkeypatch.setattr(module, "UNIT", 1 << 18)
    taken: list[int] = []
    fill = module._fill

    def counting(stream: Any, piece: Any, part: Any) -> None:
        taken.append(len(piece))
        fill(stream, piece, part)

    monkeypatch.setattr(module, "_fill", counting)
    single, several = by_name(tmp_path, 1), by_name(tmp_path, 5)
    assert single == several
    assert list(single) == list(several)
    size = sum(value.nbytes for value in tensors.values()) + 12_000_000
    assert sum(taken) == 2 * size


def gguf_file(path: Path, tensors: Mapping[str, tuple[numpy.ndarray, GGMLQuantizationType | None]], **how: Any) -> Path:
    writer = GGUFWriter(path, "tiny", **how)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


QUANTS = [name for name in quants._type_traits if name.name not in ("F32", "F16", "BF16")]


@pytest.mark.parametrize("kind", QUANTS, ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_type_that_the_gguf_package_decodes(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    block, size = {name: (block, size) for name, block, size in TYPES.values()}[kind.name]
    raw = numpy.random.default_rng(0).integers(0, 60, (7, 3 * size), dtype=numpy.uint8)
    value = by_name(gguf_file(tmp_path / "m.gguf", {"w": (raw, kind)}))["w"]
    assert value.tensor.shape == (7, 3 * block)
    expect(value.moments, quants.dequantize(raw, kind).reshape(-1))


def test_types_that_nobody_decodes_are_told(tmp_path: Path) -> None:
    raw = numpy.zeros((2, 292), numpy.uint8)
    gguf_file(tmp_path / "m.gguf", {"w": (raw, GGMLQuantizationType.Q8_K)})
    assert broken(tmp_path) == {"w": ("values-not-measured", "Q8_K")}


@pytest.mark.parametrize("endian", [GGUFEndian.LITTLE, GGUFEndian.BIG])
def test_gguf_in_both_byte_orders(tmp_path: Path, endian: GGUFEndian) -> None:
    numbers = numpy.random.default_rng(0).standard_normal((8, 50_000)).astype(numpy.float32)
    half = numbers.astype(numpy.float16)
    path = gguf_file(tmp_path / "m.gguf", {"a": (numbers.copy(), None), "b": (half.copy(), None)}, endianess=endian)
    values = by_name(path)
    expect(values["a"].moments, numbers.reshape(-1))
    expect(values["b"].moments, half.reshape(-1))


def test_the_real_gguf(gguf_model: Path) -> None:
    values = by_name(gguf_model)
    reader = GGUFReader(next(gguf_model.glob("*.gguf")))
    for tensor in reader.tensors:
        if tensor.n_elements < 2_000_000:
            numbers = quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64)
            known = values[str(tensor.name)].moments
            assert (known.seen, known.low, known.high) == (numbers.size, numbers.min(), numbers.max())
            assert known.std == pytest.approx(numbers.std(), rel=1e-6)
    assert not [finding for value in values.values() for finding in judge_values(value)]


def test_the_real_safetensors(safetensors_model: Path) -> None:
    values = by_name(safetensors_model)
    with safe_open(safetensors_model / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            tensor, known = file.get_tensor(name).double(), values[name].moments
            assert (known.seen, known.low, known.high) == (tensor.numel(), tensor.min(), tensor.max())
            assert known.mean == pytest.approx(float(tensor.mean()), rel=1e-9, abs=1e-12)
            assert known.std == pytest.approx(float(tensor.std(unbiased=False)), rel=1e-9)
            assert known.zeros == int((tensor == 0).sum())


@pytest.mark.parametrize("name", ["magika", "silero-vad", "rapidocr"])
def test_real_onnx(name: str) -> None:
    folder = ROOT / ".cache/models/real" / name
    for path in folder.glob("*.onnx"):
        values = by_name(path)
        for tensor in onnx.load(path).graph.initializer:
            numbers = numpy_helper.to_array(tensor).reshape(-1)
            if numbers.size:
                expect(values[tensor.name].moments, numbers)


def test_onnx_of_every_kind(tmp_path: Path) -> None:
    """Inline and raw, packed and complex; a mask of minus infinity is told and refuses nothing."""
    kinds: dict[str, Any] = {
        "mask": numpy.array([0, -numpy.inf], numpy.float32),
        "large": numpy.random.default_rng(0).standard_normal(5000).astype(numpy.float16),
        "four": numpy.array([-8, 7, 3], ml_dtypes.int4),
        "complex": numpy.array([1 + 2j], numpy.complex64),
        "bytes": numpy.array([b"text"], object),
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in kinds.items()]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "mask"], ["y"])], "g", [value], [result], tensors)
    onnx.save_model(helper.make_model(graph), tmp_path / "m.onnx")
    values = by_name(tmp_path)
    expect(values["mask"].moments, kinds["mask"])
    expect(values["large"].moments, kinds["large"])
    assert (values["four"].moments.low, values["four"].moments.high, values["four"].moments.seen) == (-8, 7, 3)
    assert (values["complex"].moments.seen, values["complex"].moments.high) == (2, 2)
    assert {name: rule for name, (rule, _) in broken(tmp_path).items()} == {
        "mask": "values-inf-constant",
        "bytes": "values-not-measured",
    }


def onnx_model(path: Path, tensors: list[Any], nodes: list[Any] | None = None) -> Path:
    """A model that adds one to its input, and has these initializers and nodes besides."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    one = numpy_helper.from_array(numpy.ones(2, numpy.float32), "one")
    add = helper.make_node("Add", ["x", "one"], ["y"])
    graph = helper.make_graph([*(nodes or []), add], "g", [value], [result], [one, *tensors])
    onnx.save_model(helper.make_model(graph), path)
    return path


def typed(name: str, kind: str, numbers: numpy.ndarray) -> Any:
    return helper.make_tensor(name, TensorProto.DataType.Value(kind), numbers.shape, numbers)


TYPED: dict[str, Any] = {
    "FLOAT": numpy.float32,
    "DOUBLE": numpy.float64,
    "FLOAT16": numpy.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
    "INT4": ml_dtypes.int4,
    "UINT4": ml_dtypes.uint4,
    "INT8": numpy.int8,
    "UINT8": numpy.uint8,
    "INT16": numpy.int16,
    "UINT16": numpy.uint16,
    "INT32": numpy.int32,
    "UINT32": numpy.uint32,
    "INT64": numpy.int64,
    "UINT64": numpy.uint64,
}


@pytest.mark.parametrize("size", [7, 5001])
@pytest.mark.parametrize("kind", TYPED)
def test_onnx_values_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int) -> None:
    """Values in typed fields: varints across the borders of pieces, odd numbers of nibbles."""
    monkeypatch.setattr(module, "PIECE", 1000)
    spread = {"INT32": 1 << 31, "INT64": 1 << 62, "UINT32": 1 << 32, "UINT64": 1 << 63, "INT16": 1 << 15}.get(kind, 6)
    low = 0 if kind.startswith("U") else -spread
    numbers = numpy.random.default_rng(0).uniform(low, spread, size).astype(TYPED[kind])
    values = by_name(onnx_model(tmp_path / "m.onnx", [typed("w", kind, numbers)]))
    expect(values["w"].moments, numbers)


def test_onnx_values_in_a_constant_of_a_node(tmp_path: Path) -> None:
    numbers = numpy.random.default_rng(0).standard_normal(5000).astype(numpy.float32)
    numbers[4321] = numpy.nan
    node = helper.make_node("Constant", [], ["c"], value=typed("w", "FLOAT", numbers))
    onnx_model(tmp_path / "m.onnx", [], [node])
    assert broken(tmp_path) == {"w": ("values-nan", "1, the first at 4321 of 5000")}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_odd_nibble_at_the_end_is_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Around the borders of units, with a padding that would be the largest of all."""
    monkeypatch.setattr(module, "UNIT", 1000)
    numbers = numpy.full(4000 + count, 3, ml_dtypes.int4)
    raw = bytearray(numpy_helper.from_array(numbers).raw_data)
    if count % 2:
        raw[-1] |= 0x70
    tensor = TensorProto(name="w", data_type=TensorProto.INT4, dims=[len(numbers)], raw_data=bytes(raw))
    expect(by_name(onnx_model(tmp_path / "m.onnx", [tensor]))["w"].moments, numbers)


def test_a_number_that_is_too_long_is_refused(tmp_path: Path) -> None:
    tensor = typed("w", "INT64", numpy.full(5000, 1 << 62))
    path = onnx_model(tmp_path / "m.onnx", [tensor])
    number = b"\x80" * 8 + b"\x40"
    raw = path.read_bytes()
    assert raw.count(number * 5000) == 1
    path.write_bytes(raw.replace(number * 2, b"\x80" * 16 + b"\x40\x01", 1))
    with pytest.raises(RejectedError, match="onnx-protobuf"):
        by_name(path)


@pytest.mark.parametrize(
    ("name", "numbers", "rule"),
    [
        ("axes", numpy.zeros(1, numpy.int64), None),
        ("state", numpy.zeros((2, 1, 128), numpy.float32), None),
        ("onnx::Conv_7", numpy.zeros(5000, numpy.float32), None),
        ("fc.weight", numpy.zeros((64, 64), numpy.float32), "values-all-zero"),
        ("fc.weight_quantized", numpy.zeros((64, 64), numpy.int8), "values-all-zero"),
        ("fc.weight_scale", numpy.array([-1.0], numpy.float32), "values-scale-sign"),
        ("fc.weight_scale", numpy.array([math.inf], numpy.float32), "values-inf"),
        ("mask", numpy.full((1, 64, 64), -3.4e38, numpy.float32), None),
    ],
)
def test_constants_of_onnx_are_no_weights(tmp_path: Path, name: str, numbers: numpy.ndarray, rule: str | None) -> None:
    onnx_model(tmp_path / "m.onnx", [numpy_helper.from_array(numbers, name)])
    assert [found for found, _ in broken(tmp_path).values()] == ([rule] if rule else [])


def test_a_giant_scale_in_a_block_of_ggml(tmp_path: Path) -> None:
    raw = quants.quantize(numpy.ones((2, 64), numpy.float32), GGMLQuantizationType.Q8_0)
    raw[1, :2] = numpy.array([60000.0], numpy.float16).view(numpy.uint8)
    gguf_file(tmp_path / "m.gguf", {"w": (raw, GGMLQuantizationType.Q8_0)})
    assert broken(tmp_path)["w"][0] == "values-magnitude"


def test_a_file_that_ends_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(1000)}, path)
    report = examine(parse_source(str(path)).fetch())
    os.truncate(path, path.stat().st_size - 4)
    cut = replace(report, snapshot=replace(report.snapshot, files=(ModelFile.of("m.safetensors", FileBlob.at(path)),)))
    with pytest.raises(ContentError, match="ended while its values were read"):
        list(measure(cut))


_PEAK = """
import sys
from pathlib import Path
from formats.examine import examine
from formats.values import measure
from packer.sources import parse_source
count = sum(value.moments.seen for value in measure(examine(parse_source(sys.argv[1]).fetch())))
peak = [line for line in Path("/proc/self/status").read_text().split("\\n") if line.startswith("VmHWM")][0]
print(count, int(peak.split()[1]) // 1024)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    size = 1 << 30
    path = tmp_path / "m.safetensors"
    header = {f"t{at}": tiny.tensor(at * size // 4, (at + 1) * size // 4, "F32", [size // 16]) for at in range(4)}
    path.write_bytes(tiny.safetensors_bytes(header, b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    count, peak = map(int, re.findall(r"\d+", run(sys.executable, "-c", _PEAK, path, cwd=ROOT).stdout))
    assert count == size // 4
    assert peak < 300
