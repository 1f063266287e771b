"""Giants among ONNX models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fuzz.giants.headers import MILLION
from fuzz.mutant import Content
from fuzz.wire import BYTES, VARINT, Field, join, varint


def _field(number: int, value: bytes | int) -> bytes:
    kind = VARINT if isinstance(value, int) else BYTES
    field: Field = (number, kind, value)
    return join([field])


def _onnx(graph: bytes, front: bytes = b"") -> Content:
    """A model around the fields of a graph; a node, a name and an output are added."""
    node = _field(1, _field(1, b"x") + _field(2, b"y") + _field(4, b"Relu"))
    value = _field(1, b"x") + _field(2, _field(1, _field(1, 1) + _field(2, b"")))
    graph += _field(2, b"g") + node + _field(11, value) + _field(12, value.replace(b"x", b"y", 1))
    return Content(_field(1, 9) + _field(8, _field(1, b"") + _field(2, 19)) + front + _field(7, graph))


def _chain(count: int) -> bytes:
    """Nodes, each with the output of the one before it."""
    first = _field(1, _field(1, b"x") + _field(2, b"n00000") + _field(4, b"Relu"))
    node = _field(1, _field(1, b"n@@@@@") + _field(2, b"n@@@@@") + _field(4, b"Relu")).replace(b"@@@@@", b"%05x")
    return first + b"".join(node % (at - 1, at) for at in range(1, count))


def _subgraphs(depth: int) -> bytes:
    """A node that holds a graph with a node that holds a graph..."""
    inner = _field(2, b"g")
    for _ in range(depth):
        attribute = _field(1, b"then_branch") + _field(20, 5) + _field(6, inner)
        inner = _field(2, b"g") + _field(1, _field(4, b"If") + _field(5, attribute))
    return inner


def _initializers(count: int) -> bytes:
    tensor = _field(5, _field(1, 1) + _field(2, 3) + _field(8, b"w@@@@@") + _field(9, b"a")).replace(b"@@@@@", b"%05x")
    return b"".join(tensor % at for at in range(count))


def _functions(count: int, imports: int) -> bytes:
    """Local functions, and operator sets that the checker copies for each of them."""
    own = _field(9, _field(1, b"") + _field(2, 19))
    functions = (_field(25, _field(1, b"f%x" % at) + _field(10, b"local") + own) for at in range(count))
    sets = (_field(8, _field(1, b"d%x" % at) + _field(2, 1)) for at in range(imports))
    return b"".join((*functions, *sets))


def onnx() -> Iterator[tuple[str, Callable[[], Content]]]:
    """Files, by name."""
    yield "million-nodes", lambda: _onnx(_chain(MILLION))
    yield "hundred-thousand-nodes", lambda: _onnx(_chain(100_000))
    yield "fifty-thousand-nodes", lambda: _onnx(_chain(50_000))
    yield "million-empty-nodes", lambda: _onnx(_field(1, b"") * MILLION)
    group = _field(1, _field(2, b"z") + b"\x7b\x7c")
    yield "million-empty-nodes-behind-a-group", lambda: _onnx(group + _field(1, b"") * MILLION)
    yield "subgraphs-1000-deep", lambda: _onnx(_subgraphs(1000))
    yield "subgraphs-90-deep", lambda: _onnx(_subgraphs(90))
    yield "million-initializers", lambda: _onnx(_initializers(MILLION))
    yield "hundred-thousand-initializers", lambda: _onnx(_initializers(100_000))
    yield "fifty-thousand-initializers", lambda: _onnx(_initializers(50_000))
    yield "million-attributes", lambda: _onnx(_field(1, _field(4, b"Relu") + _field(5, b"") * MILLION))
    yield "million-inputs", lambda: _onnx(_field(1, _field(4, b"Relu") + _field(1, b"") * MILLION))
    yield "long-ints", lambda: _onnx(_field(1, _field(4, b"Relu") + _field(5, _field(8, b"\1" * (16 << 20)))))
    yield "long-product", lambda: _onnx(_field(5, _field(8, b"w") + _field(2, 1) + _field(1, b"\x7f" * (2 << 20))))
    yield "long-dims", lambda: _onnx(_field(5, _field(8, b"w") + _field(1, b"\1" * (16 << 20))))
    yield "long-text", lambda: _onnx(_field(10, b"a" * (31 << 20)))
    yield "long-name", lambda: _onnx(_field(5, _field(8, b"a" * (31 << 20)) + _field(2, 1) + _field(1, 0)))
    yield (
        "long-input-name",
        lambda: _onnx(_field(1, _field(4, b"Relu") + _field(1, b"a" * (6 << 20)) + _field(2, b"z"))),
    )
    yield "long-domain", lambda: _onnx(_field(1, _field(4, b"a" * (2 << 20)) + _field(7, b"\x1b" * (2 << 20))))
    yield "million-value-infos", lambda: _onnx(_field(13, b"") * MILLION)
    yield "million-metadata", lambda: _onnx(b"", _field(14, b"") * MILLION)
    yield "millions-of-numbers", lambda: _onnx(b"", b"\x08\x09" * (8 << 20))
    yield "million-unknown-fields", lambda: _onnx(b"", _field(99, b"") * MILLION)
    yield (
        "million-external-entries",
        lambda: _onnx(_field(5, _field(8, b"w") + _field(13, b"") * MILLION + _field(14, 1))),
    )
    yield "functions-and-operator-sets", lambda: _onnx(b"", _functions(5_000, 20_000))
    yield "wide-varints", lambda: _onnx(b"", (b"\xf2\x80\x80\x80\x00" + varint(0)) * MILLION)
    yield "constant-payload", lambda: _onnx(_constants(1, 40 << 20))
    yield "constant-payloads", lambda: _onnx(_constants(2_000, 16 << 10))


def _constants(count: int, size: int) -> bytes:
    """Nodes with a tensor each, as some exporters write weights."""
    nodes = []
    for at in range(count):
        tensor = _field(1, size) + _field(2, 2) + _field(9, bytes(size))
        attribute = _field(1, b"value") + _field(20, 4) + _field(5, tensor)
        nodes.append(_field(1, _field(2, b"c%x" % at) + _field(4, b"Constant") + _field(5, attribute)))
    return b"".join(nodes)
