"""How large a model will be, before it is quantized: for the disk, and for `packer plan`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from formats.checkpoint import Checkpoint
from recipes.fit import weight_files
from recipes.recipe import Engine, Recipe
from recipes.survey import Group, Weight, survey

_BITS = re.compile(r"num_bits\D{1,4}(\d+)|\bW(\d)A\d|(FP8|INT8|[QU]?Int8)|\b(?:IQ|Q|TQ)(\d)_", re.IGNORECASE)
"""Where a recipe's settings say how many bits a weight gets."""

_GROUPS = re.compile(r"group_size\D{1,4}(\d+)|\b(W4A)|(FP8_BLOCK)", re.IGNORECASE)
"""Where they say how many columns share a scale, of which weights of other widths are left."""

_PRESET = 128
"""The columns, and of blocks also the rows, in the schemes that say so by their names alone."""

_OVERHEAD = 0.6
"""Bits a weight for scales, and what K-quants keep in more bits."""


def bits_of(recipe: Recipe) -> int:
    """The bits that a recipe gives most weights; 8 where it does not tell."""
    match = _BITS.search(_said(recipe))
    return int(match[1] or match[2] or match[4] or 8) if match else 8


def room(recipe: Recipe, checkpoint: Checkpoint) -> int:
    """About how many bytes of disk the recipe's engine takes at most while it works, its result among them.

    onnxruntime works on a copy and makes the result once more; a model that is loaded is saved before its tensors are
    laid out in the files of the source.
    """
    if recipe.engine is Engine.ONNXRUNTIME:
        return 3 * sum(file.size for file in weight_files(recipe, checkpoint))
    return result_size(recipe, checkpoint) * (2 if recipe.calibration else 1)


def result_size(recipe: Recipe, checkpoint: Checkpoint) -> int:
    """About how many bytes the weight files will have that the recipe is about."""
    names = {file.name for file in weight_files(recipe, checkpoint)}
    tensors = [tensor for tensor in checkpoint.tensors if tensor.file in names]
    weights = [Weight(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
    chosen = _chosen(recipe, weights)
    bits = bits_of(recipe) + _OVERHEAD
    return int(sum(t.parameters * bits / 8 if t.name in chosen else t.end - t.start for t in tensors))


def _chosen(recipe: Recipe, weights: Sequence[Weight]) -> set[str]:
    """The tensors that the recipe will quantize, as far as that is known: other engines take every matrix."""
    if recipe.engine is not Engine.LLMCOMPRESSOR:
        return {weight.name for weight in weights if len(weight.shape) >= 2}
    ignore = [
        pattern
        for said in recipe.settings.values()
        if isinstance(said, dict)
        for pattern in said.get("ignore") or ()
        if isinstance(pattern, str)
    ]
    modules = survey(weights, [_group(recipe)], ignore)
    return {f"{module.name}.weight" for module in modules if module.is_quantized}


def _group(recipe: Recipe) -> Group:
    match = _GROUPS.search(_said(recipe))
    columns = int(match[1] or _PRESET) if match else 1
    return Group("any", columns=max(columns, 1), rows=_PRESET if match and match[3] else 1)


def _said(recipe: Recipe) -> str:
    return json.dumps(dict(recipe.settings), default=str)
