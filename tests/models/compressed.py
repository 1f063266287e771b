"""Tiny llamas in compressed-tensors as llmcompressor writes them, of which a test changes what it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import ml_dtypes
import numpy

from tests.parts.tiny import safetensors_bytes, tensor

Array = Any
Tensors = dict[str, tuple[str, Array]]
"""Name to the type that a header gives and the values; those of eight bits are codes."""

_DTYPES = {"F32": numpy.float32, "I32": numpy.int32, "I64": numpy.int64}
_INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
_FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
_TOKENS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
_TENSOR = {**_FP8, "strategy": "tensor", "dynamic": False}

GROUPS: dict[str, dict[str, Any]] = {
    "int8": {"weights": _INT8, "input_activations": {**_TOKENS, "type": "int"}, "format": "int-quantized"},
    "dynamic": {"weights": _FP8, "input_activations": _TOKENS, "format": "float-quantized"},
    "static": {"weights": _TENSOR, "input_activations": _TENSOR, "format": "float-quantized"},
    "block": {
        "weights": {**_FP8, "strategy": "block", "block_structure": [4, 4]},
        "input_activations": {**_TOKENS, "strategy": "group", "group_size": 4},
        "format": "float-quantized",
    },
    "packed": {
        "weights": {**_INT8, "num_bits": 4, "strategy": "group", "group_size": 4},
        "input_activations": None,
        "format": "pack-quantized",
    },
    "asymmetric": {
        "weights": {**_INT8, "num_bits": 4, "strategy": "group", "group_size": 4, "symmetric": False},
        "format": "pack-quantized",
    },
    "fp4": {
        "weights": {**_FP8, "num_bits": 4, "strategy": "tensor_group", "group_size": 4},
        "input_activations": {**_FP8, "num_bits": 4, "strategy": "tensor_group", "group_size": 4, "dynamic": "local"},
        "format": "nvfp4-pack-quantized",
    },
    "mx": {
        "weights": {**_FP8, "strategy": "group", "group_size": 4, "scale_dtype": "torch.uint8"},
        "format": "mxfp8-quantized",
    },
}
"""The group of each kind of quantization."""

_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "tie_word_embeddings": True,
    "hidden_size": 8,
    "intermediate_size": 16,
    "vocab_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_SHAPES = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (8, 8)),
    **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (4, 8)),
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (16, 8)),
    "mlp.down_proj": (8, 16),
}


def config(kind: str, layers: int = 4, **changed: Any) -> dict[str, Any]:
    """The config of a model of a kind; `changed` is of its quantization_config."""
    group = {"targets": ["Linear"], **deepcopy(GROUPS[kind])}
    said = {"config_groups": {"group_0": group}, "format": group["format"], "ignore": ["lm_head"], **changed}
    return {
        **_LLAMA,
        "num_hidden_layers": layers,
        "quantization_config": {"quant_method": "compressed-tensors", "quantization_status": "compressed", **said},
    }


def tensors(kind: str, layers: int = 4) -> Tensors:
    """The tensors of a model of a kind, in the order of their names."""
    made: Tensors = {"model.embed_tokens.weight": ("BF16", numpy.ones((8, 8)))}
    for layer in range(layers):
        for number, (name, shape) in enumerate(_SHAPES.items()):
            usual = 1e-3 * (1 + (layer + number) % 3)
            parts = _module(kind, shape, usual)
            made |= {f"model.layers.{layer}.{name}.{part}": values for part, values in parts.items()}
    return dict(sorted(made.items()))


def _module(kind: str, shape: tuple[int, int], usual: float) -> Tensors:
    (rows, columns), full = shape, numpy.full
    match kind:
        case "int8" | "dynamic":
            dtype = "I8" if kind == "int8" else "F8_E4M3"
            return {"weight": (dtype, full(shape, 64)), "weight_scale": ("BF16", full((rows, 1), usual))}
        case "static":
            scales = {name: ("BF16", full((1,), usual)) for name in ("weight_scale", "input_scale")}
            return {"weight": ("F8_E4M3", full(shape, 64)), **scales}
        case "block":
            scale = full((-(-rows // 4), -(-columns // 4)), usual)
            return {"weight": ("F8_E4M3", full(shape, 64)), "weight_scale": ("BF16", scale)}
        case "fp4":
            numbers = {name: ("F32", full((1,), 1e4)) for name in ("weight_global_scale", "input_global_scale")}
            scale = full((rows, columns // 4), 64)
            return {
                "weight_packed": ("U8", full((rows, columns // 2), 17)),
                "weight_scale": ("F8_E4M3", scale),
                **numbers,
            }
        case "mx":
            return {"weight": ("F8_E4M3", full(shape, 64)), "weight_scale": ("U8", full((rows, columns // 4), 117))}
    packed: Tensors = {
        "weight_packed": ("I32", full((rows, columns // 8), 0x12345678)),
        "weight_scale": ("BF16", full((rows, columns // 4), 16 * usual)),
        "weight_shape": ("I64", numpy.array(shape)),
    }
    return packed | ({"weight_zero_point": ("I32", full((1, columns // 4), 1))} if kind == "asymmetric" else {})


def files(config: Mapping[str, Any], tensors: Tensors) -> dict[str, bytes]:
    """The files of a model."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, values) in tensors.items():
        raw = raw_of(dtype, values)
        header[name] = tensor(len(data), len(data) + len(raw), dtype, list(numpy.shape(values)))
        data += raw
    return {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors_bytes(header, data)}


def raw_of(dtype: str, values: Array) -> bytes:
    """Values as the bytes of a type; those of eight bits are the codes themselves."""
    known = _DTYPES.get(dtype) or (
        ml_dtypes.bfloat16 if dtype == "BF16" else numpy.float16 if dtype == "F16" else numpy.uint8
    )
    return bytes(numpy.asarray(values).astype(known).tobytes())
