"""The real models that the tests use, made once and kept in `.cache/models`."""

from __future__ import annotations

import fcntl
import hashlib
import sys
from pathlib import Path

from tests.parts.command import ROOT, run

CACHE = ROOT / ".cache" / "models"

_DEQUANTIZE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
source, target = sys.argv[1:]
name = "SmolLM2-135M-Instruct.Q4_1.gguf"
tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.bfloat16)
model.hf_quantizer = None
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(target)
tokenizer.save_pretrained(target)
"""


def gguf() -> Path:
    """The folder with SmolLM2-135M-Instruct as GGUF, and its licence."""
    return CACHE / "smollm2-gguf"


def safetensors() -> Path:
    """The folder with the same model as safetensors, dequantized by transformers; about 40 s the first time."""
    folder = CACHE / "smollm2-safetensors"
    if not folder.exists():
        with folder.with_suffix(".lock").open("w") as lock:  # several processes may collect the tests at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _dequantize(folder)
    return folder


def _dequantize(folder: Path) -> None:
    scratch = folder.with_suffix(".partial")
    run(sys.executable, "-c", _DEQUANTIZE, gguf(), scratch, timeout=500)
    (scratch / "README.md").write_text("---\nlicense: apache-2.0\n---\nSmolLM2-135M-Instruct, from its GGUF.\n")
    scratch.rename(folder)


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
