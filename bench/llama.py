"""A Llama-shaped checkpoint of random weights, in shards: `python -m bench.llama FOLDER SHAPE DEVICE BYTES`.

It is as large as the real one, and costs as much to quantize. Its logits spread as a trained model's do, so that what
quantization does to them can be told. Its tokenizer has a token for each byte.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

_SPREAD, _WEIGHT = 2.0, 0.02
"""Standard deviations: of logits, and of weights."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama. With `tie_word_embeddings` the embeddings are the head too."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(prod(shape) for _, shape in self.tensors())

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in their order."""
        hidden, wide = self.hidden_size, self.intermediate_size
        kept = hidden // self.num_attention_heads * self.num_key_value_heads
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        matrices = {"q": (hidden, hidden), "k": (kept, hidden), "v": (kept, hidden), "o": (hidden, hidden)}
        widening = {"gate": (wide, hidden), "up": (wide, hidden), "down": (hidden, wide)}
        for layer in range(self.num_hidden_layers):
            place = f"model.layers.{layer}"
            yield from ((f"{place}.self_attn.{name}_proj.weight", shape) for name, shape in matrices.items())
            yield from ((f"{place}.mlp.{name}_proj.weight", shape) for name, shape in widening.items())
            yield f"{place}.input_layernorm.weight", (hidden,)
            yield f"{place}.post_attention_layernorm.weight", (hidden,)
        yield "model.norm.weight", (hidden,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, hidden)


SHAPES = {
    "tiny": Shape(256, 704, 4, 8, 4, 4096, tie_word_embeddings=False),
    "1b": Shape(2048, 8192, 16, 32, 8, 128256, tie_word_embeddings=True),
    "3b": Shape(3072, 8192, 28, 24, 8, 128256, tie_word_embeddings=True),
    "8b": Shape(4096, 14336, 32, 32, 8, 128256, tie_word_embeddings=False),
}
"""A small one, and those of Llama 3.2 1B, Llama 3.2 3B and Llama 3 8B."""


def write(folder: Path, shape: Shape, device: str, most: int) -> None:
    """Make `folder` a model in BF16 whose shards have `most` bytes at most, its numbers drawn on `device` by a seed."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    numbers = torch.Generator(device).manual_seed(0)
    shards = list(_shards(shape, most))
    places: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        made = {key: _values(key, size, numbers) for key, size in tensors.items()}
        save_file(made, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 2 * shape.parameters}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(_config(shape)))
    _write_tokenizer(folder)


def _shards(shape: Shape, most: int) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    for name, size in shape.tensors():
        if shard and 2 * sum(map(prod, [*shard.values(), size])) > most:
            yield shard
            shard = {}
        shard[name] = size
    yield shard


def _values(name: str, size: tuple[int, ...], numbers: Any) -> Any:
    import torch

    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    spread = _SPREAD / size[1] ** 0.5 if name.startswith(("lm_head", "model.embed")) else _WEIGHT
    made = torch.randn(size, generator=numbers, device=numbers.device, dtype=torch.float32)
    return made.mul_(spread).bfloat16().cpu()


def _config(shape: Shape) -> dict[str, Any]:
    fixed = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": True,
    }
    return {**fixed, **asdict(shape)}


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: number for number, token in enumerate(["<end>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<end>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


if __name__ == "__main__":
    write(Path(sys.argv[1]), SHAPES[sys.argv[2]], sys.argv[3], int(sys.argv[4]))
