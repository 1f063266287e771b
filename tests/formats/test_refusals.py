"""Models that are each wrong in exactly one way, and models that are right."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy
import onnx
import pytest
import safetensors
from onnx import TensorProto, helper

from formats.checkpoint import Checkpoint
from formats.examine import examine
from packer.sources import parse_source
from registry.errors import ModelError
from tests.parts import tiny
from tests.parts.command import packer
from tests.parts.tiny import GOOD, GOOD_GGUF, SHARDED, gguf_bytes, safetensors_bytes, tensor


def zipped(name: str) -> bytes:
    """An archive with one pickle, as torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, pickle.dumps([1]))
    return buffer.getvalue()


def object_array() -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def onnx_bytes(*, external: str = "") -> bytes:
    """A model that adds a constant; its data in another file if one is named."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    if external:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.extend(
            [
                onnx.StringStringEntryProto(key="location", value=external),
                onnx.StringStringEntryProto(key="length", value="16"),
            ]
        )
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [result], [weight])
    return bytes(helper.make_model(graph).SerializeToString())


WRONG_SAFETENSORS = {
    "truncated": (GOOD[:-1], "it is truncated"),
    "longer": (GOOD + b"\0", "bytes behind the last tensor"),
    "empty": (b"", "no possible header length"),
    "header-longer-than-file": (b"\xff" * 8 + b"{}", "no possible header length"),
    "gguf-inside": (GOOD_GGUF, "no possible header length"),
    "json-cut": (safetensors_bytes('{"a": ', b""), "JSON is malformed"),
    "json-deep": (safetensors_bytes("[" * 100_000, b""), "JSON is malformed"),
    "json-nan": (safetensors_bytes('{"a": NaN}', b""), "JSON is malformed"),
    "list": (safetensors_bytes("[]", b""), "JSON is malformed"),
    "name-twice": (safetensors_bytes('{"a": %s, "a": %s}' % ((json.dumps(tensor(0, 0)),) * 2), b""), "stands twice"),
    "hole": (safetensors_bytes({"a": tensor(0, 8), "b": tensor(12, 16)}, bytes(16)), "hole or an overlap"),
    "overlap": (safetensors_bytes({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "hole or an overlap"),
    "unknown-dtype": (safetensors_bytes({"a": tensor(0, 8, "F33")}, bytes(8)), "unknown dtype"),
    "shape-too-big": (safetensors_bytes({"a": tensor(0, 8, shape=[3])}, bytes(8)), "do not fit its shape"),
    "negative-shape": (safetensors_bytes({"a": tensor(0, 8, shape=[-2])}, bytes(8)), "is no size"),
    "no-offsets": (safetensors_bytes({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "lacks dtype, shape"),
    "absurd-rank": (safetensors_bytes({"a": tensor(0, 4, shape=[1] * 100_000)}, bytes(4)), "too many dimensions"),
    "absurd-size": (safetensors_bytes({"a": tensor(0, 4, shape=[1 << 62] * 20)}, bytes(4)), "do not fit its shape"),
    "metadata-of-numbers": (safetensors_bytes({"__metadata__": {"a": 1}}, b""), "not a map of strings"),
}

WRONG_GGUF = {
    "truncated-data": (GOOD_GGUF[:-1], "it is truncated"),
    "truncated-header": (GOOD_GGUF[:40], "truncated"),
    "empty": (b"", "it is truncated"),
    "safetensors-inside": (GOOD, "does not begin as a GGUF file"),
    "version-9": (gguf_bytes({}, {}, b"", version=9), "version is not supported"),
    "absurd-count": (gguf_bytes({}, {}, b"", count=1 << 60), "counts cannot fit"),
    "unknown-type": (gguf_bytes({}, {"a": (99, [4], 0)}, bytes(16)), "unknown type"),
    "misaligned": (gguf_bytes({}, {"a": (0, [4], 4)}, bytes(32)), "misaligned"),
    "five-dimensions": (gguf_bytes({}, {"a": (0, [1] * 5, 0)}, bytes(32)), "too many dimensions"),
    "overlap": (gguf_bytes({}, {"a": (0, [8], 0), "b": (0, [8], 0)}, bytes(64)), "overlap"),
    "endless-text": (gguf_bytes({"a": "x" * (17 << 20)}, {}, b""), "too long"),
    "half-a-block": (gguf_bytes({}, {"a": (2, [16], 0)}, bytes(32)), "misaligned"),
}

PICKLES = {
    "model.bin": pickle.dumps([1]),
    "model.pt": b"anything",
    "model.pth": zipped("archive/data.pkl"),
    "model.ckpt": b"",
    "extra.pkl": pickle.dumps([1]),
    "renamed.json": pickle.dumps([1], protocol=2),
    "renamed.txt": zipped("archive/data.pkl"),
    "old.dat": pickle.dumps(print, protocol=0),
    "objects.npy": object_array(),
    "objects2.npy": object_array().replace(b"'|O'", b'"|O"'),
    "objects.npz": zipped("a.npy"),
    "large.dat": pickle.dumps([print, *range(500_000)], protocol=0),
    "packed.gz": gzip.compress(pickle.dumps([1])),
    "packed-old.gz": gzip.compress(pickle.dumps(print, protocol=0)),
}


def check(folder: Path) -> Checkpoint:
    return Checkpoint(parse_source(str(folder)).fetch())


@pytest.mark.parametrize("name", WRONG_SAFETENSORS)
def test_wrong_safetensors(tmp_path: Path, name: str) -> None:
    data, said = WRONG_SAFETENSORS[name]
    with pytest.raises(ModelError, match=said) as caught:
        check(tiny.write_folder(tmp_path, {"model.safetensors": data}))
    assert "model.safetensors" in str(caught.value)
    if name in ("absurd-rank", "name-twice"):
        return  # stricter on purpose; the rules say why
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(data)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", WRONG_GGUF)
def test_wrong_gguf(tmp_path: Path, name: str) -> None:
    data, said = WRONG_GGUF[name]
    with pytest.raises(ModelError, match=said) as caught:
        check(tiny.write_folder(tmp_path, {"model.gguf": data}))
    assert "model.gguf" in str(caught.value)


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_by_name_and_by_content(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="pickle") as caught:
        check(tiny.write_folder(tmp_path, {"model.safetensors": GOOD, name: PICKLES[name]}))
    assert caught.value.subject == name


def test_a_pickle_named_safetensors_is_called_a_pickle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pickle"):
        check(tiny.write_folder(tmp_path, {"model.safetensors": zipped("archive/data.pkl")}))


@pytest.mark.parametrize("data", [b"<!DOCTYPE html>", safetensors_bytes('{"a": [}', b""), safetensors_bytes("", b"{}")])
def test_what_was_found_is_told_in_words(tmp_path: Path, data: bytes) -> None:
    (finding,) = examine(parse_source(str(tiny.write_folder(tmp_path, {"model.safetensors": data}))).fetch()).findings
    assert not re.search(r"b'|\(\'", finding.found), finding.found


PROSE = (
    "introduction\n\n1. y",
    "changelog\n\n1. first",
    "choices:\n\na. yes",
    "contact me at\nfoo\nR. Smith",
    "source: b.yaml",
    "cat\ndog\nReset. Then more",
)
"""Texts that read as opcodes up to a STOP."""


@pytest.mark.parametrize("text", ["(beginning with an opcode.", "I am text.", "c\nd\n", ".", "", "{}", "N.", *PROSE])
def test_text_is_no_pickle(tmp_path: Path, text: str) -> None:
    check(tiny.write_folder(tmp_path, {"model.safetensors": GOOD, "notes.txt": text.encode()}))


def test_missing_shard(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path, SHARDED)
    assert [info.name for info in check(folder).tensors] == ["a", "b"]
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"(?s)a shard that the index names is missing.*model-00002-of-00002\.safetensors"
    ):
        check(folder)
    done = packer("build", folder, "--to", "oci:out", check=False)
    assert (done.returncode, "interrupted download" in done.stderr) == (3, True)


def test_missing_shard_without_an_index(tmp_path: Path) -> None:
    files = {name: data for name, data in SHARDED.items() if "index" not in name and "00002-of" not in name}
    with pytest.raises(ModelError, match="this shard is missing") as caught:
        check(tiny.write_folder(tmp_path, files))
    assert caught.value.subject == "model-00002-of-00002.safetensors"


def test_config_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: this is no JSON object"):
        check(tiny.write_folder(tmp_path, {"model.safetensors": GOOD, "config.json": b"{bad"}))


BOMB = (
    "---\na0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
    + "---\n"
)


@pytest.mark.parametrize(
    "card", [BOMB, "---\nlicense: !!bool maybe\n---\n", "---\nlicense: !!timestamp x\n---\n", "---\n- [\n---\n"]
)
def test_a_hostile_card_is_no_card(tmp_path: Path, card: str) -> None:
    checkpoint = check(tiny.write_folder(tmp_path, {"model.safetensors": GOOD, "README.md": card.encode()}))
    assert checkpoint.card.licence == ""


def test_odd_texts_in_a_config_are_made_harmless(tmp_path: Path) -> None:
    config = json.dumps({"model_type": "\ud800\x1b[31mred", "architectures": [{}], "_name_or_path": "n" * 3_000_000})
    files = {"model.safetensors": safetensors_bytes({}, b""), "config.json": config.encode()}
    done = packer("build", tiny.write_folder(tmp_path / "m", files), "--to", f"oci:{tmp_path}/out")
    assert "\x1b" not in packer("inspect", f"oci:{tmp_path}/out").stdout + done.stderr
    assert check(tmp_path / "m").card.family == "\ufffd\ufffd[31mred"


def test_tensor_in_another_shard_than_the_index_says(tmp_path: Path) -> None:
    index = json.loads(SHARDED["model.safetensors.index.json"])
    index["weight_map"]["a"] = index["weight_map"]["b"]
    files = {**SHARDED, "model.safetensors.index.json": json.dumps(index).encode()}
    with pytest.raises(ModelError, match="tensor 'a': it is not in the file"):
        check(tiny.write_folder(tmp_path, files))


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weight file"):
        check(tiny.write_folder(tmp_path, {"config.json": b"{}"}))


def test_onnx_with_and_without_external_data(tmp_path: Path) -> None:
    inside = check(tiny.write_folder(tmp_path / "a", {"model.onnx": onnx_bytes()}))
    assert (inside.card.format, inside.card.parameters, inside.card.precision) == ("onnx", 4, "float32")
    files = {"onnx/model.onnx": onnx_bytes(external="data"), "onnx/data": bytes(16)}
    outside = check(tiny.write_folder(tmp_path / "b", files))
    assert outside.weights == {"onnx/model.onnx", "onnx/data"}
    (tmp_path / "b/onnx/data").write_bytes(bytes(15))
    with pytest.raises(ModelError, match=r"(?s)data is truncated.*0 \+ 16 bytes in onnx/data.*15 bytes"):
        check(tmp_path / "b")
    (tmp_path / "b/onnx/data").unlink()
    with pytest.raises(ModelError, match="tensor 'w': the file with its data is missing"):
        check(tmp_path / "b")


@pytest.mark.parametrize("location", ["../data", "/etc/passwd", "a/../../data", ""])
@pytest.mark.parametrize("in_function", [False, True])
def test_onnx_data_outside_the_folder(tmp_path: Path, location: str, in_function: bool) -> None:
    (tmp_path / "data").write_bytes(bytes(16))
    model = onnx.ModelProto.FromString(onnx_bytes(external=location or "x"))
    weight = model.graph.initializer[0]
    weight.external_data[0].value = location
    if in_function:
        constant = helper.make_node("Constant", [], ["c"], value=weight)
        model.functions.append(helper.make_function("local", "f", [], ["c"], [constant], []))
        model.graph.ClearField("initializer")
    with pytest.raises(ModelError, match="is refused"):
        check(tiny.write_folder(tmp_path / "model", {"model.onnx": model.SerializeToString()}))


def test_onnx_tensor_without_data(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(onnx_bytes())
    model.graph.initializer[0].ClearField("float_data")
    model.graph.initializer[0].dims[:] = [1 << 60]
    with pytest.raises(ModelError, match="has no data"):
        check(tiny.write_folder(tmp_path, {"model.onnx": model.SerializeToString()}))


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_truncated_onnx(tmp_path: Path, cut: int) -> None:
    with pytest.raises(ModelError, match="truncated"):
        check(tiny.write_folder(tmp_path, {"model.onnx": onnx_bytes()[:-cut]}))


@pytest.mark.parametrize("order", ["<", ">"])
def test_gguf_in_both_byte_orders(tmp_path: Path, order: str) -> None:
    data = gguf_bytes({"general.architecture": "tiny"}, {"a": (0, [8, 2], 0)}, bytes(64), order=order)
    checkpoint = check(tiny.write_folder(tmp_path, {"model.gguf": data}))
    assert (checkpoint.tensors[0].shape, checkpoint.card.architecture) == ((2, 8), "tiny")


def test_gguf_agrees_with_the_gguf_package(gguf_model: Path) -> None:
    import gguf

    checkpoint = check(gguf_model)
    reader = gguf.GGUFReader(next(gguf_model.glob("*.gguf")))
    theirs = {
        str(tensor.name): (
            tensor.tensor_type.name,
            tuple(int(size) for size in reversed(tensor.shape)),
            int(tensor.data_offset),
        )
        for tensor in reader.tensors
    }
    assert {info.name: (info.dtype, info.shape, info.start) for info in checkpoint.tensors} == theirs
    assert checkpoint.card.quantization == "q4_1"


def test_safetensors_agrees_with_the_safetensors_package(safetensors_model: Path) -> None:
    checkpoint = check(safetensors_model)
    with safetensors.safe_open(safetensors_model / "model.safetensors", framework="numpy") as file:
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - it is no dict
    assert {info.name: info.shape for info in checkpoint.tensors} == theirs
    assert (checkpoint.card.param_size, checkpoint.card.precision) == ("135m", "bfloat16")
    assert checkpoint.card.licence == "apache-2.0"


def test_links_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/blob").write_bytes(GOOD)
    folder = tiny.write_folder(tmp_path / "model", {".git/config": b"", "config.json": b"{}"})
    (folder / "model.safetensors").symlink_to(tmp_path / "store/blob")
    assert [file.name for file in check(folder).snapshot.files] == ["config.json", "model.safetensors"]
    (folder / "gone.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelError) as caught:
        check(folder)
    assert caught.value.found == "a broken link"
