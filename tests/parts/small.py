"""A real model cut short: the first four layers of SmolLM2, in three shards under an index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.parts import models
from tests.parts.layers import write_shards

LAYERS = 4
SHARDS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2", "model.layers.3")


def cut_short(folder: Path) -> Path:
    """Write it to a folder: the embedding in a shard of its own, then two layers in each of two."""
    from safetensors.torch import load_file

    source = models.safetensors()
    tensors = load_file(source / "model.safetensors")
    parts: list[dict[str, Any]] = [{}, {}, {}]
    for name, tensor in tensors.items():
        layer = int(name.split(".")[2]) if name.startswith("model.layers.") else -1
        if layer < LAYERS:
            parts[1 + layer // 2 if layer >= 0 else 0 if "embed" in name else 2][name] = tensor
    write_shards(parts, folder)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS}, indent=2))
    return folder
