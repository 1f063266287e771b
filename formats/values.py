"""Every value of a model, read once, in a stream: what `packer validate --deep` measures and judges."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from formats.decode import Blocks, Decoder, decoder
from formats.examine import FORMATS, Report
from formats.findings import Finding
from formats.moments import Moments, moments, of_numbers
from formats.rules import values as rules
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo, WeightFile
from registry.errors import ContentError

PIECE = 1 << 20
"""Bytes that are decoded at once; blocks of ggml, which are decoded slowly, in a quarter of it."""

UNIT = 16 << 20
"""Bytes that one thread deals with before it takes the next."""

_MAX_TENSORS = 1024
_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_F16_MAX = 65504.0
_SCALE = re.compile(r".*(?:(?:weight|input|output|[qkv])_(?:global_)?scale(?:_inv|_2)?|[._]scales|\.SCB|absmax)")
_MAY_BE_ZERO = re.compile(r".*(?:bias|beta|lora_B\.weight|lora_embedding_B)")


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


class _Part(NamedTuple):
    """A run of bytes of one tensor, in whole blocks."""

    tensor: TensorInfo
    file: ModelFile
    how: Decoder | None
    start: int
    end: int
    inline: Any = None


def measure(report: Report, threads: int = 0) -> Iterator[TensorValues]:
    """Every tensor of the weight files that could be read, in order; each byte is read once.

    Memory is some megabytes for each of the `threads`, which are as many as there are processors, two at least.
    """
    workers = threads or max(os.cpu_count() or 1, 2)
    with ThreadPoolExecutor(workers) as pool:
        results = _ahead(pool, _measure, _units(_parts(report)), 2 * workers)
        pairs = (pair for unit in results for pair in unit)
        for _, group in groupby(pairs, key=lambda pair: id(pair[0])):
            parts = list(group)
            yield TensorValues(parts[0][0], sum((known for _, known in parts), Moments()))


def _ahead(
    pool: ThreadPoolExecutor,
    call: Callable[[list[_Part]], list[tuple[TensorInfo, Moments]]],
    units: Iterable[list[_Part]],
    limit: int,
) -> Iterator[list[tuple[TensorInfo, Moments]]]:
    """The results in order, at most `limit` units ahead of whoever takes them."""
    waiting: deque[Future[list[tuple[TensorInfo, Moments]]]] = deque()
    for unit in units:
        waiting.append(pool.submit(call, unit))
        if len(waiting) > limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _parts(report: Report) -> Iterator[_Part]:
    files = {file.name: file for file in report.snapshot.files}
    for file, weights in report.read.items():
        order, inline = _order(file), _inline(file, weights)
        for at, tensor in enumerate(weights.tensors):
            how = decoder(tensor.dtype, order)
            step = max(UNIT // how.block_bytes, 1) * how.block_bytes if how else UNIT
            if at in inline:
                yield _Part(tensor, file, None, 0, 0, inline[at])
            elif not how or tensor.start == tensor.end:
                yield _Part(tensor, file, None, 0, 0)
            else:
                for start in range(tensor.start, tensor.end, step):
                    yield _Part(tensor, files[tensor.file], how, start, min(start + step, tensor.end))


def _order(file: ModelFile) -> str:
    from formats.gguf import read_header

    return read_header(file).order if FORMATS[file.suffix] == "gguf" else "<"


def _inline(file: ModelFile, weights: WeightFile) -> Mapping[int, Any]:
    """The small tensors of an ONNX model whose values stand in its protobuf, by position."""
    if FORMATS[file.suffix] != "onnx":
        return {}
    from onnx import TensorProto, numpy_helper

    from formats.onnx import all_tensors, parse
    from formats.onnx_wire import read_skeleton

    model = parse(file, read_skeleton(file))
    return {
        at: numpy_helper.to_array(tensor)
        for at, (tensor, known) in enumerate(zip(all_tensors(model), weights.tensors, strict=True))
        if known.start == known.end and known.parameters and tensor.data_type != TensorProto.STRING
    }


def _units(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Parts in groups that are worth a thread's while."""
    unit: list[_Part] = []
    size = 0
    for part in parts:
        unit.append(part)
        size += part.end - part.start
        if size >= UNIT or len(unit) >= _MAX_TENSORS:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def _measure(unit: list[_Part]) -> list[tuple[TensorInfo, Moments]]:
    """What is known of each part."""
    import numpy

    buffer = numpy.empty(PIECE, numpy.uint8)
    known = []
    for file, group in groupby(unit, key=lambda part: part.file):
        with file.open() as stream:
            for part in group:
                known.append((part.tensor, _measured(part, stream, buffer)))
    return known


def _measured(part: _Part, stream: Any, buffer: Any) -> Moments:
    import numpy

    if part.inline is not None:
        flat = part.inline.reshape(-1)
        return of_numbers(flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat.astype(numpy.float64))
    known = Moments()
    if not part.how:
        return known
    most = PIECE // 4 if isinstance(part.how, Blocks) else PIECE
    step = most // part.how.block_bytes * part.how.block_bytes
    stream.seek(part.start)
    for start in range(part.start, part.end, step):
        piece = buffer[: min(step, part.end - start)]
        _fill(stream, piece, part)
        known += moments(piece, part.how)
    return known


def _fill(stream: Any, piece: Any, part: _Part) -> None:
    view = memoryview(piece)
    while view:
        count = stream.readinto(view)
        if not count:
            raise ContentError(
                "the file ended while its values were read", subject=part.file.name, expected=f"{len(view)} bytes more"
            )
        view = view[count:]


def judge_values(values: TensorValues) -> Iterator[Finding]:
    """What is wrong with the values of a tensor."""
    tensor, known = values.tensor, values.moments
    is_onnx = tensor.dtype not in _FLOATS and tensor.dtype.startswith(("FLOAT", "DOUBLE", "BFLOAT"))
    if tensor.parameters and not known.seen:
        yield rules.UNMEASURED.finding(tensor.file, tensor=tensor.name, found=tensor.dtype)
    where = f"the first at {known.first_bad} of {known.seen}"
    for rule, count in ((rules.NAN, known.nan), (rules.INF_CONSTANT if is_onnx else rules.INF, known.inf)):
        if count:
            yield rule.finding(tensor.file, tensor=tensor.name, expected="finite numbers", found=f"{count}, {where}")
    if known.zeros == known.seen > 0 and not is_onnx and not _MAY_BE_ZERO.fullmatch(tensor.name):
        yield rules.ZERO.finding(tensor.file, tensor=tensor.name, found=f"{known.zeros} zeros")
    if known.finite and tensor.dtype in _FLOATS:
        yield from _judge_size(values)


def _judge_size(values: TensorValues) -> Iterator[Finding]:
    tensor, known = values.tensor, values.moments
    found = f"{known.low:g} to {known.high:g}"
    if _SCALE.fullmatch(tensor.name):
        if known.low < 0:
            yield rules.SCALE.finding(tensor.file, tensor=tensor.name, expected="positive numbers", found=found)
        elif known.low < 1e-12 or known.high > 1e6:
            yield rules.SCALE_SIZE.finding(tensor.file, tensor=tensor.name, expected="1e-12 to 1e6", found=found)
    elif max(-known.low, known.high) > _F16_MAX:
        yield rules.MAGNITUDE.finding(tensor.file, tensor=tensor.name, expected=f"at most {_F16_MAX:g}", found=found)
