"""Tensors as the headers of weight files describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from formats.findings import Finding
from formats.snapshot import ModelFile
from registry.names import RelativePath


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: its name, its type in the format's own word (`BF16`, `Q4_1`, `FLOAT`), its shape, and where it lies.

    `start` and `end` are byte offsets in `file`; the outermost dimension of `shape` comes first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: RelativePath
    start: int
    end: int

    @property
    def parameters(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class WeightFile:
    """What the header of one weight file holds. `metadata` is the format's own, of scalars and text.

    `findings` are those that did not stop the reader.
    """

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, object]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Regrouped:
    """The files that a model's weights are in after a split or a merge, and the names of those that they stand for."""

    files: tuple[ModelFile, ...]
    replaced: frozenset[str]


def count_by_dtype(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    """Parameters of each dtype, the most frequent first."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.parameters
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
