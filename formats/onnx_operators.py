"""The operators of an ONNX model: those of the standard, and others.

https://github.com/onnx/onnx/blob/main/docs/IR.md, section Operator sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from formats.findings import Finding
from formats.onnx_tensors import text
from formats.rules import onnx as rules
from formats.snapshot import ModelFile

MAX_OPERATOR_SETS = 100
"""The checker copies them for each function."""

_STANDARD = frozenset(("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"))
_EXPERIMENTS = frozenset(
    (
        *("ATen", "Affine", "ConstantFill", "Crop", "DynamicSlice", "GRUUnit", "GivenTensorFill", "ImageScaler"),
        *("ParametricSoftplus", "Scale", "ScaledTanh"),
    )
)
"""Operators that were in the standard on trial, until 2019."""

_EXPERIMENTAL = "experimental"


def set_experiments_apart(model: Any) -> None:
    """Move the operators that were on trial into a domain of their own.

    The checker passes over them there as it does in the standard's, where it would print a line for each graph.
    """
    for owner, nodes in ((model, model.graph.node), *((function, function.node) for function in model.functions)):
        domains = {entry.domain for entry in owner.opset_import}
        if "ai.onnx" in domains:
            domains.add("")
        domains &= {"", "ai.onnx"}
        found = [node for node in _nodes(nodes) if node.op_type in _EXPERIMENTS and node.domain in domains]
        for node in found:
            node.domain = _EXPERIMENTAL
        if found:
            owner.opset_import.add(domain=_EXPERIMENTAL, version=1)


def check_versions(file: ModelFile, model: Any) -> None:
    """Refuse a version of the standard that the onnx package does not know."""
    from onnx import defs

    newest = {"": defs.onnx_opset_version(), "ai.onnx.ml": defs.onnx_ml_opset_version()}
    newest["ai.onnx"] = newest[""]
    for entry in (entry for imports in (model, *model.functions) for entry in imports.opset_import):
        most = newest.get(entry.domain, entry.version)
        if entry.version > most:
            name = text(entry.domain) or "ai.onnx"
            rules.OPSET.reject(file.name, expected=f"{name} {most} or older", found=f"{name} {entry.version}")


def foreign_operators(file: ModelFile, model: Any) -> list[str]:
    """Operators that are neither of the standard nor functions of the model, as `domain::name`, sorted."""
    domains = {entry.domain for imports in (model, *model.functions) for entry in imports.opset_import}
    if len(domains) > MAX_OPERATOR_SETS:
        rules.TOO_LARGE.reject(file.name, expected=f"at most {MAX_OPERATOR_SETS} operator sets", found=len(domains))
    foreign = domains - _STANDARD - {function.domain for function in model.functions}
    every = (model.graph.node, *(function.node for function in model.functions)) if foreign else ()
    used = {(node.domain, node.op_type) for nodes in every for node in _nodes(nodes) if node.domain in foreign}
    return sorted(f"{text(domain)}::{text(name)}" for domain, name in used)


def find_foreign(file: ModelFile, foreign: list[str]) -> Iterator[Finding]:
    """A finding for each domain of these operators."""
    for domain in sorted({name.partition("::")[0] for name in foreign}):
        names = [name.partition("::")[2] for name in foreign if name.startswith(f"{domain}::")]
        yield rules.FOREIGN.finding(file.name, expected="operators of ai.onnx", found=f"{domain}: {', '.join(names)}")


def _nodes(nodes: Any) -> Iterator[Any]:
    """The nodes, and those of the graphs in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g.node)
            for graph in attribute.graphs:
                yield from _nodes(graph.node)
