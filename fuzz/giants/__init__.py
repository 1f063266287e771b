"""Files that are large where readers hope for small: each is made when asked for, most of them refused at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fuzz.giants import documents, graphs, headers, keys, packed
from fuzz.giants.documents import Files, beside
from fuzz.mutant import Content


def giants() -> dict[str, Callable[[], Files]]:
    """Name to what makes the files."""
    made: dict[str, Callable[[], Files]] = {}
    for kind, each in (("safetensors", headers.safetensors()), ("gguf", keys.gguf()), ("onnx", graphs.onnx())):
        made |= {f"{kind}-{name}": partial(_single, f"model.{kind}", make) for name, make in each}
    made |= {f"pickle-{name}": partial(_packed, make) for name, make in packed.pickles()}
    return made | {f"documents-{name}": make for name, make in documents.documents()}


def _single(name: str, make: Callable[[], Content]) -> Files:
    return {name: make()}


def _packed(make: Callable[[], bytes]) -> Files:
    return beside("extra.dat", make())
