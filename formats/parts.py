"""Where the values of a model are, in parts that threads can share, and how they are read.

Every byte of a tensor is in one part; a part is read from its begin to its end, so that a file is read forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any, NamedTuple

from formats.decode import Blocks, Codes, Decoder, decoder
from formats.examine import FORMATS, Report
from formats.onnx_values import FIXED, Varints, held
from formats.onnx_wire import Payload
from formats.snapshot import ModelFile
from formats.tensors import TensorInfo
from registry.errors import ContentError

PIECE = 1 << 20
"""Bytes that are decoded at once; blocks of ggml, which are decoded slowly, in a quarter of it."""

UNIT = 16 << 20
"""Bytes that one thread deals with before it takes the next."""

_MAX_TENSORS = 1024


class Part(NamedTuple):
    """A run of bytes of one tensor, in whole blocks, or an array; `left` bounds the values, where bytes have more."""

    tensor: TensorInfo
    file: ModelFile
    how: Decoder | Varints | None = None
    start: int = 0
    end: int = 0
    left: float = inf
    inline: Any = None


def parts(report: Report) -> Iterator[Part]:
    """The parts of every tensor of the weight files that could be read, in order.

    A tensor without bytes, or whose values nothing can decode, has one part without either bytes or an array.
    """
    files = {file.name: file for file in report.snapshot.files}
    for file, weights in report.read.items():
        order = _order(file)
        arrays = held(file, weights) if FORMATS[file.suffix] == "onnx" else {}
        for at, tensor in enumerate(weights.tensors):
            how, values = decoder(tensor.dtype, order), arrays.get(at)
            if isinstance(values, Payload):
                yield from _payload_parts(tensor, file, how, values)
            elif values is not None or not how or tensor.start == tensor.end:
                yield Part(tensor, file, inline=values)
            else:
                yield from _byte_parts(tensor, files[tensor.file], how, tensor.start, tensor.end)


def _order(file: ModelFile) -> str:
    from formats.gguf import read_header

    return read_header(file).order if FORMATS[file.suffix] == "gguf" else "<"


def _byte_parts(tensor: TensorInfo, file: ModelFile, how: Decoder, first: int, end: int) -> Iterator[Part]:
    """Parts that threads can share; an odd number of nibbles leaves the last one without a meaning."""
    step = max(UNIT // how.block_bytes, 1) * how.block_bytes
    is_packed = isinstance(how, Codes) and how.bits == 4
    for start in range(first, end, step):
        left = tensor.parameters - 2 * (start - first) if is_packed else inf
        yield Part(tensor, file, how, start, min(start + step, end), left)


def _payload_parts(tensor: TensorInfo, file: ModelFile, how: Decoder | None, payload: Payload) -> Iterator[Part]:
    """Where varints begin is known by reading those before them, so that these are one part."""
    if how and payload.field in FIXED:
        yield from _byte_parts(tensor, file, how, payload.start, payload.end)
    elif how and not isinstance(how, Blocks):
        left = tensor.parameters if isinstance(how, Codes) and how.bits == 4 else inf
        yield Part(tensor, file, Varints(how), payload.start, payload.end, left)
    else:
        yield Part(tensor, file)


def units(every: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in groups that are worth a thread's while."""
    unit: list[Part] = []
    size = 0
    for part in every:
        unit.append(part)
        size += part.end - part.start
        if size >= UNIT or len(unit) >= _MAX_TENSORS:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def pieces(part: Part, stream: Any, buffer: Any, block_bytes: int) -> Iterator[Any]:
    """The bytes of a part in whole blocks, each piece in the place of the one before it.

    `buffer` holds `PIECE` bytes, and `stream` is at the begin of the part. `ContentError` if the file ends in it.
    """
    most = PIECE // 4 if isinstance(part.how, Blocks) else PIECE
    step = most // block_bytes * block_bytes
    for start in range(part.start, part.end, step):
        piece = buffer[: min(step, part.end - start)]
        _fill(stream, piece, part)
        yield piece


def _fill(stream: Any, piece: Any, part: Part) -> None:
    view = memoryview(piece)
    while view:
        count = stream.readinto(view)
        if not count:
            raise ContentError(
                "the file ended while its values were read", subject=part.file.name, expected=f"{len(view)} bytes more"
            )
        view = view[count:]
