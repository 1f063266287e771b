"""The tensors of a model in compressed-tensors against the schemes of its quantization_config, as far as headers tell.

https://github.com/vllm-project/compressed-tensors, quantization/lifecycle/initialize.py: initialize_qparams
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from formats.findings import Finding
from formats.quantization import FLOATS, QUANTIZED
from formats.rules import model as rules
from formats.schemes import Scheme, Schemes, read_schemes
from formats.tensors import TensorInfo

_WEIGHT, _PACKED, _SCALE = ".weight", ".weight_packed", ".weight_scale"
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_ROOT = re.compile(r"^(?:(?:language_)?model\.)+")
"""What stands before the names of modules in one program, and not in another."""

_EMBEDDINGS = ("embed_tokens", "tok_embeddings", "word_embeddings", "embed_in", "wte")
FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)
"""Modules of one parent that servers load as one, so that either all are quantized alike or none."""

_EIGHT_BITS = frozenset(("F8_E4M3", "F8_E8M0", "U8"))
"""Types of scales that are exponents, or have a scale of their own."""

Range = tuple[int, int]
"""The least and the most that a size may be."""


def check_scales(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """What the schemes of a config say of each module is so; nothing of other methods and of what is not understood."""
    schemes = read_schemes(config.get("quantization_config") or config.get("compression_config"))
    if not schemes:
        return
    quantized, left = _modules(tensors)
    for module, weight in quantized.items():
        if schemes.ignore.match(module):
            yield rules.CONFIG_IGNORED.finding(weight.file, tensor=weight.name, expected=f"{module}, as in ignore")
        elif scheme := schemes.of(module):
            yield from _check_module(module, weight, scheme, tensors)
    yield from _check_left(left, {_kind(module) for module in quantized}, schemes)
    yield from _check_fused(quantized, left)
    yield from _check_embedding(quantized, schemes)


def _modules(tensors: Mapping[str, TensorInfo]) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """The modules whose weights are quantized, and all others that have a weight."""
    quantized: dict[str, TensorInfo] = {}
    left: dict[str, TensorInfo] = {}
    for name, tensor in tensors.items():
        if name.endswith(_PACKED):
            quantized[name.removesuffix(_PACKED)] = tensor
        elif name.endswith(_WEIGHT):
            module = name.removesuffix(_WEIGHT)
            is_quantized = tensor.dtype in QUANTIZED or module + _SCALE in tensors
            (quantized if is_quantized else left)[module] = tensor
    return quantized, left


def _check_module(
    module: str, weight: TensorInfo, scheme: Scheme, tensors: Mapping[str, TensorInfo]
) -> Iterator[Finding]:
    expected = _weight_of(weight, scheme)
    if expected and (weight.name.removeprefix(module), weight.dtype) != expected:
        name, dtype = expected
        yield rules.CONFIG_WEIGHT_TYPE.finding(
            weight.file, tensor=weight.name, expected=f"{dtype} in {module}{name}", found=weight.dtype
        )
        return
    for end in _needed(weight, scheme):
        if module + end not in tensors:
            yield rules.CONFIG_SCALES.finding(weight.file, tensor=weight.name, expected=module + end)
    if scale := tensors.get(module + _SCALE):
        yield from _check_scale(scale, weight, scheme)
    if scheme.has_static_inputs and (scale := tensors.get(f"{module}.input_scale")):
        yield from _check_type(scale, FLOATS)
        if prod(scale.shape) != 1:
            yield rules.CONFIG_SCALE_SHAPE.finding(scale.file, tensor=scale.name, expected=[1], found=list(scale.shape))


def _weight_of(weight: TensorInfo, scheme: Scheme) -> tuple[str, str] | None:
    """The end of the name of a weight and its type by its scheme; None if the scheme does not say."""
    packed = weight.name.endswith(_PACKED) if scheme.packed is None else scheme.packed
    match scheme.kind, scheme.bits:
        case "int", bits if bits:
            return (_PACKED, "I32") if packed else (_WEIGHT, "I8")
        case "float", 4:
            return (_PACKED, "U8") if packed else None
        case "float", 8:
            return None if packed else (_WEIGHT, "F8_E4M3")
    return None


def _needed(weight: TensorInfo, scheme: Scheme) -> Iterator[str]:
    """The ends of the names of what must be beside a weight, besides its scale."""
    if weight.dtype == "I32" and scheme.packed:
        yield ".weight_shape"
    if scheme.strategy == "tensor_group" and weight.name.endswith(_PACKED):
        yield ".weight_global_scale"
    if scheme.kind == "int" and not scheme.is_symmetric:
        yield ".weight_zero_point"
    if scheme.has_static_inputs:
        yield ".input_scale"


def _check_scale(scale: TensorInfo, weight: TensorInfo, scheme: Scheme) -> Iterator[Finding]:
    in_groups = scheme.kind == "float" and scheme.strategy in ("group", "tensor_group")
    yield from _check_type(scale, FLOATS | _EIGHT_BITS if in_groups or scheme.names_scale_type else FLOATS)
    expected = _scale_shapes(weight, scheme)
    if expected and not any(_fits(scale.shape, shape) for shape in expected):
        shown = " or ".join(f"[{', '.join(map(_shown, shape))}]" for shape in expected)
        yield rules.CONFIG_SCALE_SHAPE.finding(scale.file, tensor=scale.name, expected=shown, found=list(scale.shape))


def _check_type(scale: TensorInfo, types: frozenset[str]) -> Iterator[Finding]:
    if scale.dtype not in types:
        expected = " or ".join(sorted(types))
        yield rules.CONFIG_SCALE_TYPE.finding(scale.file, tensor=scale.name, expected=expected, found=scale.dtype)


def _scale_shapes(weight: TensorInfo, scheme: Scheme) -> list[tuple[Range, ...]]:
    """The shapes that the scale of a weight may have; none if nothing can be said."""
    if len(weight.shape) != 2 or not scheme.bits:
        return []
    rows, (least, most) = weight.shape[0], _columns(weight, scheme)
    if scheme.strategy == "tensor":
        return [((1, 1),), ()]
    if scheme.strategy == "channel":
        return [((rows, rows), (1, 1)), ((rows, rows),)]
    down, across = scheme.steps
    return [((-(-rows // down),) * 2, (-(-least // across), -(-most // across)))] if down and across else []


def _columns(weight: TensorInfo, scheme: Scheme) -> Range:
    """How many columns a weight has that may be packed: earlier versions left bits unused that no number fits in."""
    size = weight.shape[1]
    if weight.name.endswith(_PACKED) and weight.dtype == "I32":
        return (size - 1) * (32 // scheme.bits) + 1, size * 32 // scheme.bits
    each = 2 if weight.name.endswith(_PACKED) else 1
    return each * size, each * size


def _fits(shape: tuple[int, ...], expected: tuple[Range, ...]) -> bool:
    return len(shape) == len(expected) and all(
        least <= size <= most for size, (least, most) in zip(shape, expected, strict=True)
    )


def _shown(size: Range) -> str:
    least, most = size
    return str(least) if least == most else f"{least} to {most}"


def _check_left(left: Mapping[str, TensorInfo], kinds: set[str], schemes: Schemes) -> Iterator[Finding]:
    """Matrices that are neither quantized nor ignored, though their like is quantized."""
    bare = {_bare(name) for name in schemes.ignore.whole}
    for module, weight in left.items():
        is_like = len(weight.shape) == 2 and weight.dtype in FLOATS and _kind(module) in kinds
        if is_like and schemes.of(module) and schemes.ignore.match(module) is False and _bare(module) not in bare:
            yield rules.CONFIG_LEFT.finding(
                weight.file, tensor=weight.name, expected="a quantized weight", found=weight.dtype
            )


def _kind(module: str) -> str:
    """The name of a module with `*` for each number."""
    return _NUMBER.sub(".*", module)


def _bare(module: str) -> str:
    """The name of a module without what only some programs write before it."""
    return _ROOT.sub("", module)


def _check_fused(quantized: Mapping[str, TensorInfo], left: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Parts of one parent that are not of one type: all quantized alike, or all left."""
    places = (module.rpartition(".") for module in quantized)
    parents = dict.fromkeys((parent, parts) for parent, _, part in places for parts in FUSED if part in parts)
    for parent, parts in parents:
        names = [part for part in parts if f"{parent}.{part}" in quantized or f"{parent}.{part}" in left]
        there = {part: quantized.get(f"{parent}.{part}") for part in names}
        types = {part: weight.dtype if weight else "not quantized" for part, weight in there.items()}
        if len(set(types.values())) > 1:
            file = next(weight.file for weight in there.values() if weight)
            found = ", ".join(f"{part} {dtype}" for part, dtype in types.items())
            yield rules.CONFIG_FUSED.finding(file, tensor=parent, expected=f"{', '.join(names)} alike", found=found)


def _check_embedding(quantized: Mapping[str, TensorInfo], schemes: Schemes) -> Iterator[Finding]:
    for module, weight in quantized.items():
        if module.rpartition(".")[2] in _EMBEDDINGS and not schemes.may_have_embedding(module):
            yield rules.CONFIG_EMBEDDED.finding(weight.file, tensor=weight.name, found=weight.dtype)
