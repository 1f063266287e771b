"""Models that were damaged on purpose: what an evaluation has to notice."""

from __future__ import annotations

import shutil
from pathlib import Path


def with_doubled_scales(model: Path, folder: Path) -> Path:
    """A copy of a quantized model, with the scales of its first layer doubled."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        scales = [name for name in tensors if name.startswith("model.layers.0.") and name.endswith("weight_scale")]
        for name in scales:
            tensors[name] *= 2
        if scales:
            save_file(tensors, path, {"format": "pt"})
            return folder
    raise AssertionError("no scales")


def shuffled(model: Path, folder: Path) -> Path:
    """A copy of a model, with the values of each tensor in another order."""
    import numpy as np
    from safetensors.torch import load_file, save_file

    chance = np.random.default_rng(0)
    shutil.copytree(model, folder)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            order = chance.permutation(tensor.numel())
            tensors[name] = tensor.flatten()[order].reshape(tensor.shape)
        save_file(tensors, path, {"format": "pt"})
    return folder
