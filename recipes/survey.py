"""Which modules of a model a recipe quantizes, which it leaves, and why: told from names, types and shapes alone.

Without the model's code nobody knows which weights are those of linear layers. What compressed-tensors calls `Linear`
are here the two-dimensional floating point weights that are no embeddings; the tests hold this against the classes that
transformers makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from formats.scales import FUSED
from recipes.task import Module

_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_EMBEDDING = re.compile(
    r"(?:.*\.)?(?:[\w-]*(?:embed(?!_out$|\w*project)|wte$|wpe$)[\w-]*|shared|relative_attention_bias)(?:\.(?:\d+|weight))?"
)
LINEAR = "Linear"
"""The target that means every linear layer."""


class Weight(NamedTuple):
    """A tensor of the model: its name, its type in the words of safetensors, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """One way of quantizing, and the modules that it is for.

    `targets` are names, `re:` and a pattern, or `Linear`. The columns of a weight must be a multiple of `columns`, and
    its rows of `rows`.
    """

    scheme: str
    targets: tuple[str, ...] = (LINEAR,)
    columns: int = 1
    rows: int = 1


def survey(weights: Iterable[Weight], groups: Sequence[Group], ignore: Sequence[str]) -> list[Module]:
    """What becomes of each module that has a weight, in the order of the weights."""
    modules = [_judge(weight, groups, ignore) for weight in weights if weight.name.endswith(".weight")]
    return list(_together(modules))


def fused_experts(weights: Iterable[Weight]) -> Weight | None:
    """A tensor that holds many experts' weights at once, which way round only the model's code knows."""
    return next((weight for weight in weights if len(weight.shape) == 3 and "expert" in weight.name), None)


def matches(name: str, pattern: str) -> bool:
    """Whether a module's name is meant, as compressed-tensors reads its `targets` and `ignore`."""
    return bool(re.match(pattern[3:], name)) if pattern.startswith("re:") else name == pattern


def _judge(weight: Weight, groups: Sequence[Group], ignore: Sequence[str]) -> Module:
    name = weight.name.removesuffix(".weight")
    if why := _no_linear(name, weight):
        return Module(name, why=why)
    if any(matches(name, pattern) for pattern in ignore):
        return Module(name, why="the recipe leaves it")
    group = next((group for group in groups if _targeted(name, group)), None)
    if not group:
        return Module(name, why="no group of the recipe is for it")
    for size, multiple, what in ((weight.shape[1], group.columns, "columns"), (weight.shape[0], group.rows, "rows")):
        if size % multiple:
            return Module(name, why=f"its {size} {what} are no multiple of {multiple}")
    return Module(name, scheme=group.scheme)


def _no_linear(name: str, weight: Weight) -> str:
    """Why this is the weight of no linear layer that could be quantized; empty if it is."""
    if len(weight.shape) == 1:
        return "one-dimensional, as norms are"
    if len(weight.shape) != 2:
        return f"{len(weight.shape)}-dimensional, no linear layer"
    if _EMBEDDING.fullmatch(name):
        return "an embedding"
    return "" if weight.dtype in _FLOATS else f"already {weight.dtype}"


def _targeted(name: str, group: Group) -> bool:
    return any(target == LINEAR or matches(name, target) for target in group.targets)


def _together(modules: Sequence[Module]) -> Iterator[Module]:
    """The same, with a module left if another of those that are loaded as one with it is."""
    by_name = {module.name: module for module in modules}
    for module in modules:
        others = (by_name[name] for name in _siblings(module.name) if name in by_name)
        left = next((other for other in others if not other.scheme), None)
        if module.scheme and left:
            last = left.name.rpartition(".")[2]
            yield replace(module, scheme="", why=f"{last} beside it is left ({left.why}), and servers load them as one")
        else:
            yield module


def _siblings(name: str) -> list[str]:
    parent, _, last = name.rpartition(".")
    return [f"{parent}.{other}" for fused in FUSED if last in fused for other in fused if other != last]
