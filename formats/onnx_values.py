"""Values that stand in an ONNX model one by one, in its tensors' typed fields, and not as a run of raw bytes.

onnx.proto: float_data, int32_data, int64_data, double_data, uint64_data.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from formats.decode import Codes, Numbers
from formats.onnx import parse
from formats.onnx_tensors import located_tensors
from formats.onnx_wire import read_outline
from formats.rules import onnx as rules
from formats.snapshot import ModelFile
from formats.tensors import WeightFile

FIXED = frozenset((4, 10))
"""Fields whose values are as wide as in raw data, float_data and double_data; those of the others are varints."""

_LONGEST = 10
"""Bytes of a varint."""


def held(file: ModelFile, weights: WeightFile) -> dict[int, Any]:
    """The tensors of an ONNX model whose `start` and `end` say nothing, by position among `weights`.

    A small one is a numpy array, or None where onnx cannot make one; a large one is the `Payload` of a typed field.
    """
    outline = read_outline(file)
    pairs = zip(located_tensors(parse(file, outline)), weights.tensors, strict=True)
    return {
        at: outline.payloads.get(path) or _array(tensor)
        for at, ((path, tensor), known) in enumerate(pairs)
        if known.start == known.end and known.parameters
    }


def _array(tensor: Any) -> Any:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.STRING or tensor.data_location == TensorProto.EXTERNAL:
        return None  # what is outside and has no bytes was refused; onnx would look for it in the current folder
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, NotImplementedError):
        return None


@dataclass(frozen=True)
class Varints:
    """Numbers of one to ten bytes each; `how` decodes them once each is as wide as it is in raw data."""

    how: Codes | Numbers

    def raw(self, file: ModelFile, data: Any) -> tuple[Any, Any]:
        """The raw bytes of the numbers that end in an array of bytes, and what is left: the begin of the next number.

        `RejectedError` if that is longer than a number can be.
        """
        import numpy

        ends = numpy.flatnonzero(data < 0x80)
        starts = numpy.concatenate(([0], ends + 1))
        lengths = numpy.diff(starts)
        numbers = numpy.zeros(len(ends), numpy.uint64)
        longest = max(int(lengths.max(initial=0)), len(data) - int(starts[-1]))
        if longest > _LONGEST:
            rules.PROTOBUF.reject(file.name, expected="numbers of at most ten bytes", found=f"{longest} bytes")
        for at in range(int(lengths.max(initial=0))):
            some = lengths > at
            groups = (data[starts[:-1][some] + at] & 0x7F).astype(numpy.uint64)
            numbers[some] |= groups << numpy.uint64(7 * at)
        return numbers.astype(f"<u{self.how.block_bytes}").view(numpy.uint8), data[starts[-1] :]
