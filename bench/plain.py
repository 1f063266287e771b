"""llmcompressor as its own examples use it, without packer: `python -m bench.plain WAY SRC DST [SAMPLES LENGTH]`.

The ways: `files` is `model_free_ptq` with its default number of workers, `oneshot` FP8 with the model loaded, `gptq`
INT8 with SmoothQuant and GPTQ, calibrated on the first samples of packer's own set. Prints the bytes of memory that
were taken at most on the device, as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

IGNORE = ["lm_head"]


def files(source: str, target: str) -> None:
    """FP8 file by file. It takes embeddings for linear layers where it is not told."""
    import torch
    from llmcompressor import model_free_ptq

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    model_free_ptq(source, target, scheme="FP8_DYNAMIC", ignore=[*IGNORE, "re:.*embed_tokens"], device=device)


def oneshot(source: str, target: str) -> None:
    """FP8 with the model loaded."""
    from llmcompressor import oneshot as quantize
    from llmcompressor.modifiers.quantization import QuantizationModifier

    model = _model(source)
    quantize(model=model, recipe=QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=IGNORE))
    _save(model, source, target)


def gptq(source: str, target: str, samples: str, length: str) -> None:
    """INT8 with that many samples of so many tokens."""
    from llmcompressor import oneshot as quantize
    from llmcompressor.modifiers.quantization import GPTQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    model = _model(source)
    recipe = [SmoothQuantModifier(smoothing_strength=0.8), GPTQModifier(targets="Linear", scheme="W8A8", ignore=IGNORE)]
    rows = _rows(source, int(samples), int(length))
    size = {"num_calibration_samples": int(samples), "max_seq_length": int(length)}
    quantize(model=model, dataset=rows, recipe=recipe, **size)
    _save(model, source, target)


def _model(source: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, dtype="auto", local_files_only=True)


def _rows(source: str, samples: int, length: int) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    own = Path(__file__).parents[1] / "recipes/data/calibration.jsonl"
    with own.open(encoding="utf-8") as file:
        texts = [_text(json.loads(line)) for line in itertools.islice(file, samples)]
    return Dataset.from_list([dict(tokenizer(text, truncation=True, max_length=length)) for text in texts])


def _text(row: dict[str, Any]) -> str:
    return "\n\n".join(turn["content"] for turn in row["messages"]) if "messages" in row else str(row["text"])


def _save(model: Any, source: str, target: str) -> None:
    from transformers import AutoTokenizer

    model.save_pretrained(target, save_compressed=True)
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(target)


def _device_peak() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


if __name__ == "__main__":
    ways: dict[str, Callable[..., None]] = {"files": files, "oneshot": oneshot, "gptq": gptq}
    ways[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"device": _device_peak()}))
