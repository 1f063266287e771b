"""A quantized model put together: what is new, what stays, the index, and the section in the card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from formats.checkpoint import Checkpoint
from formats.snapshot import Snapshot
from packer.sources import parse_source
from recipes.account import Account, Calibration, with_section
from recipes.result import quantized_snapshot
from recipes.task import Done, Module
from registry.descriptor import parse_digest
from tests.parts.layers import give_words, llama

MADE, OTHER = "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
ACCOUNT = Account(
    recipe="mine",
    description="one | two",
    engine="llmcompressor",
    hardware=("some", "other"),
    versions={"torch": "2"},
    kind="cpu",
    calibration=Calibration("rows.jsonl", parse_digest(f"sha256:{'a' * 64}"), 20, f"sha256:{'b' * 64}", 64, 3),
    modules=(
        Module("a", "float8 per channel"),
        Module("b", why="an embedding"),
        Module("c", why="one-dimensional, as norms are"),
        Module("d", "float8 per channel"),
        Module("e", why="one-dimensional, as norms are"),
    ),
    before=100,
    after=60,
    seconds=1.0,
    host=1,
    device=0,
    is_new=True,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = give_words(llama(tmp_path / "model"))
    index = json.loads((folder / INDEX).read_text())
    index["metadata"]["made_by"] = "somebody"
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "LICENSE").write_text("mine")
    return folder


def result(model: Path, folder: Path, done: Done) -> Snapshot:
    folder.mkdir(exist_ok=True)
    return quantized_snapshot(Checkpoint(parse_source(str(model)).fetch()), done, folder, ACCOUNT)


def content(snapshot: Snapshot, name: str) -> bytes:
    file = snapshot.get(name)
    assert file
    with file.open() as stream:
        return stream.read()


def test_what_was_made_stands_for_its_file_and_all_else_is_the_sources(model: Path, tmp_path: Path) -> None:
    scales = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4), "model.layers.0.mlp.up_proj.scale": torch.ones(4)}
    (tmp_path / "made").mkdir()
    save_file(scales, tmp_path / "made" / MADE)
    snapshot = result(model, tmp_path / "made", Done({MADE: (MADE,)}, (), {"quant_method": "mine"}))
    assert {file.name for file in snapshot.files} == {path.name for path in model.iterdir()}
    assert content(snapshot, MADE) == (tmp_path / "made" / MADE).read_bytes()
    changed = {file.name for file in snapshot.files if content(snapshot, file.name) != (model / file.name).read_bytes()}
    assert changed == {MADE, INDEX, "config.json", "README.md"}
    before, after = (json.loads(text) for text in ((model / INDEX).read_bytes(), content(snapshot, INDEX)))
    kept = {name: file for name, file in before["weight_map"].items() if file != MADE}
    assert after["weight_map"] == {**kept, **dict.fromkeys(scales, MADE)}
    gone = sum(tensor.nbytes for tensor in scales.values()) + (model / OTHER).stat().st_size
    assert after["metadata"]["made_by"] == "somebody"
    assert 80 < after["metadata"]["total_size"] < gone + (model / "model-00001-of-00003.safetensors").stat().st_size
    config = json.loads(content(snapshot, "config.json"))
    assert config == {
        **json.loads((model / "config.json").read_text()),
        "quantization_config": {"quant_method": "mine"},
    }


def test_text_that_utf_8_cannot_hold_stays_in_the_config(model: Path, tmp_path: Path) -> None:
    """Half a surrogate pair, which JSON can hold in ASCII."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "note": "\ud800", "name": "größer"}))
    made = json.loads(content(result(model, tmp_path / "made", Done({}, (), {"quant_method": "mine"})), "config.json"))
    assert made == {**config, "note": "\ud800", "name": "größer", "quantization_config": {"quant_method": "mine"}}


def test_a_file_may_become_several_and_a_model_without_a_config_has_none(model: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name in ("one.onnx", "one.onnx_data"):
        (tmp_path / "made" / name).write_bytes(name.encode())
    snapshot = result(model, tmp_path / "made", Done({MADE: ("one.onnx", "one.onnx_data")}, ()))
    assert snapshot.get(MADE) is None
    assert content(snapshot, "one.onnx_data") == b"one.onnx_data"
    assert content(snapshot, "config.json") == (model / "config.json").read_bytes()
    assert content(snapshot, INDEX) == (model / INDEX).read_bytes()


def test_the_card_gets_a_section_and_keeps_its_beginning(model: Path, tmp_path: Path) -> None:
    card = content(result(model, tmp_path / "made", Done({}, ())), "README.md").decode()
    assert card.startswith("---\nlicense: mit\n---\nRandom weights.\n\n## Quantization\n\n")
    assert card.endswith("|\n")
    lines = card.splitlines()
    assert "| Quantized | 2 modules: float8 per channel |" in lines
    left = [line for line in lines if line.startswith("| Left")]
    assert left == [
        "| Left | 2 modules, such as `c`: one-dimensional, as norms are |",
        "| Left | 1 module, such as `b`: an embedding |",
    ]
    assert f"| Calibrated on | 20 samples from rows.jsonl (sha256:{'a' * 64}), at most 64 tokens each |" in lines
    assert f"| In this order | sha256:{'b' * 64}, by seed 3 |" in lines
    assert "| Made with | torch 2, on cpu |" in lines
    assert "| Runs natively on | some; other |" in lines


def test_a_model_without_a_card_gets_one(model: Path, tmp_path: Path) -> None:
    (model / "README.md").unlink()
    card = content(result(model, tmp_path / "made", Done({}, ())), "README.md").decode()
    assert card.startswith("## Quantization\n\n")


def test_a_section_tells_nothing_of_what_was_not() -> None:
    text = with_section("", replace(ACCOUNT, calibration=None, hardware=(), modules=(Module("a|b", why="x|y"),)))
    assert "Calibrated" not in text and "natively" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| Left")]
    assert row == "| Left | 1 module, such as `a\\|b`: x\\|y |"
