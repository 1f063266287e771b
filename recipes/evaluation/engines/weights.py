"""How far quantized weights are from those that they were made of, module by module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.engines.layout import Places, read_places, tensor_in
from recipes.task import Done, Step, Task, Tell

if TYPE_CHECKING:
    from torch import Tensor


def run(task: Task, tell: Tell) -> Done:
    """The relative error of each quantized module of the task's model, against that in the folder `against`.

    The facts: `errors`, a list of [module, scheme, |W' - W| / |W|] in the order of the baseline's tensors, where the
    norms are Frobenius'. Weights of another shape are left out, as are those whose way of packing is not known.
    """
    config = json.loads((task.source / "config.json").read_bytes()).get("quantization_config") or {}
    before = read_places(Path(task.settings["against"]) / name for name in task.settings["files"])
    after = read_places(task.source / name for name in task.files)
    modules = [name.removesuffix(".weight") for name in before if f"{name}_scale" in after]
    errors = []
    for at, module in enumerate(modules):
        error = _error(module, before, after, config)
        if error is not None:
            errors.append([module, _scheme(config), error])
        tell(Step(at + 1, len(modules), "modules", module))
    return Done(facts={"errors": errors})


def _error(module: str, before: Places, after: Places, config: dict[str, Any]) -> float | None:
    original = _tensor(f"{module}.weight", before)
    made = _restored(module, after, config)
    if made is None or original is None or made.shape != original.shape:
        return None
    norm = float(original.float().norm())
    return float((made - original.float()).norm()) / norm if norm else 0.0


def _restored(module: str, places: Places, config: dict[str, Any]) -> Tensor | None:
    """The weights as they are when they are used, in float32; None if the packing is not known."""
    scale = _tensor(f"{module}.weight_scale", places)
    weight = _tensor(f"{module}.weight", places)
    if weight is None:
        weight = _unpacked(module, places, config)
    if scale is None or weight is None:
        return None
    zero = _tensor(f"{module}.weight_zero_point", places)
    return _scaled(weight.float(), scale.float(), None if zero is None else zero.float())


def _unpacked(module: str, places: Places, config: dict[str, Any]) -> Tensor | None:
    """Weights of which several share an integer of 32 bits."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    packed, shape = _tensor(f"{module}.weight_packed", places), _tensor(f"{module}.weight_shape", places)
    if packed is None or shape is None:
        return None
    bits = next(_bits(config), 0)
    return unpack_from_int32(packed, bits, tuple(shape.tolist())) if bits else None


def _bits(config: dict[str, Any]) -> Iterator[int]:
    for group in (config.get("config_groups") or {}).values():
        if weights := group.get("weights"):
            yield int(weights["num_bits"])


def _scaled(weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor | None:
    """Each value times the scale of its row, group of columns, or block."""
    full = _spread(scale, weight)
    if full is None:
        return None
    spread = _spread(zero, weight) if zero is not None and zero.shape == scale.shape else None
    return (weight - spread if spread is not None else weight) * full


def _spread(scale: Tensor, weight: Tensor) -> Tensor | None:
    """One number for each value, from one for all, for each row, or for each block of the same size."""
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.dim() != 2:
        return None
    (rows, columns), (high, wide) = weight.shape, scale.shape
    tall, broad = -(-rows // high), -(-columns // wide)
    return scale.repeat_interleave(tall, 0)[:rows].repeat_interleave(broad, 1)[:, :columns]


def _tensor(name: str, places: Places) -> Tensor | None:
    return tensor_in(places[name], name) if name in places else None


def _scheme(config: dict[str, Any]) -> str:
    return str(config.get("format") or config.get("quant_method") or "")
