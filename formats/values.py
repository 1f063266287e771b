"""Every value of a model, read once, in a stream: what `packer validate --deep` measures and judges."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from math import inf
from typing import Any

from formats.decode import Decoder
from formats.examine import Report
from formats.findings import Finding
from formats.moments import Moments, moments, of_numbers, of_pieces
from formats.onnx_values import Varints
from formats.parts import PIECE, Part, parts, pieces, units
from formats.rules import values as rules
from formats.tensors import TensorInfo

_F16_MAX = 65504.0
_INTEGERS = re.compile(r"U?I(?:NT)?\d+|BOOL|STRING|UNDEFINED")
_OF_ONNX = re.compile(r"U?INT\d+|B?FLOAT.*|DOUBLE|COMPLEX\d+")
"""Types that only ONNX has, by their names."""

_EIGHT_BITS = re.compile(r"F(?:LOAT)?8.*")
_SCALE = re.compile(r".*(?:(?:weight|input|output|[qkv])_(?:global_)?scale(?:_inv|_2)?|[._]scales|\.SCB|absmax)")
_SIGNED_SCALE = re.compile(r".*[._]scales")
"""MLX gives a scale the sign that its range asks for."""

_CODES = re.compile(r".*(?:weight|weight_packed|_blocks|_quantized)")
"""Integers that stand for weights; all others are counters, indexes and zero points."""

_MAY_BE_ZERO = re.compile(
    r".*(?:bias|beta|zero_point|zeros|running_mean|token_type_embeddings\.weight|lora_(?:embedding_)?B(?:\.\w+)*)"
)
_CONSTANT = 4096
"""Elements of an ONNX tensor that may be zeros because a program wants zeros: initial states, paddings, masks."""


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What the values of one tensor are like; `moments` has seen none if they could not be decoded."""

    tensor: TensorInfo
    moments: Moments

    def to_json(self) -> dict[str, Any]:
        """`min` to `std` are of the finite values, and null if there are none; `first_bad` is a flat index."""
        known = self.moments
        some = known.finite > 0
        return {
            "tensor": self.tensor.name,
            "file": self.tensor.file,
            "dtype": self.tensor.dtype,
            "count": known.seen,
            "nan": known.nan,
            "inf": known.inf,
            "zeros": known.zeros,
            "min": known.low if some else None,
            "max": known.high if some else None,
            "mean": float(known.mean) if some else None,
            "std": known.std if some else None,
            "first_bad": known.first_bad,
        }


def measure(report: Report, threads: int = 0) -> Iterator[TensorValues]:
    """Every tensor of the weight files that could be read, in order; each byte is read once.

    Memory is some megabytes for each of the `threads`, which are as many as there are processors, two at least.
    """
    workers = threads or max(os.cpu_count() or 1, 2)
    with ThreadPoolExecutor(workers) as pool:
        results = _ahead(pool, _measure, units(parts(report)), 2 * workers)
        pairs = (pair for unit in results for pair in unit)
        for _, group in groupby(pairs, key=lambda pair: id(pair[0])):
            known = list(group)
            yield TensorValues(known[0][0], sum((part for _, part in known), Moments()))


def _ahead(
    pool: ThreadPoolExecutor,
    call: Callable[[list[Part]], list[tuple[TensorInfo, Moments]]],
    every: Iterable[list[Part]],
    limit: int,
) -> Iterator[list[tuple[TensorInfo, Moments]]]:
    """The results in order, at most `limit` units ahead of whoever takes them."""
    waiting: deque[Future[list[tuple[TensorInfo, Moments]]]] = deque()
    for unit in every:
        waiting.append(pool.submit(call, unit))
        if len(waiting) > limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _measure(unit: list[Part]) -> list[tuple[TensorInfo, Moments]]:
    """What is known of each part."""
    import numpy

    buffer = numpy.empty(PIECE, numpy.uint8)
    known = []
    for file, group in groupby(unit, key=lambda part: part.file):
        with file.open() as stream:
            for part in group:
                known.append((part.tensor, _measured(part, stream, buffer)))
    return known


def _measured(part: Part, stream: Any, buffer: Any) -> Moments:
    import numpy

    if part.inline is not None:
        flat = part.inline.reshape(-1)
        return of_numbers(flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat.astype(numpy.float64))
    known = Moments()
    stream.seek(part.start)
    if isinstance(part.how, Varints):
        rest = buffer[:0]
        for piece in pieces(part, stream, buffer, 1):
            raw, rest = part.how.raw(part.file, numpy.concatenate((rest, piece)))
            known += _of_bytes(raw, part.how.how, part.left - known.seen)
    elif part.how and part.left == inf:
        return of_pieces(pieces(part, stream, buffer, part.how.block_bytes), part.how)
    elif part.how:
        for piece in pieces(part, stream, buffer, part.how.block_bytes):
            known += _of_bytes(piece, part.how, part.left - known.seen)
    return known


def _of_bytes(data: Any, how: Decoder, left: float) -> Moments:
    """Of raw bytes, of which the first `left` values count."""
    if left >= 2 * len(data):
        return moments(data, how)
    whole, half = divmod(int(left), 2)
    return moments(data[:whole], how) + of_numbers(how.numbers(data[whole : whole + 1])[:half])


def judge_values(values: TensorValues) -> Iterator[Finding]:
    """What is wrong with the values of a tensor."""
    tensor, known = values.tensor, values.moments
    if tensor.parameters and not known.seen:
        yield rules.UNMEASURED.finding(tensor.file, tensor=tensor.name, found=tensor.dtype)
    is_constant = _OF_ONNX.fullmatch(tensor.dtype) and not is_scale(tensor)
    where = f"the first at {known.first_bad} of {known.seen}"
    for rule, count in ((rules.NAN, known.nan), (rules.INF_CONSTANT if is_constant else rules.INF, known.inf)):
        if count:
            yield rule.finding(tensor.file, tensor=tensor.name, expected="finite numbers", found=f"{count}, {where}")
    if known.zeros == known.seen > 0 and not _may_be_zero(tensor):
        yield rules.ZERO.finding(tensor.file, tensor=tensor.name, found=f"{known.zeros} zeros")
    if known.finite and not _INTEGERS.fullmatch(tensor.dtype):
        yield from _judge_size(values)


def is_scale(tensor: TensorInfo) -> bool:
    """Whether a tensor is named as the scales of quantized weights and activations are."""
    return bool(_SCALE.fullmatch(tensor.name))


def _may_be_zero(tensor: TensorInfo) -> bool:
    """Whether zeros are what a good model may have here; a scale of zeros is told as a scale."""
    if is_scale(tensor):
        return not _EIGHT_BITS.fullmatch(tensor.dtype)
    if _MAY_BE_ZERO.fullmatch(tensor.name):
        return True
    if _OF_ONNX.fullmatch(tensor.dtype) and (len(tensor.shape) < 2 or tensor.parameters < _CONSTANT):
        return True
    return bool(_INTEGERS.fullmatch(tensor.dtype)) and not _CODES.fullmatch(tensor.name)


def _judge_size(values: TensorValues) -> Iterator[Finding]:
    tensor, known = values.tensor, values.moments
    found, largest = f"{known.low:g} to {known.high:g}", max(-known.low, known.high)
    if is_scale(tensor):
        if known.low < 0 and not _SIGNED_SCALE.fullmatch(tensor.name):
            yield rules.SCALE.finding(tensor.file, tensor=tensor.name, expected="positive numbers", found=found)
        elif not _EIGHT_BITS.fullmatch(tensor.dtype) and (known.zeros or 0 < known.low < 1e-12 or largest > 1e6):
            yield rules.SCALE_SIZE.finding(tensor.file, tensor=tensor.name, expected="1e-12 to 1e6", found=found)
    elif largest > _F16_MAX and not _EIGHT_BITS.fullmatch(tensor.dtype) and not _OF_ONNX.fullmatch(tensor.dtype):
        yield rules.MAGNITUDE.finding(tensor.file, tensor=tensor.name, expected=f"at most {_F16_MAX:g}", found=found)
