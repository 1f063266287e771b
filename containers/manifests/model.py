"""What must be known of a published model to serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formats.examine import FORMATS
from registry.reference import Reference


@dataclass(frozen=True)
class Sizes:
    """What a transformer's memory depends on besides its weights; zero is not known.

    `cached` are the values that a layer keeps of each token, of all its `heads`, over which GPUs can share them;
    `queries` the heads that ask, which GPUs share evenly; `length` the most tokens of a sequence.
    """

    layers: int
    hidden: int
    intermediate: int
    cached: int
    heads: int
    queries: int
    vocabulary: int
    length: int


@dataclass(frozen=True)
class Model:
    """A model in a registry: `reference` is pinned by digest, `asked` is how it was called.

    `is_image` is false for a ModelPack artifact, which no runtime mounts as it mounts images; `has_shell` says whether
    the image can run commands; `architectures` are those that it is for, none if it does not say; `files` are those of
    the model with their sizes in bytes, by path.
    """

    reference: Reference
    asked: str
    is_image: bool
    has_shell: bool
    architectures: tuple[str, ...]
    files: Mapping[str, int]
    sizes: Sizes | None

    @property
    def is_adapter(self) -> bool:
        """Whether it only changes another model, as LoRA does."""
        return "adapter_config.json" in self.files and "config.json" not in self.files

    @property
    def format(self) -> str:
        """The weight format: safetensors before gguf before onnx, as in a card; empty if no file has one of these."""
        found = {FORMATS[end] for name in self.files if (end := _suffix(name)) in FORMATS}
        return next((name for name in FORMATS.values() if name in found), "")

    @property
    def weights(self) -> Mapping[str, int]:
        """The weight files of that format, with the data beside ONNX graphs; sizes in bytes."""
        if self.format == "onnx":
            return {name: size for name, size in self.files.items() if not name.endswith((".md", ".json", ".txt"))}
        return {name: size for name, size in self.files.items() if FORMATS.get(_suffix(name)) == self.format}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2].lower()


def sizes_of_config(config: Mapping[str, Any]) -> Sizes | None:
    """The sizes in a config.json, or in its part about text; None if it does not tell how many layers there are."""
    text = config.get("text_config")
    if isinstance(text, dict) and "num_hidden_layers" in text:
        config = {**config, **text}
    layers, hidden = _number(config, "num_hidden_layers", "n_layer"), _number(config, "hidden_size", "n_embd")
    if not layers or not hidden:
        return None
    heads = _number(config, "num_attention_heads", "n_head") or 1
    shared = _number(config, "num_key_value_heads") or heads
    width = _number(config, "head_dim") or hidden // heads
    latent = _number(config, "kv_lora_rank")
    return Sizes(
        layers,
        hidden,
        _number(config, "intermediate_size", "ffn_dim", "n_inner") or 4 * hidden,
        latent + _number(config, "qk_rope_head_dim") if latent else 2 * shared * width,
        1 if latent else shared,
        heads,
        _number(config, "vocab_size"),
        _number(config, "max_position_embeddings", "n_positions", "max_sequence_length"),
    )


def sizes_of_gguf(metadata: Mapping[str, object], vocabulary: int) -> Sizes | None:
    """The sizes in the metadata of a GGUF file (ggml's `docs/gguf.md`), whose embedding has `vocabulary` rows."""
    family = metadata.get("general.architecture")
    said = {key.removeprefix(f"{family}."): value for key, value in metadata.items()}
    layers, hidden = _number(said, "block_count"), _number(said, "embedding_length")
    if not layers or not hidden:
        return None
    heads = _number(said, "attention.head_count") or 1
    shared = _number(said, "attention.head_count_kv") or heads
    key = _number(said, "attention.key_length") or hidden // heads
    value = _number(said, "attention.value_length") or key
    intermediate = _number(said, "feed_forward_length") or 4 * hidden
    length = _number(said, "context_length")
    return Sizes(layers, hidden, intermediate, shared * (key + value), shared, heads, vocabulary, length)


def _number(document: Mapping[str, object], *names: str) -> int:
    """The first of several members that is a count; 0 if none is."""
    found = (document.get(name) for name in names)
    return next((value for value in found if type(value) is int and 0 < value < 1 << 40), 0)
