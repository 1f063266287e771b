"""config.json against the tensors: models as they are published pass, and what does not fit is named."""

from __future__ import annotations

import time
from typing import Any

import pytest

from formats.config import check_config
from formats.tensors import TensorInfo
from registry.names import relative_path

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 4,
    "vocab_size": 8,
}
WEIGHTS = {
    "model.embed_tokens.weight": ("BF16", (8, 4)),
    "model.layers.0.self_attn.weight": ("BF16", (4, 4)),
    "model.layers.1.self_attn.weight": ("BF16", (4, 4)),
    "lm_head.weight": ("BF16", (8, 4)),
}

MISTRAL = {
    "tok_embeddings.weight": ("BF16", (8, 4)),
    **{f"layers.{at}.{part}.weight": ("BF16", (4, 4)) for at in (0, 1) for part in ("attention.wq", "feed_forward.w1")},
    "norm.weight": ("BF16", (4,)),
    "output.weight": ("BF16", (8, 4)),
}
EAGLE = {"fc.weight": ("BF16", (4, 8)), "layers.0.self_attn.q_proj.weight": ("BF16", (4, 4))}
EAGLE3 = {
    "d2t": ("I64", (4,)),
    "midlayer.self_attn.q_proj.weight": ("BF16", (4, 8)),
    "lm_head.weight": ("BF16", (4, 4)),
}
ELECTRA = {
    "electra.embeddings.word_embeddings.weight": ("F32", (8, 2)),
    "electra.encoder.layer.0.attention.self.query.weight": ("F32", (4, 4)),
}
SMALL = {"model_type": "electra", "num_hidden_layers": 1, "hidden_size": 4, "embedding_size": 2, "vocab_size": 8}


def broken(config: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    file = relative_path("model.safetensors", "")
    known = {name: TensorInfo(name, dtype, shape, file, 0, 0) for name, (dtype, shape) in tensors.items()}
    return [finding.rule.id for finding in check_config(config, known)]


def quantized(method: str, **tensors: str) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    config = {"quantization_config": {"quant_method": method}}
    return config, {name.replace("__", "."): (dtype, (4, 4)) for name, dtype in tensors.items()}


def layered(usual: tuple[int, ...], count: int, other: tuple[int, ...], few: int) -> Any:
    """Layers of which the last few have another shape."""
    shapes = [usual] * count + [other] * few
    return {f"layers.{at}.mlp.up.weight": ("BF16", shape) for at, shape in enumerate(shapes)}


GOOD: dict[str, tuple[dict[str, Any], Any]] = {
    "llama": (LLAMA, WEIGHTS),
    "tied": ({**LLAMA, "tie_word_embeddings": True}, {k: v for k, v in WEIGHTS.items() if k != "lm_head.weight"}),
    "no config": ({}, WEIGHTS),
    "unknown": ({"model_type": "novel", "num_hidden_layers": 99}, WEIGHTS),
    "extra prediction layer": (
        {**LLAMA, "model_type": "deepseek_v3", "num_nextn_predict_layers": 1},
        {**WEIGHTS, "model.layers.2.eh_proj.weight": ("BF16", (4, 4))},
    ),
    "deepseek fp8": quantized("fp8", a__weight="F8_E4M3", a__weight_scale_inv="F32", norm__weight="BF16"),
    "compressed-tensors": quantized("compressed-tensors", a__weight="I8", a__weight_scale="BF16"),
    "packed": quantized("compressed-tensors", a__weight_packed="I32", a__weight_scale="BF16"),
    "gptq": quantized("gptq", a__qweight="I32", a__scales="F16", a__qzeros="I32"),
    "awq": quantized("awq", a__qweight="I32", a__scales="F16", a__qzeros="I32"),
    "bitsandbytes 4": quantized("bitsandbytes", a__weight="U8", a__weight__absmax="U8"),
    "bitsandbytes 8": quantized("bitsandbytes", a__weight="I8", a__SCB="F32"),
    "gpt-oss": quantized("mxfp4", a_blocks="U8", a_scales="U8", b="BF16"),
    "a layer that is not quantized": (
        {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}},
        {
            "embed_tokens.weight": ("BF16", (4, 4)),
            **{f"layers.{at}.a.weight": ("F8_E4M3", (4, 4)) for at in (1, 2, 3)},
            **{f"layers.{at}.a.weight_scale_inv": ("F32", (1, 1)) for at in (1, 2, 3)},
            "layers.0.a.weight": ("BF16", (4, 4)),
        },
    ),
    "some layers in four bits": (
        {"model_type": "llama"},
        {
            "embed_tokens.weight": ("BF16", (4, 4)),
            "layers.0.a.weight": ("BF16", (4, 4)),
            **{f"layers.{at}.a.weight": ("U8", (4, 4)) for at in (1, 2, 3)},
            **{f"layers.{at}.a.weight.absmax": ("F32", (4,)) for at in (1, 2, 3)},
            **{f"layers.{at}.a.weight.quant_state.bitsandbytes__nf4": ("U8", (4,)) for at in (1, 2, 3)},
        },
    ),
    "another method": quantized("hqq", a__codes="U8"),
    "dense": (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "dense"}},
        {"a.weight": ("BF16", (4, 4))},
    ),
    "marlin": quantized("compressed-tensors", a__weight_packed="I32", a__scale_packed="F16", a__meta="I16"),
    "sparse": quantized(
        "compressed-tensors", a__compressed="BF16", a__bitmask="U8", a__shape="I64", a__row_offsets="I64"
    ),
    "sparse fp8": quantized("compressed-tensors", a__compressed="F8_E4M3", a__bitmask="U8", a__weight_scale="BF16"),
    "mistral's names": (LLAMA | {"model_type": "mistral"}, MISTRAL),
    "mistral's names beside the others": (LLAMA | {"model_type": "mistral"}, WEIGHTS | MISTRAL),
    "mistral's fp8": quantized(
        "fp8", layers__0__attention__wq__weight="F8_E4M3", layers__0__attention__wq__qscale_weight="F32"
    ),
    "the type that the config says": ({**LLAMA, "torch_dtype": "bfloat16"}, WEIGHTS),
    "some norms in another type": ({**LLAMA, "dtype": "bfloat16"}, {**WEIGHTS, "model.norm.weight": ("F32", (4,))}),
    "eagle": (LLAMA, EAGLE),
    "eagle with its embedding": (LLAMA, EAGLE | {"embed_tokens.weight": ("BF16", (8, 4))}),
    "eagle by its name": (LLAMA | {"architectures": ["LlamaForCausalLMEagle3"]}, EAGLE3),
    "eagle by its config": (LLAMA | {"draft_vocab_size": 4}, EAGLE3),
    "medusa": (
        LLAMA | {"medusa_num_heads": 1},
        {"0.0.linear.weight": ("BF16", (4, 4)), "0.1.weight": ("BF16", (8, 4))},
    ),
    "electra": (SMALL, ELECTRA),
    "odd values": ({**LLAMA, "head_dim": None, "vocab_size": None, "quantization_config": "none"}, WEIGHTS),
    "one layer of four is another, of an unknown kind": ({"model_type": "novel"}, layered((4, 4), 3, (4, 8), 1)),
    "layers that the config lists": ({"model_type": "novel", "ffn": [1.0] * 9}, layered((4, 4), 8, (4, 8), 1)),
    "layers that a config inside lists": (
        {"model_type": "novel", "text_config": {"kinds": ["a"] * 9}},
        layered((4, 4), 8, (4, 8), 1),
    ),
    "layers of many shapes": ({"model_type": "novel"}, layered((4, 4), 9, (4, 8), 1) | layered((8, 8), 1, (8, 4), 0)),
}

BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "a layer too few": ({**LLAMA, "num_hidden_layers": 3}, WEIGHTS, "model-config-layers"),
    "a layer too many": ({**LLAMA, "num_hidden_layers": 1}, WEIGHTS, "model-config-layers"),
    "absurd depth": ({**LLAMA, "num_hidden_layers": 1 << 60}, WEIGHTS, "model-config-layers"),
    "vocabulary": ({**LLAMA, "vocab_size": 9}, WEIGHTS, "model-config-embedding"),
    "hidden size as text": ({**LLAMA, "hidden_size": "4"}, WEIGHTS, "model-config-value"),
    "hidden size": ({**LLAMA, "hidden_size": 5}, WEIGHTS, "model-config-embedding"),
    "no embedding": (
        {**LLAMA, "tie_word_embeddings": True},
        {k: v for k, v in WEIGHTS.items() if "layers" in k},
        "model-config-embedding-missing",
    ),
    "a module too few": (
        {**LLAMA, "num_hidden_layers": 3},
        {
            **WEIGHTS,
            "model.layers.2.self_attn.weight": ("BF16", (4, 4)),
            "model.layers.0.attn.weight": ("BF16", (4, 4)),
            "model.layers.2.attn.weight": ("BF16", (4, 4)),
        },
        "model-config-layer-parts",
    ),
    "no head": (LLAMA, {k: v for k, v in WEIGHTS.items() if k != "lm_head.weight"}, "model-config-head-missing"),
    "names of another kind": (
        LLAMA,
        {"decoder.layers.0.self_attention.linear_qkv.weight": ("BF16", (4, 4))},
        "model-config-names",
    ),
    "names of another tower": (
        LLAMA,
        {"model.norm.weight": ("BF16", (4,)), "vision.x.weight": ("BF16", (4,))},
        "model-config-names",
    ),
    "no layers, and what a draft has": (
        LLAMA,
        {k: v for k, v in WEIGHTS.items() if "layers" not in k} | {"fc.weight": ("BF16", (4, 8))},
        "model-config-layers",
    ),
    "no layers and no head, and what a draft has": (
        {**LLAMA, "tie_word_embeddings": True},
        {"model.embed_tokens.weight": ("BF16", (8, 4)), "fc.weight": ("BF16", (4, 8))},
        "model-config-layers",
    ),
    "what a draft has, and no states to join": (
        LLAMA,
        {k: v for k, v in WEIGHTS.items() if "lm_head" not in k} | {"fc.weight": ("BF16", (4, 4))},
        "model-config-head-missing",
    ),
    "no scale of sparse fp8": (
        *quantized("compressed-tensors", a__compressed="F8_E4M3", a__bitmask="U8"),
        "model-config-scale-missing",
    ),
    "another type": ({**LLAMA, "torch_dtype": "float32"}, WEIGHTS, "model-config-dtype"),
    "no scale of marlin": (
        *quantized("compressed-tensors", a__weight_packed="I32", a__meta="I16"),
        "model-config-scale-missing",
    ),
    "no bitmask": (
        *quantized("compressed-tensors", a__compressed="BF16", a__shape="I64"),
        "model-config-scale-missing",
    ),
    "no embedding of mistral": (
        LLAMA,
        {k: v for k, v in MISTRAL.items() if "tok" not in k},
        "model-config-embedding-missing",
    ),
    "no head of mistral": (
        LLAMA,
        {k: v for k, v in MISTRAL.items() if k != "output.weight"},
        "model-config-head-missing",
    ),
    "a layer of mistral": ({**LLAMA, "num_hidden_layers": 3}, MISTRAL, "model-config-layers"),
    "electra's embedding": ({**SMALL, "embedding_size": 4}, ELECTRA, "model-config-embedding"),
    "the head's vocabulary": (
        LLAMA,
        {**WEIGHTS, "lm_head.weight": ("BF16", (9, 4))},
        "model-config-embedding",
    ),
    "one layer of many is another": ({"model_type": "n"}, layered((4, 4), 8, (4, 8), 1), "model-config-layer-shapes"),
    **{
        f"{key} {value}": ({**LLAMA, key: value}, WEIGHTS, "model-config-value")
        for key in ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        for value in ("4", 0, -4, True, 4.0, [4], 10**4000)
    },
    "heads do not divide": ({**LLAMA, "num_attention_heads": 3}, WEIGHTS, "model-config-value"),
    "heads of keys do not divide": (
        {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 3},
        WEIGHTS,
        "model-config-value",
    ),
    "not quantized": (*quantized("fp8", a__weight="BF16"), "model-config-quantization"),
    "no scale": (*quantized("fp8", a__weight="F8_E4M3", b__weight_scale="F32"), "model-config-scale-missing"),
    "no declaration": ({}, {"a.weight": ("F8_E4M3", (4, 4))}, "model-config-undeclared"),
}


@pytest.mark.parametrize("name", GOOD)
def test_models_as_they_are_published(name: str) -> None:
    assert broken(*GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit(name: str) -> None:
    config, tensors, rule = BAD[name]
    assert set(broken(config, tensors)) == {rule}


@pytest.mark.parametrize("end", ["\n", "!", ""])
def test_long_names_cost_no_more_than_their_length(end: str) -> None:
    tensors: Any = {f"model.layers.{at}{'.weight' * 570}{end}": ("BF16", (4, 4)) for at in range(1000)}
    started = time.process_time()
    assert "model-config-embedding-missing" in broken(LLAMA | {"num_hidden_layers": 1000}, tensors)
    assert time.process_time() - started < 20
