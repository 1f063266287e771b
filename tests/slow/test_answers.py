"""The whole of SmolLM2, published and pulled, or in FP8, still knows the capital of France, as transformers runs it:
`make test-slow`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.parts.command import packer, run
from tests.parts.servers import Server

PROMPT = "The capital of France is"
_GENERATE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
asked = tokenizer(prompt, return_tensors="pt")
said = model.generate(**asked, max_new_tokens=8, do_sample=False)
print(tokenizer.decode(said[0][asked["input_ids"].shape[1]:]))
"""


def test_pulled_model_still_answers(safetensors_model: Path, registry: Server, tmp_path: Path) -> None:
    reference = f"{registry.address}/models/smollm2:answers"
    packer("build", safetensors_model, "--to", reference)
    packer("pull", reference, tmp_path / "model")
    said = run(sys.executable, "-c", _GENERATE, tmp_path / "model", PROMPT, timeout=1200)
    assert "Paris" in said.stdout


def test_transformers_answers_in_fp8(safetensors_model: Path, tmp_path: Path) -> None:
    packer("quantize", safetensors_model, tmp_path / "model", "--recipe", "fp8-dynamic", timeout=1200)
    said = run(sys.executable, "-c", _GENERATE, tmp_path / "model", PROMPT, timeout=1200)
    assert "Paris" in said.stdout
