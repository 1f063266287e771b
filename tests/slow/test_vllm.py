"""vLLM loads what `packer quantize` wrote, by its folder alone, and answers: `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts.command import packer
from tests.slow.vllm import complete, serving

PROMPT = "The capital of France is"
RECIPES = {
    "fp8-dynamic": (),
    "int8-w8a8-rtn": (),
    "int8-w8a8": ("--samples", "16", "--max-length", "256"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_vllm_serves_what_was_quantized(recipe: str, safetensors_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    packer("quantize", safetensors_model, folder, "--recipe", recipe, *RECIPES[recipe], timeout=1200)
    with serving(folder, tmp_path / "log") as address:
        assert "Paris" in complete(address, PROMPT)
    assert "compressed-tensors" in (tmp_path / "log").read_text()
