"""Every rule that a model is held to, one module for each kind. `docs/rules.md` is made from here."""

from __future__ import annotations

from importlib import import_module

from formats.findings import Rule

KINDS = ("model", "safetensors", "gguf", "onnx", "pickle", "code", "values")
"""The modules, in the order of the documentation."""


def rules(kind: str) -> tuple[Rule, ...]:
    """The rules of one kind in the order in which its module states them."""
    return tuple(value for value in vars(import_module(f"{__name__}.{kind}")).values() if isinstance(value, Rule))
