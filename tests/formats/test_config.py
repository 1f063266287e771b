"""config.json against the tensors: models as they are published pass, and what does not fit is named."""

from __future__ import annotations

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
    "model.layers.0.mlp.weight": ("BF16", (4, 4)),
    "model.layers.1.mlp.weight": ("BF16", (4, 4)),
    "lm_head.weight": ("BF16", (8, 4)),
}


def broken(config: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    file = relative_path("model.safetensors", "")
    known = {name: TensorInfo(name, dtype, shape, file, 0, 0) for name, (dtype, shape) in tensors.items()}
    return [finding.rule.id for finding in check_config(config, known)]


def quantized(method: str, **tensors: str) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    config = {"quantization_config": {"quant_method": method}}
    return config, {name.replace("__", "."): (dtype, (4, 4)) for name, dtype in tensors.items()}


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
    "odd values": ({**LLAMA, "num_hidden_layers": "2", "vocab_size": None, "quantization_config": "none"}, WEIGHTS),
}

BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "a layer too few": ({**LLAMA, "num_hidden_layers": 3}, WEIGHTS, "model-config-layers"),
    "a layer too many": ({**LLAMA, "num_hidden_layers": 1}, WEIGHTS, "model-config-layers"),
    "absurd depth": ({**LLAMA, "num_hidden_layers": 1 << 60}, WEIGHTS, "model-config-layers"),
    "vocabulary": ({**LLAMA, "vocab_size": 9}, WEIGHTS, "model-config-embedding"),
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
            "model.layers.2.mlp.weight": ("BF16", (4, 4)),
            "model.layers.0.attn.weight": ("BF16", (4, 4)),
            "model.layers.2.attn.weight": ("BF16", (4, 4)),
        },
        "model-config-layer-parts",
    ),
    "no head": (LLAMA, {k: v for k, v in WEIGHTS.items() if k != "lm_head.weight"}, "model-config-head-missing"),
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
    assert broken(config, tensors) == [rule]
