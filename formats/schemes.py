"""The config_groups of a quantization_config as compressed-tensors writes them: how each module is quantized.

https://github.com/vllm-project/compressed-tensors, quantization: quant_config.py, quant_scheme.py, quant_args.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from formats.matching import MAX_STEPS, Names

METHOD = "compressed-tensors"

MAX_GROUPS = 32
"""Groups of one config; of more, none is asked about."""

MAX_SIZE = 1 << 40
"""The largest group or block."""

_LOOSE = ("dense", "fakequant", "sparse-bitmask", "sparse-24-bitmask", "marlin-24")
"""Formats whose weights are left as they were, or are laid out in a way of their own."""

_UNPACKED = ("int-quantized", "float-quantized", "naive-quantized", "mxfp8-quantized")
_PACKED = ("pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized")
_EMBEDDING = "Embedding"


@dataclass(frozen=True)
class Scheme:
    """How the modules of one group are quantized; a member is empty where the config is not understood.

    `steps` are the rows and columns that share a scale, where a scale is for a group or a block.
    """

    targets: Names
    kind: str
    bits: int
    strategy: str
    steps: tuple[int, int]
    is_symmetric: bool
    has_static_inputs: bool
    names_scale_type: bool
    packed: bool | None
    """Whether the weights are packed in larger integers; None if that is not known."""

    @property
    def targets_classes(self) -> bool:
        """Whether it is for classes of modules, such as `Linear`, of which the tensors say nothing."""
        return any(name[:1].isupper() for name in self.targets.whole)


@dataclass(frozen=True)
class Schemes:
    """All groups of a config, and the modules that none is for."""

    groups: tuple[Scheme, ...]
    ignore: Names

    def of(self, module: str) -> Scheme | None:
        """The group of a module, those by name before those by class; None if that cannot be told."""
        found = [group.targets.match(module) for group in self.groups]
        if None in found:
            return None
        if True in found:
            return self.groups[found.index(True)]
        by_class = [group for group in self.groups if group.targets_classes]
        return by_class[0] if len(by_class) == 1 else None

    def may_have_embedding(self, module: str) -> bool:
        """Whether some group is for an embedding of this name, as far as can be told."""
        every = [group.targets for group in self.groups]
        return any(
            targets.match(module) is not False or any(_EMBEDDING in name for name in targets.whole) for targets in every
        )


def read_schemes(declared: object) -> Schemes | None:
    """What a quantization_config says of its modules; None if it is of another method, or not understood."""
    if not isinstance(declared, dict) or declared.get("quant_method", METHOD) != METHOD:
        return None
    groups = declared.get("config_groups")
    if not isinstance(groups, dict) or not 0 < len(groups) <= MAX_GROUPS or not _is_compressed(declared):
        return None
    steps = MAX_STEPS // (len(groups) + 1)
    read = [_scheme(group, _text(declared.get("format")), steps) for group in groups.values() if not _is_other(group)]
    known = tuple(scheme for scheme in read if scheme)
    return Schemes(known, Names(declared.get("ignore"), steps)) if known and len(known) == len(read) else None


def _is_compressed(declared: Mapping[str, Any]) -> bool:
    status = declared.get("quantization_status", "compressed")
    return status == "compressed" and declared.get("format") not in _LOOSE


def _is_other(group: object) -> bool:
    """Whether a group is about no weights, but a cache or activations alone."""
    return isinstance(group, dict) and group.get("weights") is None


def _scheme(group: object, usual: str, steps: int) -> Scheme | None:
    """A group; None for a preset that is named alone, or what is no group."""
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(weights, dict):
        return None
    form = _text(group.get("format")) or usual
    bits, strategy = weights.get("num_bits", 8), _strategy(weights)
    return Scheme(
        targets=Names(group.get("targets"), steps),
        kind=_text(weights.get("type", "int")),
        bits=bits if type(bits) is int and 0 < bits <= 8 and form not in _LOOSE else 0,
        strategy=strategy if form not in _LOOSE else "",
        steps=_steps(weights, strategy),
        is_symmetric=weights.get("symmetric", True) is not False,
        has_static_inputs=_are_static(group.get("input_activations")),
        names_scale_type=weights.get("scale_dtype") is not None,
        packed=True if form in _PACKED else False if form in _UNPACKED else None,
    )


def _strategy(weights: Mapping[str, Any]) -> str:
    """The strategy, or that which follows from the size of a group."""
    if (said := weights.get("strategy")) is not None:
        return _text(said)
    size = weights.get("group_size")
    return "tensor" if size is None else "channel" if size == -1 else "group"


def _steps(weights: Mapping[str, Any], strategy: str) -> tuple[int, int]:
    """Rows and columns that share a scale; zeros if the config does not say."""
    size, block = weights.get("group_size"), weights.get("block_structure")
    if strategy == "block" and isinstance(block, list) and len(block) == 2 and all(map(_is_step, block)):
        return block[0], block[1]
    return (1, size) if strategy in ("group", "tensor_group") and _is_step(size) else (0, 0)


def _text(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _is_step(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= MAX_SIZE


def _are_static(inputs: object) -> bool:
    """Whether the scale of the activations is in the model, one for each module."""
    if not isinstance(inputs, dict):
        return False
    return inputs.get("dynamic", False) is False and inputs.get("strategy") in (None, "tensor")
