"""What `packer plan` says of the disk and the memory that quantizing takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from packer.forecast import COPIES, LIBRARIES
from tests.parts.command import packer
from tests.parts.layers import give_words, llama
from tests.parts.models import CACHE

ONNX = CACHE / "real/magika"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return give_words(llama(tmp_path_factory.mktemp("model") / "model"))


def plan(model: Path, folder: Path, *options: str) -> dict[str, Any]:
    done = packer("plan", model, "--to", f"oci:{folder}/out", *options, "--json", env={"PACKER_CACHE": str(folder)})
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_a_model_that_is_regrouped_is_written_for_the_child(model: Path, tmp_path: Path) -> None:
    quantize = ("--quantize", "fp8-dynamic")
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    once, twice = plan(model, tmp_path, *quantize), plan(model, tmp_path, *quantize, "--max-size", "100kB")
    assert 0.9 * weights < twice["disk"] - once["disk"] < 1.2 * weights
    plain, regrouped = plan(model, tmp_path), plan(model, tmp_path, "--max-size", "100kB")
    assert abs(regrouped["disk"] - plain["disk"]) < 0.1 * weights


def test_a_model_that_is_loaded_is_written_twice(model: Path, tmp_path: Path) -> None:
    free, calibrated = (plan(model, tmp_path, "--quantize", recipe)["disk"] for recipe in ("fp8-dynamic", "fp8-static"))
    assert calibrated > 1.3 * free


def test_an_onnx_model_is_in_memory_as_a_whole(tmp_path: Path) -> None:
    size = (ONNX / "model.onnx").stat().st_size
    said = plan(ONNX, tmp_path, "--quantize", "onnx-int8-dynamic")
    assert said["memory"] == COPIES * size + LIBRARIES
    assert said["disk"] >= 3 * size


def test_an_evaluation_is_foreseen(model: Path, tmp_path: Path) -> None:
    quantize = ("--quantize", "fp8-dynamic")
    assert plan(model, tmp_path, *quantize)["evaluation"] is None
    said = plan(model, tmp_path, *quantize, "--evaluate", "fidelity")
    disk = said["evaluation"].pop("disk")
    assert said["evaluation"] == {"suite": "fidelity", "retain": 0.99, "units": 128, "unit": "passages", "budget": 1200}
    assert said["memory"] > LIBRARIES
    assert said["disk"] - plan(model, tmp_path, *quantize)["disk"] == disk > 0
    asked = plan(model, tmp_path, *quantize, "--evaluate", "fidelity", "--retain", "0.9", "--budget", "5m")
    assert (asked["evaluation"]["retain"], asked["evaluation"]["budget"]) == (0.9, 300)
    told = packer("plan", model, "--to", f"oci:{tmp_path}/out", *quantize, "--evaluate", "capitals").stdout
    assert "evaluate  capitals, all of its items, 20 min at most; published only if 0.95 is retained" in told
