"""What quantization did to a model, as JSON: `check.py steps|logits SRC DST DEVICE`. tests/gpu/run.py runs it.

`steps` holds weights in FP8 against those of the source in float64, `logits` what both models say next.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TENSORS = 24
"""Quantized tensors that are looked at, evenly chosen."""

TEXTS, TOKENS, BYTES = 4, 64, 256
"""Random texts, their tokens, and how many tokens a tokenizer of bytes has at least."""

_BITS, _LEAST = 3, -6
"""E4M3: bits of the fraction, and the least exponent of a normal number."""


def steps(source: Path, target: Path, device: str) -> dict[str, Any]:
    """The largest error of a weight, in halves of the step that FP8 has at its magnitude: 1 is rounding to nearest."""
    before, after = _places(source), _places(target)
    names = [name for name in sorted(after) if f"{name}_scale" in after]
    chosen = names[:: max(len(names) // TENSORS, 1)]
    worst = max((_steps(name, before, after, device), name) for name in chosen)
    return {"steps": worst[0], "worst": worst[1], "tensors": len(chosen), "quantized": len(names)}


def _steps(name: str, before: dict[str, Path], after: dict[str, Path], device: str) -> float:
    import torch

    weight = _tensor(before[name], name).to(device).double()
    code = _tensor(after[name], name)
    assert code.dtype == torch.float8_e4m3fn, f"{name} is {code.dtype}"
    scale = _tensor(after[f"{name}_scale"], f"{name}_scale").to(device).double()
    assert scale.isfinite().all() and (scale > 0).all(), f"{name} has a wrong scale"
    exponent = torch.frexp(weight / scale).exponent.sub_(1).clamp_(min=_LEAST)
    half = torch.ldexp(scale.expand_as(weight), exponent - _BITS - 1)
    return float(((weight - code.to(device).double() * scale).abs() / half).max())


def logits(source: Path, target: Path, device: str) -> dict[str, Any]:
    """The mean KL in nats of what the source says next from what the result says, and how often they agree."""
    import torch

    numbers = torch.Generator().manual_seed(0)
    texts = torch.randint(1, BYTES, (TEXTS, TOKENS), generator=numbers)
    one, other = (_said(folder, texts, device) for folder in (source, target))
    gaps = torch.nn.functional.kl_div(other, one, log_target=True, reduction="none").sum(-1)
    agreed = one.argmax(-1) == other.argmax(-1)
    return {"divergence": float(gaps.mean()), "agreement": float(agreed.double().mean())}


def _said(folder: Path, texts: Any, device: str) -> Any:
    """Logarithms of the probabilities of the next tokens, in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    said = {"dtype": "auto", "device_map": {"": device}, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(folder, **said)
    with torch.inference_mode():
        return model(texts.to(device)).logits.double().log_softmax(-1).cpu()


def _places(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    return {name: path for path in folder.glob("*.safetensors") for name in _names(path)}


def _names(path: Path) -> Iterator[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        yield from file.keys()


def _tensor(path: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


if __name__ == "__main__":
    print(
        json.dumps({"steps": steps, "logits": logits}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
    )
