"""What would have no effect on a quantization is refused, and so are rows that the engine of a recipe does not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from packer.buildfile import Calibration, Quantize
from packer.quantize import resolve_quantize
from recipes.quantize import Quantization, Workplace
from registry.errors import UsageError
from tests.parts.command import packer
from tests.parts.layers import llama


def resolved(said: Quantize) -> Quantization | None:
    return resolve_quantize(said, Workplace(Path("/nowhere"), {}, lambda file: file.blob.descriptor.digest))


IDLE = [
    (Calibration(data="rows.jsonl"), "calibration rows.jsonl"),
    (Calibration(samples=16), "samples 16"),
    (Calibration(max_length=64), "max-length 64"),
    (Calibration(seed=3), "seed 3"),
    (Calibration(samples=16, seed=3), "samples 16, seed 3"),
]


@pytest.mark.parametrize(("calibration", "found"), IDLE)
def test_what_has_no_effect_without_data(calibration: Calibration, found: str) -> None:
    for recipe, what in (
        (None, "nothing says by which recipe to quantize"),
        ("fp8-dynamic", "the recipe fp8-dynamic needs no calibration data"),
    ):
        with pytest.raises(UsageError) as caught:
            resolved(Quantize(recipe=recipe, calibration=calibration))
        assert (caught.value.what, caught.value.found) == (what, found)


def test_a_device_for_nothing() -> None:
    with pytest.raises(UsageError, match="nothing says by which recipe") as caught:
        resolved(Quantize(device="cpu"))
    assert caught.value.found == "device cpu"
    assert resolved(Quantize(recipe="fp8-dynamic", device="cpu"))


def test_the_defaults_may_be_said() -> None:
    defaults = Calibration(data=None, samples=None, max_length=2048, seed=0)
    assert resolved(Quantize(calibration=defaults, device="auto")) is None
    assert resolved(Quantize(recipe="fp8-dynamic", calibration=defaults))


def test_the_command_says_so(tmp_path: Path) -> None:
    done = packer("build", llama(tmp_path / "model"), "--to", "oci:out", "--samples", "16", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "nothing says by which recipe to quantize" in done.stderr and "samples 16" in done.stderr


def test_rows_with_inputs_are_for_onnx(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"inputs": {"x": [at]}}) + "\n" for at in range(20)))
    how = resolved(Quantize(recipe="onnx-int8-static", calibration=Calibration(data=str(path))))
    assert how and how.samples and all("inputs" in row for row in how.samples.rows)
    with pytest.raises(UsageError, match="for ONNX models alone") as caught:
        resolved(Quantize(recipe="fp8-static", calibration=Calibration(data=str(path))))
    assert caught.value.subject == "rows.jsonl"
