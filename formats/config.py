"""config.json against the tensors, for the architectures whose tensor names are known from their model_type.

https://huggingface.co/docs/transformers/main_classes/configuration
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, TypeGuard

from formats.architectures import ARCHITECTURES, UNIFORM, UNTIED, Names
from formats.document import as_json
from formats.findings import Finding
from formats.quantization import FLOATS, WHOLE, check_dtype, check_quantization
from formats.rules import model as rules
from formats.scales import check_scales
from formats.tensors import TensorInfo

CONFIG = "config.json"
MAX_FINDINGS = 100
"""Findings about one config."""


MAX_VALUE = 1 << 62
"""The largest number that a config may give as a size."""

_MISTRAL = re.compile(r"(?:tok_embeddings|output|layers\.\d{1,6}\.(?:attention|feed_forward))\.")
"""Names in consolidated.safetensors, which Mistral publishes beside the files of transformers, or alone."""

_DRAFTS = re.compile("eagle|medusa|speculator|nextn|mtp", re.IGNORECASE)
_DRAFT_KEYS = ("draft_vocab_size", "medusa_num_heads", "speculators_config")
_DRAFT_TENSORS = ("fc.weight", "model.fc.weight")
"""What tells a draft model, which takes its head, and mostly its embedding, from the model that it drafts for.

The tensor joins two or three states of that model into one; without layers, or beside a head, it is something else.
"""

_KEYS, _HEAD = "num_key_value_heads", "head_dim"
_NUMBER = re.compile(r"\.\d+(?=\.)")
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.\d{1,6}\.")
_WEIGHT = re.compile(r"\.weight(?![^._])")
"""Where a tensor's name ends its module's: what follows is the weight, or what a quantization adds to it."""


def check_config(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Whether the tensors, by name, are those of the config; of unknown names and drafts only quantization is asked."""
    yield from islice(_check(config, tensors), MAX_FINDINGS)


def _check(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    known = ARCHITECTURES.get(str(config.get("model_type")))
    names = _naming(known, config, tensors)
    if known:
        yield from _check_values(config, known)
        if not names and not _is_draft(config, tensors, known):
            yield _unnamed(config, tensors, known)
    elif config.get("model_type"):
        yield from _check_alike(config, tensors)
    if names:
        own_code = bool(config.get("auto_map"))
        for finding in _check_shapes(config, tensors, names):
            yield finding.allowed() if own_code else finding
        layers = _modules(tensors, names)
        yield from _check_layers(config, set(layers), names)
        if config["model_type"] in UNIFORM:
            yield from _check_modules(layers)
        yield from _check_embedding(config, tensors, names)
        yield from _check_head(config, tensors, names)
    yield from check_quantization(config, tensors)
    yield from check_dtype(config, tensors)
    yield from check_scales(config, tensors)


def _naming(names: Names | None, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Names | None:
    """How the tensors of a known architecture are named, by transformers or by Mistral; none if in another way."""
    if not names or _is_draft(config, tensors, names):
        return None
    parts = (_stem(names.embedding), _stem(names.head), rf"{names.layers}\.\d{{1,6}}\.{names.part}")
    known = rf"model\.{names.layers}\.\d|(?:[\w.]+\.)?(?:{'|'.join(filter(None, parts))})\."
    if any(map(re.compile(known).match, tensors)):
        return names
    if names.part == UNTIED.part and any(map(_MISTRAL.match, tensors)):
        return replace(names, embedding="tok_embeddings.weight", head="output.weight")
    return None


def _is_draft(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: Names) -> bool:
    architectures = config.get("architectures")
    named = isinstance(architectures, list) and any(_DRAFTS.search(str(name)[:200]) for name in architectures)
    return named or any(key in config for key in _DRAFT_KEYS) or _joins_states(tensors, names)


def _joins_states(tensors: Mapping[str, TensorInfo], names: Names) -> bool:
    """Whether the tensors are those of a draft model by themselves."""
    shapes = [tensors[name].shape for name in _DRAFT_TENSORS if name in tensors]
    joins = any(len(shape) == 2 and shape[1] in (2 * shape[0], 3 * shape[0]) for shape in shapes)
    return joins and names.head not in tensors and any(map(_LAYER.search, tensors))


def _unnamed(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: Names) -> Finding:
    """None of the tensors has a name of the architecture."""
    expected = f"{names.embedding} or {names.layers}.0.{names.part} of {config['model_type']}"
    return rules.CONFIG_NAMES.finding(CONFIG, expected=expected, found=", ".join(islice(tensors, 3)))


def _stem(name: str) -> str:
    return name.removesuffix(".weight")


def _check_values(config: Mapping[str, Any], names: Names) -> Iterator[Finding]:
    """Sizes are positive numbers, and heads divide what they share."""
    keys = ("vocab_size", names.hidden, names.width, names.depth, names.heads, names.feed, _KEYS, _HEAD)
    for key in dict.fromkeys(filter(None, keys)):
        value = config.get(key)
        if value is not None and not _is_size(value):
            yield rules.CONFIG_VALUE.finding(CONFIG, expected=f"{key}, a positive number", found=as_json(value))
    hidden, heads, keys_heads = (config.get(key) for key in (names.hidden, names.heads, _KEYS))
    if config.get(_HEAD) is None and not names.head_dim:
        yield from _check_division(names.hidden, hidden, names.heads, heads)
    if names.heads:
        yield from _check_division(names.heads, heads, _KEYS, keys_heads)


def _check_division(key: str, value: object, by: str, divisor: object) -> Iterator[Finding]:
    if _is_size(value) and _is_size(divisor) and value % divisor:
        yield rules.CONFIG_VALUE.finding(CONFIG, expected=f"{key}, a multiple of {by} {divisor}", found=value)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= MAX_VALUE


def _sizes(config: Mapping[str, Any], names: Names) -> dict[str, int]:
    """What the sizes in `Shapes` are, as far as the config says."""
    keys = {"hidden": names.hidden, "width": names.width, "feed": names.feed, "vocab": "vocab_size"}
    keys |= {"expert": "moe_intermediate_size", "shared": "shared_expert_intermediate_size", "head": _HEAD}
    sizes = {name: config[key] for name, key in keys.items() if _is_size(config.get(key))}
    hidden, heads = sizes.get("hidden", 0), config.get(names.heads)
    groups = config.get(_KEYS, heads if names.ungrouped else 0)
    groups = heads if groups is None else groups
    if config.get(_HEAD) is None and _is_size(heads):
        sizes["head"] = names.head_dim or hidden // heads
    head = sizes.get("head", 0)
    sizes["query"] = head * heads if _is_size(heads) else 0
    sizes["key"] = head * groups if _is_size(groups) else 0
    sizes["queries and keys"] = sizes["query"] and sizes["key"] and sizes["query"] + 2 * sizes["key"]
    sizes["two feeds"], sizes["three hidden"] = 2 * sizes.get("feed", 0), 3 * hidden
    if names.feed == "n_inner" and config.get(names.feed) is None:
        sizes["feed"] = 4 * hidden
    return {name: size for name, size in sizes.items() if size}


def _check_shapes(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: Names) -> Iterator[Finding]:
    """Tensors whose shape follows from the config have it; those that may be packed are passed over."""
    sizes = {} if config.get("pruned_heads") else _sizes(config, names)
    shapes = {name: tuple(map(sizes.get, shape)) for name, shape in names.shapes.items()}
    for name, tensor in tensors.items():
        expected = shapes.get(_pattern(name, names.roots)) if tensor.dtype in WHOLE else None
        if expected and not _fits(tensor.shape, expected):
            shown = f"[{', '.join(str(size or 'any') for size in expected)}]"
            yield rules.CONFIG_SHAPE.finding(tensor.file, tensor=tensor.name, expected=shown, found=list(tensor.shape))


def _pattern(name: str, roots: tuple[str, ...]) -> str:
    """A tensor's name behind its root, with `*` for each number."""
    root = next(root for root in (*roots, "") if name.startswith(root))
    return _NUMBER.sub(".*", name[len(root) :])


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size in (None, there) for there, size in zip(shape, expected, strict=True)
    )


def _check_alike(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """The one layer, or the few, in which a part has another shape than in all others; nothing where a config lists."""
    groups: dict[str, dict[tuple[int, ...], list[TensorInfo]]] = {}
    for name, tensor in tensors.items():
        if tensor.dtype in FLOATS and (match := _LAYER.search(name)) and "." in name[match.end() :]:
            groups.setdefault(_NUMBER.sub(".*", name), {}).setdefault(tensor.shape, []).append(tensor)
    for shapes in groups.values():
        if len(shapes) == 2:
            few, most = sorted(shapes.values(), key=len)
            if len(most) >= max(3, 7 * len(few)) and not _lists(config, len(few) + len(most)):
                yield rules.CONFIG_ALIKE.finding(
                    few[0].file, tensor=few[0].name, expected=list(most[0].shape), found=list(few[0].shape)
                )


def _lists(config: Mapping[str, Any], layers: int) -> bool:
    """Whether a config, or one in it, has a list with something for each layer."""
    inner = [value for value in config.values() if isinstance(value, dict)]
    values = (value for each in (config, *inner) for value in each.values())
    return any(isinstance(value, list) and len(value) >= layers for value in values)


def _check_layers(config: Mapping[str, Any], there: set[int], names: Names) -> Iterator[Finding]:
    depth, extra = config.get(names.depth), config.get("num_nextn_predict_layers") or 0
    if type(depth) is not int or type(extra) is not int:
        return
    missing = min(set(range(min(depth, len(there) + 1))) - there, default=None)
    if missing is not None:
        yield rules.CONFIG_LAYERS.finding(CONFIG, expected=f"{names.depth} {depth}", found=f"no layer {missing}")
    elif max(there, default=-1) >= depth + extra:
        yield rules.CONFIG_LAYERS.finding(CONFIG, expected=f"{names.depth} {depth}", found=f"a layer {max(there)}")


def _modules(tensors: Iterable[str], names: Names) -> dict[int, set[str]]:
    """The modules of each layer, such as `self_attn.q_proj`."""
    pattern = re.compile(rf"(?:[\w.]+\.)?{names.layers}\.(\d{{1,6}})\.(.*)", re.DOTALL)
    layers: dict[int, set[str]] = {}
    for name in tensors:
        if match := pattern.match(name):
            layers.setdefault(int(match[1]), set()).add(_module(match[2]))
    return layers


def _module(name: str) -> str:
    """The module that a tensor belongs to: its name up to `.weight`, or without its last part."""
    match = _WEIGHT.search(name)
    return name[: match.start()] if match else name.rpartition(".")[0] or name


def _check_modules(layers: Mapping[int, set[str]]) -> Iterator[Finding]:
    """Every layer has the modules that most layers have."""
    counts = Counter(module for modules in layers.values() for module in modules)
    usual = sorted(module for module, count in counts.items() if 2 * count > len(layers))
    for layer, modules in sorted(layers.items()):
        if missing := next((module for module in usual if module not in modules), None):
            found = f"not in layer {layer}, and in {counts[missing]} of {len(layers)} layers"
            yield rules.CONFIG_LAYER_PARTS.finding(CONFIG, expected=missing, found=found)


def _check_embedding(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: Names) -> Iterator[Finding]:
    stem = names.embedding.removesuffix("weight")
    if not any(name.startswith(stem) or f".{stem}" in name for name in tensors):
        yield rules.CONFIG_NO_EMBEDDING.finding(CONFIG, expected=names.embedding, found="no such tensor")
    yield from _check_vocabulary(_ending(tensors, names.embedding), config.get("vocab_size"), config.get(names.width))
    if names.head in tensors and config.get("tie_word_embeddings", names.tied) is False:
        yield from _check_vocabulary([tensors[names.head]], config.get("vocab_size"), config.get(names.hidden))


def _check_vocabulary(tensors: Iterable[TensorInfo], *sizes: object) -> Iterator[Finding]:
    for tensor in tensors:
        if all(map(_is_size, sizes)) and tensor.dtype in FLOATS and tensor.shape != sizes:
            yield rules.CONFIG_EMBEDDING.finding(
                tensor.file, tensor=tensor.name, expected=list(sizes), found=list(tensor.shape)
            )


def _check_head(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], names: Names) -> Iterator[Finding]:
    architectures = config.get("architectures")
    is_causal = isinstance(architectures, list) and any(str(name).endswith("ForCausalLM") for name in architectures)
    if is_causal and names.head and config.get("tie_word_embeddings", names.tied) is False:
        stem = names.head.removesuffix(".weight")
        if not any(name.startswith(f"{stem}.") for name in tensors):
            yield rules.CONFIG_HEAD.finding(CONFIG, expected=names.head, found="tie_word_embeddings false, and no head")


def _ending(tensors: Mapping[str, TensorInfo], end: str) -> Iterator[TensorInfo]:
    return (tensor for name, tensor in tensors.items() if name == end or name.endswith(f".{end}"))
