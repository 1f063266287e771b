"""quantization_config and dtype of a config.json against the types of the tensors and the presence of their scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from formats.findings import Finding
from formats.rules import model as rules
from formats.tensors import TensorInfo, count_by_dtype

_CONFIG = "config.json"

FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
WHOLE = FLOATS | frozenset(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"))
"""Types of tensors that have the shape of their module's weight; in others, several weights may be in one element."""

QUANTIZED = frozenset(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "I8", "U8"))
"""Types of codes that stand for weights."""

_SCALE = (".weight_scale", ".weight_scale_inv", ".SCB", ".weight.absmax", ".qscale_weight")
_SCALES = {
    ".weight_packed": (".weight_scale", ".scale_packed"),
    ".compressed": _SCALE,
    ".qweight": (".scales",),
    "_blocks": ("_scales",),
    ".weight": _SCALE,
}
"""The end of a quantized weight's name, to the ends that the name of its scale may have."""

_EITHER = frozenset((".compressed", ".weight"))
"""Those that are quantized weights only in some types."""

_MASKS = {".compressed": ".bitmask"}
"""The end of a sparse weight's name, to that of the mask which says where its values go."""

_METHODS = frozenset(("fp8", "fbgemm_fp8", "gptq", "awq", "bitsandbytes", "mxfp4", "modelopt", "compressed-tensors"))
"""Values of quant_method whose weights and scales are named so; others name them as they like."""


def check_quantization(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """What the config says of a quantization is so, and every quantized weight has its scale."""
    needed = {name: _needed(tensor) for name, tensor in tensors.items()}
    weights = [tensors[name] for name, ends in needed.items() if ends]
    declared = config.get("quantization_config") or config.get("compression_config")
    said = declared if isinstance(declared, dict) else {"quant_method": ""}
    method = str(said.get("quant_method", "compressed-tensors"))
    if method in _METHODS and said.get("format") != "dense":
        if not weights:
            found = ", ".join(sorted({tensor.dtype for tensor in tensors.values()}))
            yield rules.CONFIG_QUANTIZED.finding(_CONFIG, expected=f"weights of {method}", found=f"only {found}")
        for tensor in weights:
            for names in needed[tensor.name]:
                if not any(name in tensors for name in names):
                    yield rules.CONFIG_SCALES.finding(tensor.file, tensor=tensor.name, expected=" or ".join(names))
    first = next((tensor for tensor in weights if tensor.dtype.startswith("F8")), None)
    if first and not declared:
        yield rules.CONFIG_UNDECLARED.finding(
            first.file, tensor=first.name, expected="quantization_config", found="none"
        )


def check_dtype(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Most weights of a model that is not quantized are of the type that its config names."""
    said = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")))
    there = next(iter(count_by_dtype(tensors.values())), "")
    quantized = config.get("quantization_config") or config.get("compression_config")
    if said and said != there and there in FLOATS and not quantized:
        yield rules.CONFIG_DTYPE.finding(_CONFIG, expected=f"weights in {said}", found=f"mostly {there}")


def _needed(tensor: TensorInfo) -> list[list[str]]:
    """What must be beside a quantized or sparse weight, each by the names that it may have; nothing beside another."""
    if tensor.dtype not in QUANTIZED and tensor.name.endswith(".weight"):
        return []  # most tensors
    for end, scales in _SCALES.items():
        if tensor.name.endswith(end):
            stem = tensor.name.removesuffix(end)
            mask = [[stem + _MASKS[end]]] if end in _MASKS else []
            scaled = end not in _EITHER or tensor.dtype in QUANTIZED
            return [*mask, *([[stem + scale for scale in scales]] if scaled else [])]
    return []
