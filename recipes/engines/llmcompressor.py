"""Safetensors by llmcompressor: file by file where each weight can be quantized by itself, else with the model loaded.

https://docs.vllm.ai/projects/llm-compressor
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from formats.text import printable
from recipes.engines.devices import Device, find_devices
from recipes.engines.files import quantize_files
from recipes.engines.loaded import quantize_loaded
from recipes.engines.schemes import groups_of, is_file_by_file, needs_data, read_config, read_modifiers
from recipes.engines.ties import tied_modules
from recipes.survey import Weight, fused_experts, matches, survey
from recipes.task import Done, Module, Task, Tell
from registry.errors import ModelError, UsageError


def run(task: Task, tell: Tell) -> Done:
    """Quantize the task's files; whole ones that are in its target already stay."""
    _quiet()
    devices = find_devices(task.device)
    modifiers = read_modifiers(task.settings)
    config = read_config(modifiers)
    if needs_data(modifiers, config) and not task.samples:
        raise UsageError("this recipe needs data and says that it does not", hint="write calibration: true into it")
    weights = list(_weights(task))
    modules = survey(weights, groups_of(config), config.ignore or ())
    _require_some(modules)
    tied = tied_modules(task.source, {weight.name for weight in weights})
    if is_file_by_file(modifiers, config):
        if fused := fused_experts(weights):
            tell(f"{fused.name} holds all experts at once: the model is loaded, since its code knows how they lie")
        elif done := _by_files(task, _leaving(config, modules, weights, tied), modules, devices, tell):
            return done
    for name in task.files:  # what another way has left here
        (task.target / name).unlink(missing_ok=True)
    return quantize_loaded(task, modules, tied, devices, tell)


def _by_files(task: Task, config: Any, modules: Sequence[Module], devices: Sequence[Device], tell: Tell) -> Done | None:
    """What came of it file by file; None, which is told, if llmcompressor refuses a weight on this way."""
    try:
        quantize_files(task, config, modules, devices, tell)
    except ValueError as error:
        tell(f"file by file it fails ({printable(str(error))[:200]}): the model is loaded instead")
        return None
    return Done(_made(task), tuple(modules), _described(config))


def _quiet() -> None:
    """Leave what the libraries log out of what a user sees."""
    from loguru import logger

    logger.remove()


def _weights(task: Task) -> Iterator[Weight]:
    from safetensors import safe_open

    for name in task.files:
        with safe_open(task.source / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no map
                part = file.get_slice(key)
                yield Weight(key, part.get_dtype(), tuple(part.get_shape()))


def _require_some(modules: Sequence[Module]) -> None:
    """`ModelError` if no module would be quantized."""
    if any(module.is_quantized for module in modules):
        return
    whys = Counter(module.why for module in modules if not module.why.startswith("one-dimensional"))
    most = "; ".join(f"{count}: {why}" for why, count in whys.most_common(3))
    raise ModelError(
        "this recipe fits no module of this model",
        expected="at least one linear layer that it can quantize",
        found=most or "no weights",
        hint="take one of another scheme: packer recipes lists them",
    )


def _leaving(config: Any, modules: Sequence[Module], weights: Sequence[Weight], tied: Sequence[str]) -> Any:
    """The config, with what is left besides what it ignores already: matrices, and heads that are another's weights."""
    matrices = {weight.name.removesuffix(".weight") for weight in weights if len(weight.shape) == 2}
    left = [module.name for module in modules if not module.is_quantized and module.name in matrices]
    ignored = config.ignore or []
    known = {name for name in (*left, *tied) if any(matches(name, pattern) for pattern in ignored)}
    config.ignore = [*ignored, *(name for name in (*left, *tied) if name not in known)]
    return config


def _described(config: Any) -> Mapping[str, Any]:
    """What is written as `quantization_config`, as llmcompressor writes it."""
    from compressed_tensors import __version__
    from llmcompressor.entrypoints.model_free.converter import ModelFreePtqConverter

    final = ModelFreePtqConverter(config).update_config(None).model_dump(mode="json")
    return {"version": __version__, "quant_method": "compressed-tensors", "transform_config": {}, **final}


def _made(task: Task) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in task.files if (task.target / name).exists()}
