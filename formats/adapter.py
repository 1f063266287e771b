"""LoRA adapters: adapter_config.json against the tensors of adapter_model.safetensors.

https://huggingface.co/docs/peft/developer_guides/checkpoint; Hu et al., LoRA (arXiv 2106.09685): a weight of `out` by
`in` is changed by lora_B (`out` by r) times lora_A (r by `in`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from formats.document import as_json
from formats.findings import Finding
from formats.rules import model as rules
from formats.tensors import TensorInfo
from formats.text import short_text

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

MAX_FINDINGS = 100
"""Findings about one adapter."""

_MAX_PARTS = 32
"""Parts of a module's name, from its end, that a config may give."""

_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.(lora_(?:embedding_)?)([AB])(?:\.\w+)?(?:\.weight)?")


@dataclass(frozen=True)
class Adapter:
    """What adapter_config.json says.

    `targets` are ends of module names, or one regular expression, which is not tried: it can take hours to match.
    `ranks` maps ends of module names to their place in the config and their rank.
    """

    base: str
    rank: int
    targets: frozenset[str] | str
    ranks: Mapping[str, tuple[int, int]]

    def rank_of(self, module: str) -> int:
        """The rank of one module: rank_pattern's first match on the module's end, or r."""
        return min((self.ranks[end] for end in _ends(module, self.ranks)), default=(0, self.rank))[1]


def parse_adapter(config: Mapping[str, Any]) -> Adapter:
    """The adapter that a config describes; `RejectedError` if it lacks its rank or its targets."""
    rank, targets, ranks = config.get("r"), config.get("target_modules"), config.get("rank_pattern") or {}
    if type(rank) is not int or rank <= 0:
        rules.ADAPTER_CONFIG.reject(CONFIG, expected="r, a positive number", found=as_json(rank))
    if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        targets = frozenset(targets)
    if not targets or not isinstance(targets, (frozenset, str)):
        rules.ADAPTER_CONFIG.reject(
            CONFIG, expected="target_modules, a list of names or a pattern", found=as_json(config.get("target_modules"))
        )
    if not isinstance(ranks, dict) or not all(type(value) is int for value in ranks.values()):
        rules.ADAPTER_CONFIG.reject(CONFIG, expected="rank_pattern, a map to numbers", found=as_json(ranks))
    places = {end: (place, value) for place, (end, value) in enumerate(ranks.items())}
    return Adapter(short_text(config.get("base_model_name_or_path")), rank, targets, places)


def check_adapter(adapter: Adapter, tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    """Whether the tensors, by name, are pairs of the rank that the config gives, for the modules that it names."""
    yield from islice(_check(adapter, tensors), MAX_FINDINGS)


def _check(adapter: Adapter, tensors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    if not adapter.base:
        yield rules.ADAPTER_BASE.finding(CONFIG, expected="base_model_name_or_path", found="nothing")
    modules: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in tensors.items():
        if match := _FACTOR.fullmatch(name):
            modules.setdefault(match[1], {})[match[2] + match[3]] = tensor
    for module, factors in modules.items():
        yield from _check_module(adapter, module, factors)
    yield from _check_targets(adapter, list(modules))


def _check_module(adapter: Adapter, module: str, factors: Mapping[str, TensorInfo]) -> Iterator[Finding]:
    rank = adapter.rank_of(module)
    for factor, tensor in factors.items():
        partner = factor[:-1] + ("B" if factor.endswith("A") else "A")
        if partner not in factors:
            yield rules.ADAPTER_PAIR.finding(tensor.file, tensor=tensor.name, expected=f"{module}.{partner}")
        side = 0 if factor.endswith("A") else 1
        if len(tensor.shape) < 2 or tensor.shape[side] != rank:
            yield rules.ADAPTER_RANK.finding(
                tensor.file, tensor=tensor.name, expected=f"rank {rank}", found=list(tensor.shape)
            )


def _check_targets(adapter: Adapter, modules: list[str]) -> Iterator[Finding]:
    if isinstance(adapter.targets, str):
        if not modules:
            yield rules.ADAPTER_TARGETS.finding(WEIGHTS, expected=adapter.targets, found="no lora_A or lora_B")
        return
    named = {module: set(_ends(module, adapter.targets)) for module in modules}
    for target in sorted(adapter.targets.difference(*named.values())):
        yield rules.ADAPTER_TARGETS.finding(WEIGHTS, expected=f"weights for {target}", found="none")
    stray = next((module for module, targets in named.items() if not targets), None)
    if stray:
        expected = ", ".join(sorted(adapter.targets))
        yield rules.ADAPTER_TARGETS.finding(WEIGHTS, expected=expected, found=stray)


def _ends(module: str, known: Container[str]) -> Iterator[str]:
    """The ends of a module's name, whole parts of it, that are known."""
    place = len(module)
    for _ in range(_MAX_PARTS):
        place = module.rfind(".", 0, place)
        if module[place + 1 :] in known:
            yield module[place + 1 :]
        if place < 0:
            return
