"""The tensors of a GGUF beside the sizes in its keys, for architectures whose layers are those of Llama.

llama.cpp, src/llama-model.cpp: load_hparams and load_tensors, which refuse a tensor of any other shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from formats.findings import Finding
from formats.rules import gguf as rules
from formats.tensors import TensorInfo

_DENSE = frozenset(
    (
        *("llama", "mistral3", "qwen2", "qwen2vl", "qwen3", "gemma", "gemma2", "gemma3", "granite", "smollm3"),
        *("starcoder2", "olmo2", "internlm2", "exaone", "phi3"),
    )
)
"""Architectures all of whose layers have one plain feed-forward network, or experts under other names."""

_EXPERTS = frozenset(("qwen2moe", "qwen3moe", "llama4"))
"""Those whose attention alone is certain."""

_FUSED = "phi3"
"""It has query, key and value in one tensor, and gate and up in another."""

_TENSOR = re.compile(r"(?:blk\.(\d{1,6})\.)?(\w+)\.(weight|bias)")

_WIDTH, _FEED = "embedding_length", "feed_forward_length"
_HEADS, _HEADS_KV = "attention.head_count", "attention.head_count_kv"
_KEY, _VALUE = "attention.key_length", "attention.value_length"


@dataclass(frozen=True)
class _Sizes:
    """The sizes of a layer, by the keys of its architecture; 0 for what they do not say."""

    width: int
    feed: int
    heads: int
    heads_kv: int
    key: int
    value: int

    @property
    def query(self) -> int:
        return self.heads * self.key

    @property
    def keys(self) -> int:
        return self.heads_kv * self.key

    @property
    def values(self) -> int:
        return self.heads_kv * self.value

    @property
    def mixed(self) -> int:
        """What attention puts out; programs differ where keys and values are not of one length."""
        return self.query if self.key == self.value else 0

    def __str__(self) -> str:
        known = ((_WIDTH, self.width), (_FEED, self.feed), (_HEADS, self.heads), (_HEADS_KV, self.heads_kv))
        return ", ".join(f"{key} {size}" for key, size in (*known, (_KEY, self.key)) if size)


def check_shapes(
    file: str, tensors: Iterable[TensorInfo], metadata: Mapping[str, object], architecture: str
) -> Iterator[Finding]:
    """Tensors that the keys in `metadata` give another shape; nothing of architectures that are not known for certain.

    `tensors` may be some of the model's. A key that is an array has a value for each layer.
    """
    if architecture not in _DENSE | _EXPERTS:
        return
    layers: dict[int, _Sizes] = {}
    for tensor in tensors:
        if match := _TENSOR.fullmatch(tensor.name):
            layer = int(match[1] or 0)
            sizes = layers.setdefault(layer, _sizes(metadata, architecture, layer))
            wanted = _wanted(match[2], sizes, architecture, in_layer=bool(match[1]))
            wanted = wanted[:1] if match[3] == "bias" else wanted
            if wanted and all(wanted) and tensor.shape != wanted:
                yield rules.SHAPE.finding(
                    file, tensor=tensor.name, expected=f"{list(wanted)}, by {sizes}", found=list(tensor.shape)
                )


def _wanted(part: str, sizes: _Sizes, architecture: str, *, in_layer: bool) -> tuple[int, ...]:
    """The shape of a tensor, the outermost size first, with 0 for what is not known; empty for any other tensor."""
    if not in_layer:
        return {"output_norm": (sizes.width,)}.get(part, ())
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (sizes.width,),
        "ffn_norm": (sizes.width,),
        "attn_q": (sizes.query, sizes.width),
        "attn_k": (sizes.keys, sizes.width),
        "attn_v": (sizes.values, sizes.width),
        "attn_output": (sizes.width, sizes.mixed),
    }
    if architecture in _DENSE:
        up = sizes.feed * (2 if architecture == _FUSED else 1)
        shapes |= {"ffn_gate": (sizes.feed, sizes.width), "ffn_up": (up, sizes.width)}
        shapes["ffn_down"] = (sizes.width, sizes.feed)
    if architecture == _FUSED and sizes.keys and sizes.values:
        shapes["attn_qkv"] = (sizes.query + sizes.keys + sizes.values, sizes.width)
    return shapes.get(part, ())


def _sizes(metadata: Mapping[str, object], architecture: str, layer: int) -> _Sizes:
    def size(key: str, default: int = 0, at: int = layer) -> int:
        name = f"{architecture}.{key}"
        return _at(metadata[name], at) if name in metadata else default

    width, heads, first = size(_WIDTH), size(_HEADS), size(_HEADS, at=0)
    head = width // first if first > 0 else 0
    return _Sizes(width, size(_FEED), heads, size(_HEADS_KV, heads), size(_KEY, head), size(_VALUE, head))


def _at(value: object, layer: int) -> int:
    """The size that a key gives a layer; 0 if it gives none that can be right."""
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else 0
    return value if type(value) is int and value > 0 else 0
