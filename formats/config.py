"""config.json against the tensors, for the architectures whose tensor names are known from their model_type.

https://huggingface.co/docs/transformers/main_classes/configuration
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from formats.findings import Finding
from formats.rules import model as rules
from formats.tensors import TensorInfo

CONFIG = "config.json"
MAX_FINDINGS = 100
"""Findings about one config."""


@dataclass(frozen=True)
class _Names:
    """How an architecture names its parts, in its tensors and in its config."""

    embedding: str = "embed_tokens.weight"
    layers: str = "layers"
    hidden: str = "hidden_size"
    depth: str = "num_hidden_layers"
    head: str = ""
    tied: bool = True
    """Whether embedding and head are one where the config does not say."""


_UNTIED = _Names(head="lm_head.weight", tied=False)
_TIED = _Names(head="lm_head.weight")
_BERT = _Names("word_embeddings.weight", "layer")
_GPT2 = _Names("wte.weight", "h", "n_embd", "n_layer")
_NEOX = _Names("embed_in.weight", "layers", head="embed_out.weight", tied=False)

_ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3"), _UNTIED),
    **dict.fromkeys(("olmo", "olmo2", "granite", "stablelm", "deepseek_v2", "deepseek_v3", "gpt_oss"), _UNTIED),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "cohere", "cohere2", "smollm3", "starcoder2"), _TIED),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _BERT),
    "distilbert": _Names("word_embeddings.weight", "layer", "dim", "n_layers"),
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
}

_UNIFORM = frozenset(
    (
        *("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo", "olmo2", "granite", "stablelm", "gemma", "gemma2"),
        *("smollm3", "starcoder2", "bert", "roberta", "distilbert", "gpt2", "gpt_neox"),
    )
)
"""Architectures whose layers all have the same modules."""

_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_QUANTIZED = frozenset(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "I8", "U8"))
_SCALES = {
    ".weight_packed": (".weight_scale",),
    ".qweight": (".scales",),
    "_blocks": ("_scales",),
    ".weight": (".weight_scale", ".weight_scale_inv", ".SCB", ".weight.absmax"),
}
"""The end of a quantized weight's name, to the ends that the name of its scale may have."""

_QUANTIZED_PART = re.compile(r"\.weight(?:[._].*)?$|\.[^.]*$")
"""The end of a tensor's name behind its module: `.weight`, with what bitsandbytes adds to it, or any last part."""

_METHODS = frozenset(("fp8", "fbgemm_fp8", "gptq", "awq", "bitsandbytes", "mxfp4", "modelopt", "compressed-tensors"))
"""Values of quant_method whose weights and scales are named so; others name them as they like."""


def check_config(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Whether the tensors, by name, are those of the config; for an unknown architecture only quantization is asked."""
    yield from islice(_check(config, tensors), MAX_FINDINGS)


def _check(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    names = _ARCHITECTURES.get(str(config.get("model_type")))
    if names:
        layers = _modules(tensors, names)
        yield from _check_layers(config, set(layers), names)
        if config["model_type"] in _UNIFORM:
            yield from _check_modules(layers)
        yield from _check_embedding(config, tensors, names)
        yield from _check_head(config, tensors, names)
    yield from _check_quantization(config, tensors)


def _check_layers(config: Mapping[str, Any], there: set[int], names: _Names) -> Iterator[Finding]:
    depth, extra = config.get(names.depth), config.get("num_nextn_predict_layers") or 0
    if type(depth) is not int or type(extra) is not int:
        return
    missing = min(set(range(min(depth, len(there) + 1))) - there, default=None)
    if missing is not None:
        yield rules.CONFIG_LAYERS.finding(CONFIG, expected=f"{names.depth} {depth}", found=f"no layer {missing}")
    elif max(there, default=-1) >= depth + extra:
        yield rules.CONFIG_LAYERS.finding(CONFIG, expected=f"{names.depth} {depth}", found=f"a layer {max(there)}")


def _modules(tensors: Iterable[str], names: _Names) -> dict[int, set[str]]:
    """The modules of each layer, such as `self_attn.q_proj`."""
    pattern = re.compile(rf"(?:[\w.]+\.)?{names.layers}\.(\d{{1,6}})\.(.*)", re.DOTALL)
    layers: dict[int, set[str]] = {}
    for name in tensors:
        if match := pattern.match(name):
            layers.setdefault(int(match[1]), set()).add(_QUANTIZED_PART.split(match[2])[0])
    return layers


def _check_modules(layers: Mapping[int, set[str]]) -> Iterator[Finding]:
    """Every layer has the modules that most layers have."""
    counts = Counter(module for modules in layers.values() for module in modules)
    usual = sorted(module for module, count in counts.items() if 2 * count > len(layers))
    for layer, modules in sorted(layers.items()):
        if missing := next((module for module in usual if module not in modules), None):
            found = f"not in layer {layer}, and in {counts[missing]} of {len(layers)} layers"
            yield rules.CONFIG_LAYER_PARTS.finding(CONFIG, expected=missing, found=found)


def _check_embedding(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: _Names) -> Iterator[Finding]:
    stem = names.embedding.removesuffix("weight")
    if not any(name.startswith(stem) or f".{stem}" in name for name in tensors):
        yield rules.CONFIG_NO_EMBEDDING.finding(CONFIG, expected=names.embedding, found="no such tensor")
    sizes = config.get("vocab_size"), config.get(names.hidden)
    for tensor in _ending(tensors, names.embedding):
        if all(type(size) is int for size in sizes) and tensor.dtype in _FLOATS and tensor.shape != sizes:
            yield rules.CONFIG_EMBEDDING.finding(
                tensor.file, tensor=tensor.name, expected=list(sizes), found=list(tensor.shape)
            )


def _check_head(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: _Names) -> Iterator[Finding]:
    architectures = config.get("architectures")
    is_causal = isinstance(architectures, list) and any(str(name).endswith("ForCausalLM") for name in architectures)
    if is_causal and names.head and config.get("tie_word_embeddings", names.tied) is False:
        stem = names.head.removesuffix(".weight")
        if not any(name.startswith(f"{stem}.") for name in tensors):
            yield rules.CONFIG_HEAD.finding(CONFIG, expected=names.head, found="tie_word_embeddings false, and no head")


def _ending(tensors: Mapping[str, TensorInfo], end: str) -> Iterator[TensorInfo]:
    return (tensor for name, tensor in tensors.items() if name == end or name.endswith(f".{end}"))


def _check_quantization(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    weights = [tensor for tensor in tensors.values() if _scales_of(tensor)]
    declared = config.get("quantization_config") or config.get("compression_config")
    said = declared if isinstance(declared, dict) else {"quant_method": ""}
    method = str(said.get("quant_method", "compressed-tensors"))
    if method in _METHODS and said.get("format") != "dense":
        if not weights:
            found = ", ".join(sorted({tensor.dtype for tensor in tensors.values()}))
            yield rules.CONFIG_QUANTIZED.finding(CONFIG, expected=f"weights of {method}", found=f"only {found}")
        for tensor in weights:
            scales = _scales_of(tensor)
            if not any(name in tensors for name in scales):
                yield rules.CONFIG_SCALES.finding(tensor.file, tensor=tensor.name, expected=" or ".join(scales))
    first = next((tensor for tensor in weights if tensor.dtype.startswith("F8")), None)
    if first and not declared:
        yield rules.CONFIG_UNDECLARED.finding(
            first.file, tensor=first.name, expected="quantization_config", found="none"
        )


def _scales_of(tensor: TensorInfo) -> list[str]:
    """The names that the scale of a quantized weight may have; none if the tensor is no quantized weight."""
    for end, scales in _SCALES.items():
        if tensor.name.endswith(end):
            packed = end != ".weight"
            stem = tensor.name.removesuffix(end)
            return [stem + scale for scale in scales] if packed or tensor.dtype in _QUANTIZED else []
    return []
