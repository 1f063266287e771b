"""ONNX models that are whole when a run is killed are not made again, and all that was told of them still is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recipes.engines.onnx import run
from recipes.engines.onnx_notes import FOLDER, Made, Notes
from recipes.recipe import find_recipe
from recipes.task import Done, Module, Task
from registry.errors import UsageError
from tests.parts.models import digests

NAMES = ("a.onnx", "below/b.onnx")


def model(path: Path, operator: str = "MatMul") -> None:
    """A product with a weight."""
    weight = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in "xy"]
    node = helper.make_node(operator, ["x", "w"] if operator == "MatMul" else ["x"], ["y"], name=path.stem)
    graph = helper.make_graph([node], "g", [ends[0]], [ends[1]], [numpy_helper.from_array(weight, "w")])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in NAMES:
        model(tmp_path / "source" / name)
    return tmp_path / "source"


def quantized(source: Path, target: Path) -> Done:
    settings = find_recipe("onnx-int8-dynamic").settings
    return run(Task("onnxruntime", settings, source, target, NAMES), lambda _: None)


def test_what_is_whole_is_not_made_again(source: Path, tmp_path: Path) -> None:
    """The second model stops the first run, as a kill would."""
    fresh = quantized(source, tmp_path / "fresh")
    target = tmp_path / "made"
    model(source / NAMES[1], "Relu")
    with pytest.raises(UsageError, match="quantizes nothing"):
        quantized(source, target)
    before = (target / NAMES[0]).stat()
    assert not (target / NAMES[1]).exists()
    model(source / NAMES[1])
    assert quantized(source, target) == fresh
    after = (target / NAMES[0]).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert digests(target) == digests(tmp_path / "fresh")
    assert not (target / FOLDER).exists()


def test_a_note_without_its_files_is_worth_nothing(source: Path, tmp_path: Path) -> None:
    """As of a run that was killed before its files got their names."""
    fresh = quantized(source, tmp_path / "fresh")
    for name in NAMES:
        Notes(tmp_path / "made").write(name, Made((name, f"{name}.data"), (Module("wrong", "wrong"),)))
    (tmp_path / "made" / NAMES[0]).write_bytes(b"half of it")
    assert quantized(source, tmp_path / "made") == fresh
    assert digests(tmp_path / "made") == digests(tmp_path / "fresh")


def test_notes(tmp_path: Path) -> None:
    made = Made(("below/b.onnx",), (Module("one", "int8"), Module("two", why="small")))
    notes = Notes(tmp_path)
    notes.write("below/b.onnx", made)
    assert json.loads((tmp_path / FOLDER / "below/b.onnx.json").read_text())["files"] == ["below/b.onnx"]
    assert notes.read("below/b.onnx") is None
    (tmp_path / "below").mkdir()
    (tmp_path / "below/b.onnx").touch()
    assert (notes.read("below/b.onnx"), notes.read("a.onnx")) == (made, None)
    notes.remove()
    assert notes.read("below/b.onnx") is None
