"""Splitting and joining two gigabytes on tmpfs, beside `cp -r` and transformers' save_pretrained."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.measure import ROOT, Cost, Row, alternate, measure, python

PACKER = ROOT / ".venv/bin/packer"

_MODEL = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
config = LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=20, num_attention_heads=32,
                     num_key_value_heads=4, vocab_size=32000, tie_word_embeddings=False, dtype="bfloat16")
LlamaForCausalLM(config).save_pretrained(sys.argv[1], max_shard_size="100GB")
"""
_SAVE = """
import sys, time
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
for value in model.state_dict().values():
    value.sum()
began = time.perf_counter()
model.save_pretrained(sys.argv[2], max_shard_size="500MB")
print(time.perf_counter() - began)
"""


def run(scratch: Path) -> list[Row]:
    """Three comparisons."""
    whole, out = scratch / "whole", scratch / "out"
    measure(python(_MODEL, whole), runs=1)
    size = sum(path.stat().st_size for path in whole.iterdir())

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)

    split, copy = alternate([PACKER, "shard", whole, out, "--max-size", "500MB"], ["cp", "-r", whole, out], fresh)
    saved = measure(python(_SAVE, whole, out), fresh)
    fresh()
    parts = scratch / "parts"
    measure([PACKER, "shard", whole, parts, "--max-size", "500MB"], runs=1)
    joined, copy_parts = alternate([PACKER, "merge", parts, out], ["cp", "-r", parts, out], fresh)
    gigabytes = size / 1e9
    return [
        _beside_cp(f"shard {gigabytes:.1f} GB into files of 500 MB", split, copy),
        _beside_cp(f"merge {gigabytes:.1f} GB from files of 500 MB", joined, copy_parts),
        Row(
            f"shard {gigabytes:.1f} GB, the whole command",
            f"{split.seconds:.2f} s, {split.megabytes:.0f} MB",
            f"{saved.seconds:.2f} s, {saved.megabytes:.0f} MB (save_pretrained of a loaded model)",
            f"{saved.seconds / split.seconds:.1f}x as fast",
            "at least 3x as fast",
        ),
    ]


def _beside_cp(what: str, ours: Cost, copy: Cost) -> Row:
    return Row(
        what,
        f"{ours.seconds:.2f} s, {ours.megabytes:.0f} MB",
        f"{copy.seconds:.2f} s (cp -r)",
        f"{ours.seconds / copy.seconds:.2f} of its time",
        "within 1.25 of its time, under 100 MB",
    )
