"""How the architectures of transformers name their tensors and the sizes of these, as tables.

https://huggingface.co/docs/transformers/main_classes/configuration
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Shapes = Mapping[str, tuple[str, ...]]
"""Names of tensors behind a root, with `*` for each number, to the sizes that they have, by their names in `_sizes`."""


@dataclass(frozen=True)
class Names:
    """How an architecture names its parts, in its tensors and in its config."""

    embedding: str = "embed_tokens.weight"
    layers: str = "layers"
    part: str = "self_attn"
    """What only a layer of these names has."""
    hidden: str = "hidden_size"
    depth: str = "num_hidden_layers"
    head: str = ""
    tied: bool = True
    """Whether embedding and head are one where the config does not say."""
    width: str = "hidden_size"
    """The size of what the embedding gives."""
    heads: str = "num_attention_heads"
    feed: str = "intermediate_size"
    roots: tuple[str, ...] = ("model.", "")
    """What may stand before the names of `shapes`."""
    shapes: Shapes = field(default_factory=dict)
    head_dim: int = 0
    """The size of a head where the config does not say; 0 is what the heads share."""
    ungrouped: bool = False
    """Whether there are as many heads of keys as of queries where the config does not say."""


def _linear(prefix: str, rows: str, columns: str, names: str) -> Shapes:
    return {f"{prefix}.{name}.weight": (rows, columns) for name in names.split()}


def _norms(prefix: str, size: str, names: str) -> Shapes:
    return {f"{prefix}{name}.weight": (size,) for name in names.split()}


_FEED = {
    **_linear("layers.*.mlp", "feed", "hidden", "gate_proj up_proj c_fc"),
    **_linear("layers.*.mlp", "hidden", "feed", "down_proj c_proj"),
    **_linear("layers.*.mlp.experts.*", "expert", "hidden", "gate_proj up_proj"),
    **_linear("layers.*.mlp.experts.*", "hidden", "expert", "down_proj"),
    **_linear("layers.*.mlp.shared_expert", "shared", "hidden", "gate_proj up_proj"),
    **_linear("layers.*.mlp.shared_expert", "hidden", "shared", "down_proj"),
    **_linear("layers.*.block_sparse_moe.experts.*", "feed", "hidden", "w1 w3"),
    **_linear("layers.*.block_sparse_moe.experts.*", "hidden", "feed", "w2"),
    **_norms("layers.*.", "hidden", "input_layernorm post_attention_layernorm"),
    **_norms("layers.*.", "hidden", "pre_feedforward_layernorm post_feedforward_layernorm"),
    "norm.weight": ("hidden",),
}
_OF_MISTRAL = {
    **_linear("layers.*.attention", "query", "hidden", "wq"),
    **_linear("layers.*.attention", "key", "hidden", "wk wv"),
    **_linear("layers.*.attention", "hidden", "query", "wo"),
    **_linear("layers.*.feed_forward", "feed", "hidden", "w1 w3"),
    **_linear("layers.*.feed_forward", "hidden", "feed", "w2"),
    **_norms("layers.*.", "hidden", "attention_norm ffn_norm"),
}
_LLAMA = {
    **_FEED,
    **_OF_MISTRAL,
    **_linear("layers.*.self_attn", "query", "hidden", "q_proj"),
    **_linear("layers.*.self_attn", "key", "hidden", "k_proj v_proj"),
    **_linear("layers.*.self_attn", "hidden", "query", "o_proj"),
}
_HEAD_NORMS = _norms("layers.*.self_attn.", "head", "q_norm k_norm")
_OF_OLMO2 = {"layers.*.self_attn.q_norm.weight": ("query",), "layers.*.self_attn.k_norm.weight": ("key",)}
_OF_PHI3 = {
    **_linear("layers.*.self_attn", "queries and keys", "hidden", "qkv_proj"),
    **_linear("layers.*.mlp", "two feeds", "hidden", "gate_up_proj"),
}
_OF_BERT = {
    **_linear("encoder.layer.*.attention.self", "hidden", "hidden", "query key value"),
    **_linear("encoder.layer.*.attention.output", "hidden", "hidden", "dense"),
    **_linear("encoder.layer.*.intermediate", "feed", "hidden", "dense"),
    **_linear("encoder.layer.*.output", "hidden", "feed", "dense"),
    **_norms("encoder.layer.*.", "hidden", "attention.output.LayerNorm output.LayerNorm"),
    "embeddings.LayerNorm.weight": ("width",),
}
_OF_DISTILBERT = {
    **_linear("transformer.layer.*.attention", "hidden", "hidden", "q_lin k_lin v_lin out_lin"),
    **_linear("transformer.layer.*.ffn", "feed", "hidden", "lin1"),
    **_linear("transformer.layer.*.ffn", "hidden", "feed", "lin2"),
    **_norms("transformer.layer.*.", "hidden", "sa_layer_norm output_layer_norm"),
    "embeddings.LayerNorm.weight": ("hidden",),
}
_OF_GPT2 = {
    **_linear("h.*.attn", "hidden", "three hidden", "c_attn"),
    **_linear("h.*.attn", "hidden", "hidden", "c_proj"),
    **_linear("h.*.mlp", "hidden", "feed", "c_fc"),
    **_linear("h.*.mlp", "feed", "hidden", "c_proj"),
    **_norms("", "hidden", "h.*.ln_1 h.*.ln_2 ln_f"),
}
_OF_NEOX = {
    **_linear("layers.*.attention", "three hidden", "hidden", "query_key_value"),
    **_linear("layers.*.attention", "hidden", "hidden", "dense"),
    **_linear("layers.*.mlp", "feed", "hidden", "dense_h_to_4h"),
    **_linear("layers.*.mlp", "hidden", "feed", "dense_4h_to_h"),
    **_norms("", "hidden", "layers.*.input_layernorm layers.*.post_attention_layernorm final_layer_norm"),
}

UNTIED = Names(head="lm_head.weight", tied=False, shapes=_LLAMA)
_UNGROUPED = replace(UNTIED, ungrouped=True)
_QWEN3 = replace(UNTIED, shapes={**_LLAMA, **_HEAD_NORMS})
_TIED = replace(UNTIED, tied=True)
_GEMMA = replace(_TIED, head_dim=256)
_LATENT = replace(UNTIED, shapes=_FEED, heads="")
"""Attention through projections of their own ranks, of which nothing is asked."""

_BERT = Names(
    *("word_embeddings.weight", "layer", "attention"),
    roots=("bert.", "roberta.", "electra.", ""),
    shapes=_OF_BERT,
)
_DISTILBERT = Names(
    *("word_embeddings.weight", "layer", "attention", "dim", "n_layers"),
    width="dim",
    heads="n_heads",
    feed="hidden_dim",
    roots=("distilbert.", ""),
    shapes=_OF_DISTILBERT,
)
_GPT2 = Names(
    *("wte.weight", "h", "attn", "n_embd", "n_layer"),
    width="n_embd",
    heads="n_head",
    feed="n_inner",
    roots=("transformer.", ""),
    shapes=_OF_GPT2,
)
_NEOX = Names(
    *("embed_in.weight", "layers", "attention"),
    head="embed_out.weight",
    tied=False,
    roots=("gpt_neox.", ""),
    shapes=_OF_NEOX,
)

ARCHITECTURES = {
    **dict.fromkeys(("mistral", "mixtral", "qwen2", "qwen2_moe", "stablelm"), UNTIED),
    **dict.fromkeys(("llama", "olmo", "granite"), _UNGROUPED),
    "phi3": replace(_UNGROUPED, shapes={**_LLAMA, **_OF_PHI3}),
    "olmo2": replace(UNTIED, shapes={**_LLAMA, **_OF_OLMO2}),
    "qwen3": replace(_QWEN3, head_dim=128),
    "qwen3_moe": _QWEN3,
    "gpt_oss": replace(UNTIED, head_dim=64),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _LATENT),
    **dict.fromkeys(("gemma", "gemma2"), _GEMMA),
    "gemma3_text": replace(_GEMMA, shapes={**_LLAMA, **_HEAD_NORMS}),
    **dict.fromkeys(("cohere", "cohere2", "smollm3", "starcoder2"), _TIED),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _BERT),
    "electra": replace(_BERT, width="embedding_size"),
    "distilbert": _DISTILBERT,
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
}

UNIFORM = frozenset(
    (
        *("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo", "olmo2", "granite", "stablelm", "gemma", "gemma2"),
        *("smollm3", "starcoder2", "bert", "roberta", "distilbert", "electra", "gpt2", "gpt_neox"),
    )
)
"""Architectures whose layers all have the same modules."""
