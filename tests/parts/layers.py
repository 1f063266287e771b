"""A Llama-shaped model of random weights: a shard for the embedding, and one for each layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 64
WORDS = "<unk> a and cat dog far he in it mat of on ran sat she that the they to was"


def write_shards(parts: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write tensors to a new folder, a shard for each part, under an index."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for part in parts for tensor in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def llama(folder: Path, layers: int = 2, hidden: int = 64, inner: int = 128, **config: Any) -> Path:
    """Write it to a folder, in bfloat16 and with tied heads; the same sizes give the same bytes."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def weight(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) / 32).bfloat16()

    def layer(number: int) -> dict[str, torch.Tensor]:
        shapes = {f"self_attn.{letter}_proj": (hidden, hidden) for letter in "qkvo"}
        shapes |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
        made = {f"{name}.weight": weight(*shape) for name, shape in shapes.items()}
        norms = {f"{name}_layernorm.weight": torch.ones(hidden).bfloat16() for name in ("input", "post_attention")}
        return {f"model.layers.{number}.{name}": tensor for name, tensor in {**made, **norms}.items()}

    ends = {"model.embed_tokens.weight": weight(VOCABULARY, hidden), "model.norm.weight": torch.ones(hidden).bfloat16()}
    parts = [ends, *map(layer, range(layers))]
    write_shards(parts, folder)
    said = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps({**said, **config}, indent=2))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nRandom weights.\n")
    return folder


def give_words(folder: Path) -> Path:
    """A tokenizer for it, of a few words: one token each."""
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: at for at, word in enumerate(WORDS.split())},
            "unk_token": "<unk>",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder
