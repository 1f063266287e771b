"""Quantization of a model that is loaded: what must see activations, or what only the model's code knows.

llmcompressor brings layer after layer to the device, so that a model larger than that fits. The result is laid out in
the files of the source, so that what was not quantized stays as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from formats.text import printable
from recipes.engines.devices import Device, announce, free_memory
from recipes.engines.layout import became, lay_out, not_loaded, read_places, require_names
from recipes.engines.samples import token_rows
from recipes.engines.schemes import recipe_text
from recipes.task import PARTIAL, Done, Module, Step, Task, Tell
from registry.errors import ModelError, SpaceError

SPARE = 2 << 30
"""Bytes of memory besides the model: libraries, one layer's gradients of nothing, activations between layers."""


def quantize_loaded(
    task: Task, modules: Sequence[Module], tied: Sequence[str], devices: Sequence[Device], tell: Tell
) -> Done:
    """What came of the task: `modules` are those that should be quantized; what is told is what was.

    `tied` are linear layers whose weights are another module's.
    """
    from llmcompressor import oneshot
    from transformers import GenerationConfig

    size = sum((task.source / name).stat().st_size for name in task.files)
    _require_memory(size)
    tokenizer = tokenizer_of(task.source) if task.samples else None
    rows = token_rows(task, tokenizer, tell) if task.samples else []
    tell(announce(devices, _how(rows), _work(size // 2, sum(map(len, rows)), task.settings)))
    model = _load(task.source)
    _tell_layers(model, 2 * len(rows) * len(task.settings), size, tell)
    names = [*(module.name for module in modules if not module.is_quantized), *tied]
    left = [name for name in names if _is_linear(model, name)]
    data = {"dataset": _loader(rows), "num_calibration_samples": len(rows)} if rows else {}
    oneshot(model=model, processor=tokenizer, recipe=recipe_text(task.settings, left), log_dir=None, **data)
    scratch = task.target / f"{PARTIAL}model"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        model.generation_config = GenerationConfig()  # the source's own stays, and may be one that is not saved
        model.save_pretrained(scratch, save_compressed=True)
        config = json.loads((scratch / "config.json").read_bytes())["quantization_config"]
        saved = read_places(sorted(scratch.glob("*.safetensors")))
        source = read_places(task.source / file for file in task.files)
        require_names(list(source), saved)
        kept = not_loaded(source, saved, tied)
        config["ignore"] = [*(config.get("ignore") or ()), *kept]
        return Done(lay_out(saved, source, kept, task), tuple(became(modules, saved)), config)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def tokenizer_of(source: Path) -> Any:
    """The tokenizer of the model in a folder; `ModelError` if transformers cannot load it."""
    from transformers import AutoTokenizer

    with loading("tokenizer.json"):
        return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)


def _how(rows: Sequence[list[int]]) -> str:
    whole = "the model loaded whole"
    return f"{whole}, {len(rows)} samples with {sum(map(len, rows))} tokens in all" if rows else whole


def _work(parameters: int, tokens: int, settings: Mapping[str, Any]) -> float:
    """Seconds of one core, roughly: samples pass twice for each modifier, and weights are rounded one after the other
    if the rounding of one is to make up for that of others.
    """
    rounding = 5e-7 if any("GPTQ" in name or "AWQ" in name for name in settings) else 5e-8
    return parameters * tokens * 4 * len(settings) / 20e9 + parameters * rounding


def _require_memory(size: int) -> None:
    if (needed := size + SPARE) > (free := free_memory()):
        raise SpaceError(
            "the model does not fit in memory, where it must be loaded for this recipe",
            expected=f"some {needed} bytes of memory",
            found=f"{free} bytes",
            hint="take a recipe that needs no data (packer recipes), or a machine with more memory",
        )


def _load(source: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with loading("config.json"):
        return AutoModelForCausalLM.from_pretrained(
            source, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
        )


_OTHER_RECIPE = "take a recipe that needs no data (packer recipes): those work on files alone"
NO_OTHER = "see whether it answers where it is served; without that nothing can be measured of it"


@contextmanager
def loading(subject: str, hint: str = _OTHER_RECIPE) -> Iterator[None]:
    """Around what transformers loads: `ModelError` for what it cannot."""
    try:
        yield
    except (ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelError(
            "transformers cannot load this model, as is needed here",
            subject=subject,
            found=printable(" ".join(str(error).split()))[:300],
            hint=hint,
        ) from error


def _is_linear(model: Any, name: str) -> bool:
    import torch

    try:
        return isinstance(model.get_submodule(name), torch.nn.Linear)
    except AttributeError:
        return False


def _loader(rows: Sequence[list[int]]) -> Any:
    """Batches of one sample each, in order, as a model takes them."""
    import torch
    from torch.utils.data import DataLoader

    batches = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row)).long()} for row in rows]
    return DataLoader(batches, batch_size=None)


def _tell_layers(model: Any, passes: int, size: int, tell: Tell) -> None:
    """Have steps told while samples go through the layers, `passes` times through each, in bytes of the `size`."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer).__name__ in kinds]
    done, total = count(1), max(len(layers) * passes, 1)
    for name, layer in layers:
        layer.register_forward_pre_hook(_telling(name, done, total, size, tell))


def _telling(name: str, done: Iterator[int], total: int, size: int, tell: Tell) -> Any:
    def hook(*_: object) -> None:
        tell(Step(min(next(done), total) * size // total, size, "bytes", name))

    return hook
