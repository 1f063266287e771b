"""Which operators of an ONNX graph have weights, and what onnxruntime made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from typing import Any

from recipes.engines.onnx_files import constant, is_weight
from recipes.task import Module

WEIGHTS = {
    "MatMul": (1, 0),
    "Gemm": (1, 0),
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Attention": (1,),
    "EmbedLayerNormalization": (2, 3, 4),
}
"""Which inputs of an operator may be weights."""

_QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "MatMulInteger", "ConvInteger", "MatMulNBits",
    "MatMulBnb4", "GatherBlockQuantized", "QLinear", "QGemm", "QAttention", "QEmbedLayerNormalization", "QMoE",
    "QOrdered",
)  # fmt: skip
"""How the names of operators begin that work with quantized values."""

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
_LOOKED_UP = frozenset({"Gather", "EmbedLayerNormalization"})
"""Operators that compute nothing of activations."""

_MADE = ("_quantized", "_Transposed_quantized")
"""What onnxruntime adds to the name of a weight; a Gemm becomes a MatMul with its weight transposed."""


def is_quantized(operator: str) -> bool:
    """Whether an operator of this name works with quantized values."""
    return operator.startswith(_QUANTIZED)


def operators(graph: Any) -> Counter[str]:
    """How many there are of each operator, those in graphs inside it too."""
    found = Counter(node.op_type for node in graph.node)
    for _, inner in _inner(graph):
        found += operators(inner)
    return found


def _inner(graph: Any) -> Iterator[tuple[Any, Any]]:
    """The graphs inside a graph, each with the node that has it."""
    for node in graph.node:
        for attribute in node.attribute:
            yield from ((node, each) for each in attribute.graphs)
            if attribute.HasField("g"):
                yield node, attribute.g


def sort_nodes(graph: Any) -> None:
    """Put every node behind those that it needs, and otherwise leave the order as it is.

    onnxruntime forgets what the graphs inside a node need.
    """
    makers = {output: at for at, node in enumerate(graph.node) for output in node.output if output}
    needs = [{makers[name] for name in _read_by(node) if name in makers} for node in graph.node]
    needed_by: dict[int, list[int]] = {}
    for at, each in enumerate(needs):
        for maker in each:
            needed_by.setdefault(maker, []).append(at)
    ready, order = [at for at, each in enumerate(needs) if not each], []
    while ready:
        order.append(at := heappop(ready))
        for user in needed_by.get(at, ()):
            needs[user].discard(at)
            if not needs[user]:
                heappush(ready, user)
    if len(order) == len(graph.node) and order != sorted(order):
        nodes = [graph.node[at] for at in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _read_by(node: Any) -> Iterator[str]:
    """The names of what a node reads, in the graphs inside it too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (value.name for value in inner.output)
            for each in inner.node:
                yield from _read_by(each)


@dataclass(frozen=True)
class Graph:
    """A model before it is quantized, without its external data."""

    model: Any

    @cached_property
    def operators(self) -> Counter[str]:
        """How many there are of each operator."""
        return operators(self.model.graph)

    @cached_property
    def inputs(self) -> tuple[Any, ...]:
        """What must be fed: the inputs that have no initial value."""
        given = {tensor.name for tensor in self.model.graph.initializer}
        return tuple(value for value in self.model.graph.input if value.name not in given)

    @property
    def without_weights(self) -> list[str]:
        """Nodes that onnxruntime takes for operators of its own with the same name, which have weights."""
        nodes = self.model.graph.node
        return [node.name for node in nodes if node.op_type == "Attention" and node.domain in {"", "ai.onnx"}]

    def compare(self, result: Any, op_types: Sequence[str], activations: str, *, is_static: bool) -> Iterator[Module]:
        """What became of each operator with weights, and of each product of two values that are none.

        `activations` says what becomes of these where they are quantized.
        """
        after = _Result(result.graph, frozenset(op_types), activations, is_static)
        for node, weights in _weighty(self.model.graph, {}):
            yield after.module(node, weights)
        yield from _inside(self.model.graph, _weights(self.model.graph), "")


def _weights(graph: Any) -> dict[str, Any]:
    """The constant tensors of a graph that may be weights, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer if is_weight(tensor)}
    return found | {node.output[0]: tensor for node in graph.node if (tensor := constant(node)) is not None}


def _weighty(graph: Any, outer: Mapping[str, Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The operators that have weights, with these, and the products that have none."""
    known = {**outer, **_weights(graph)}
    for node in graph.node:
        names = [node.input[at] for at in WEIGHTS.get(node.op_type, ()) if at < len(node.input)]
        weights = [known[name] for name in names if name in known]
        if weights or node.op_type in _PRODUCTS:
            yield node, weights


def _inside(graph: Any, outer: Mapping[str, Any], path: str) -> Iterator[Module]:
    """The operators with weights in graphs inside a graph, which onnxruntime leaves alone."""
    for node, inner in _inner(graph):
        here = f"{path}{node.name or node.op_type}/"
        for each, weights in _weighty(inner, outer):
            if weights:
                why = f"it lies inside {node.op_type}, where onnxruntime does not look"
                yield Module(here + (each.name or weights[0].name or each.output[0]), why=why)
        yield from _inside(inner, {**outer, **_weights(inner)}, here)


class _Result:
    """The graph that onnxruntime made."""

    def __init__(self, graph: Any, op_types: frozenset[str], activations: str, is_static: bool) -> None:  # noqa: FBT001
        self._nodes = {node.name: node for node in graph.node}
        self._made = {output: node for node in graph.node for output in node.output}
        self._tensors = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._chosen, self._activations, self._is_static = op_types, activations, is_static

    def module(self, node: Any, weights: Sequence[Any]) -> Module:
        """What became of a node with these weights."""
        if not weights and self._is_static and self._is_fed_integers(node):
            return Module(node.name, scheme=self._activations)
        if kind := self._kind(node, weights):
            looked_up = node.op_type in _LOOKED_UP
            return Module(node.name, scheme=f"{kind} weights" + ("" if looked_up else f", {self._activations}"))
        why = self._why_not(node, weights) or ("onnxruntime left it" if weights else "its weight is no constant")
        return Module(node.name, why=why)

    def _kind(self, node: Any, weights: Sequence[Any]) -> str:
        """The integers that a weight of the node was made; none if it was not, or the node takes it as it was."""
        from onnx import TensorProto

        now = self._nodes.get(node.name)
        kept = set(now.input) if now else set()
        made = [weight.name + end for weight in weights if weight.name not in kept for end in _MADE]
        kinds = [self._tensors[name] for name in made if name in self._tensors]
        return TensorProto.DataType.Name(kinds[0]).lower() if kinds else ""

    def _is_fed_integers(self, node: Any) -> bool:
        now = self._nodes.get(node.name)
        makers = [self._made.get(name) for name in now.input[:2]] if now else []
        return bool(makers) and all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)

    def _why_not(self, node: Any, weights: Sequence[Any]) -> str:
        from onnx import TensorProto

        name = "MatMul" if node.op_type == "Gemm" and not self._is_static else node.op_type
        if not self._chosen & {name, node.op_type}:
            return f"{node.op_type} is not among the recipe's operators"
        if weights and weights[0].data_type != TensorProto.FLOAT:
            return f"its weight is {TensorProto.DataType.Name(weights[0].data_type)}"
        return ""
