"""Linear layers that have no tensor of their own: their weight is another module's, mostly the embedding's."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path


def tied_modules(source: Path, tensors: Collection[str]) -> list[str]:
    """The modules of a model whose weights are tied to others and are not among its tensors, in transformers' names.

    They must be left: a server that takes them for quantized looks for a scale that is nowhere.
    """
    import transformers

    config = json.loads((source / "config.json").read_bytes())
    names = config.get("architectures") or []
    kinds = [getattr(transformers, name, None) for name in names if isinstance(name, str)]
    keys = [key for kind in kinds for key in getattr(kind, "_tied_weights_keys", None) or ()]
    return [key.removesuffix(".weight") for key in keys if key.endswith(".weight") and key not in tensors]
