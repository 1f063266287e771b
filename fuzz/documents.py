"""Documents beside the weights: index, config and adapter, each against tensors that fit it, or no longer do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from fuzz import trees
from fuzz.blind import mutate_content
from fuzz.mutant import Content, Mutant, Seed
from fuzz.safetensors import hollow
from tests.parts.models import CACHE, safetensors
from tests.parts.tiny import SHARDED, safetensors_bytes, tensor

Files = Mapping[str, Content]


def seeds() -> list[Seed]:
    """A model in two shards, a small llama, an adapter, a quantized model, and real configs beside their headers."""
    sharded = {name: Content(data) for name, data in SHARDED.items()}
    models = {"sharded": sharded, "llama": _llama(), "adapter": _adapter(), "quantized": _quantized()}
    for name, folder in (("smollm2", safetensors()), ("minilm", CACHE / "real/minilm")):
        config = Content((folder / "config.json").read_bytes())
        models[name] = {"config.json": config, "model.safetensors": hollow(folder / "model.safetensors")}
    return [Seed(name, files, 0.2 if name in ("smollm2", "minilm") else 1.0) for name, files in models.items()]


def _json(document: object) -> Content:
    return Content(json.dumps(document).encode())


def _weights(shapes: dict[str, list[int]], dtype: str = "F32") -> Content:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + shape[0] * shape[-1] * (4 if dtype == "F32" else 1)
        header[name] = tensor(start, end, dtype, shape)
    return Content(safetensors_bytes(header, b""), end)


_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4,
    "vocab_size": 8,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}


def _llama() -> Files:
    shapes = {"model.embed_tokens.weight": [8, 4], "lm_head.weight": [8, 4]}
    shapes |= {f"model.layers.{layer}.mlp.up_proj.weight": [4, 4] for layer in range(2)}
    return {"config.json": _json(_LLAMA), "model.safetensors": _weights(shapes)}


def _quantized() -> Files:
    """FP8 weights without their scales: what a config says of them is asked."""
    shapes = {f"model.layers.{layer}.mlp.up_proj.weight": [4, 4] for layer in range(2)}
    config = {**_LLAMA, "tie_word_embeddings": True, "quantization_config": {"quant_method": "compressed-tensors"}}
    return {"config.json": _json(config), "model.safetensors": _weights(shapes, "F8_E4M3")}


def _adapter() -> Files:
    config = {
        "base_model_name_or_path": "base",
        "peft_type": "LORA",
        "r": 2,
        "target_modules": ["q_proj", "self_attn.v_proj"],
        "rank_pattern": {"v_proj": 3},
    }
    shapes: dict[str, list[int]] = {}
    for name, rank in (("q_proj", 2), ("v_proj", 3)):
        stem = f"base_model.model.model.layers.0.self_attn.{name}"
        shapes |= {f"{stem}.lora_A.weight": [rank, 4], f"{stem}.lora_B.weight": [4, rank]}
    return {"adapter_config.json": _json(config), "adapter_model.safetensors": _weights(shapes)}


def mutate(rng: Random, seed: Seed) -> Mutant:
    """One to three changes: of a document's tree, of any byte of a file, or of the files that are there."""
    files, made = dict(seed.files), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        documents = sorted(name for name in files if name.endswith(".json"))
        if documents and rng.random() < 0.75:
            name = rng.choice(documents)
            files[name], said = _document(rng, files[name])
        elif files and rng.random() < 0.7:
            name = rng.choice(sorted(files))
            files[name], said = mutate_content(rng, files[name])
        else:
            name, said = _file(rng, files)
        made.append(f"{name} {said}")
    return Mutant(files, f"{seed.name}: {', '.join(made)}")


def _document(rng: Random, content: Content) -> tuple[Content, str]:
    try:
        tree, made = trees.mutate_tree(rng, trees.parse(content.head))
    except (ValueError, RecursionError):
        return mutate_content(rng, content)
    return Content(trees.dump(tree)), made


def _file(rng: Random, files: dict[str, Content]) -> tuple[str, str]:
    """A file gone, under another's name, or doubled."""
    name, other = rng.choice(sorted(files)), rng.choice(sorted(files))
    match rng.choice(("gone", "swapped", "doubled")):
        case "gone" if len(files) > 1:
            del files[name]
            return name, "gone"
        case "swapped":
            files[name], files[other] = files[other], files[name]
            return name, "swapped"
        case _:
            files[f"sub/{name}"] = files[name]
            return name, "doubled"
