"""Splitting and joining of GGUF models, in llama.cpp's convention.

Parts are named NAME-00001-of-00003.gguf. Each says its number (`split.no`, UINT16), how many parts there are
(`split.count`, UINT16) and how many tensors all of them hold (`split.tensors.count`, INT32); the metadata of the model
stands in the first alone. llama.cpp, tools/gguf-split/gguf-split.cpp and src/llama-model-loader.cpp; GGUF's
specification names the files: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from formats.gguf import INT32, MAGIC, TYPES, UINT16, Header, read_header
from formats.gguf_check import COUNT, NUMBER, TENSORS
from formats.index import SHARD
from formats.order import numbered
from formats.snapshot import ModelFile
from formats.tensors import Regrouped, TensorInfo, WeightFile
from registry.blob import BytesBlob
from registry.descriptor import OCTETS
from registry.errors import ModelError, UsageError
from registry.join import JoinedBlob, Region
from registry.names import relative_path

SUFFIX = ".gguf"

MAX_PARTS = (1 << 16) - 1
"""What `split.count` can say."""

MAX_ALIGNMENT = 1 << 20
"""Bytes. A part has up to this much padding, which is kept in memory once."""

_ALIGNMENT, _DEFAULT_ALIGNMENT = "general.alignment", 32
_SPLIT_KEYS = frozenset((NUMBER, COUNT, TENSORS))
_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}


@dataclass(frozen=True)
class _Tensor:
    """A tensor's entry in the table, short of its offset, and its data."""

    entry: bytes
    data: Region


@dataclass(frozen=True)
class _Model:
    """A model, whatever files it lies in. `stem` is its path without extension; `pairs` are its metadata by key."""

    stem: str
    version: int
    order: str
    alignment: int
    pairs: Mapping[str, Region]
    tensors: tuple[_Tensor, ...]

    def padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment


@dataclass(frozen=True)
class _Head:
    """What stands before the table of a part: pairs taken over, and pairs that are new."""

    kept: tuple[Region, ...]
    new: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        return 24 + sum(region.length for region in self.kept) + sum(map(len, self.new))


def regroup_gguf(read: Mapping[ModelFile, WeightFile], max_size: int | None) -> Iterator[Regrouped]:
    """Each GGUF model in parts of at most `max_size` bytes, header included, or in one file NAME.gguf if that is None.

    `read` are the files of a valid checkpoint; what is no GGUF is passed over, and so is a model that is one file and
    small enough. Tensors keep their order and are never split: a part is longer than `max_size` only if it holds a
    single tensor, or the metadata and none. A split of a model that fits in one file becomes one file. The new blobs
    are regions of the old ones: nothing is written, no weight is read.

    `UsageError` if there would be more than 65,535 parts; `ModelError` if parts differ in byte order, or are aligned
    to more than 1 MiB.
    """
    models: dict[tuple[str, str], list[ModelFile]] = {}
    for file in sorted(read, key=lambda file: file.name):
        if file.suffix == SUFFIX:
            match = SHARD.fullmatch(file.name)
            models.setdefault((match[1][:-1], match[3]) if match else (file.name[: -len(SUFFIX)], ""), []).append(file)
    for (stem, total), files in models.items():
        if total or (max_size is not None and files[0].size > max_size):
            yield Regrouped(tuple(_regroup(stem, files, max_size)), frozenset(file.name for file in files))


def _regroup(stem: str, files: list[ModelFile], max_size: int | None) -> Iterator[ModelFile]:
    model = _model(stem, files)
    whole = _part(model, f"{stem}{SUFFIX}", _Head(tuple(model.pairs.values())), model.tensors)
    parts = [] if max_size is None or whole.size <= max_size else _divide(model, max_size)
    if len(parts) < 2:
        yield whole
        return
    if len(parts) > MAX_PARTS:
        raise _too_many(model, len(parts), max_size or 0, whole.size)
    for number, tensors in enumerate(parts):
        name = numbered(stem, number + 1, len(parts), SUFFIX)
        yield _part(model, name, _head(model, number, len(parts)), tensors)


def _model(stem: str, files: list[ModelFile]) -> _Model:
    """The model in these files, the first part first. A key in several parts has the first one's value."""
    headers = [read_header(file) for file in files]
    first = headers[0]
    pairs: dict[str, Region] = {}
    tensors: list[_Tensor] = []
    for file, header in zip(files, headers, strict=True):
        if header.order != first.order:
            raise ModelError("this part has another byte order than the first", subject=file.name)
        for key, pair in header.pairs.items():
            if key not in _SPLIT_KEYS and (key != _ALIGNMENT or header is first):
                pairs.setdefault(key, Region(file.blob, pair.start, pair.end - pair.start))
        tensors.extend(_tensor(file, header, tensor) for tensor in header.tensors)
    if first.alignment > MAX_ALIGNMENT:
        raise ModelError(
            "its alignment is too large", subject=files[0].name, expected=MAX_ALIGNMENT, found=first.alignment
        )
    return _Model(stem, first.version, first.order, first.alignment, pairs, tuple(tensors))


def _tensor(file: ModelFile, header: Header, tensor: TensorInfo) -> _Tensor:
    shape = tensor.shape[::-1]
    form = f"{header.order}I{len(shape)}QI"
    entry = _text(header.order, tensor.name) + struct.pack(form, len(shape), *shape, _NUMBERS[tensor.dtype])
    return _Tensor(entry, Region(file.blob, tensor.start, tensor.end - tensor.start))


def _text(order: str, text: str) -> bytes:
    raw = text.encode()
    return struct.pack(f"{order}Q", len(raw)) + raw


def _head(model: _Model, number: int, count: int) -> _Head:
    """The head of a part. Later parts carry the alignment if it is not the default, which their offsets hang on."""
    kept = tuple(model.pairs.values())
    if number:
        kept = (model.pairs[_ALIGNMENT],) if model.alignment != _DEFAULT_ALIGNMENT else ()
    values = ((NUMBER, UINT16, "H", number), (COUNT, UINT16, "H", count), (TENSORS, INT32, "i", len(model.tensors)))
    order = model.order
    return _Head(
        kept,
        tuple(_text(order, key) + struct.pack(order + "I" + code, kind, value) for key, kind, code, value in values),
    )


def _divide(model: _Model, max_size: int) -> list[list[_Tensor]]:
    """The tensors of each part. The first may have none, if the metadata leaves no room for one."""
    parts: list[list[_Tensor]] = [[]]
    head, data = _head(model, 0, 0).size, 0
    later = _head(model, 1, 0).size
    for tensor in model.tensors:
        entry, length = len(tensor.entry) + 8, model.padded(tensor.data.length)
        is_full = model.padded(head + entry) + data + length > max_size
        if is_full and (parts[-1] or len(parts) == 1):
            parts.append([])
            head, data = later, 0
        parts[-1].append(tensor)
        head, data = head + entry, data + length
    return parts


def _too_many(model: _Model, count: int, max_size: int, whole: int) -> UsageError:
    sizes = range(max_size, whole + 1)
    enough = bisect_left(sizes, True, key=lambda size: len(_divide(model, size)) <= MAX_PARTS)
    return UsageError(
        "the model would fall into more parts than can be numbered",
        subject=model.stem,
        expected=f"at most {MAX_PARTS} parts",
        found=f"{count} parts of {max_size} bytes",
        hint=f"give a size of at least {sizes[enough]} bytes",
    )


def _part(model: _Model, name: str, head: _Head, tensors: Iterable[_Tensor]) -> ModelFile:
    blob = JoinedBlob.of(_content(model, head, tuple(tensors)))
    return ModelFile(relative_path(name, model.stem), blob.size, blob)


def _content(model: _Model, head: _Head, tensors: tuple[_Tensor, ...]) -> Iterator[Region | bytes]:
    """The bytes of a file. Every tensor is padded to the alignment, the last one too, as llama.cpp and gguf-py do."""
    order = model.order
    zeros = BytesBlob.of(OCTETS, bytes(model.alignment))
    pairs = len(head.kept) + len(head.new)
    yield struct.pack(f"{order}4sIQQ", MAGIC, model.version, len(tensors), pairs)
    yield from head.kept
    offset, table = 0, bytearray().join(head.new)
    for tensor in tensors:
        table += tensor.entry + struct.pack(f"{order}Q", offset)
        offset += model.padded(tensor.data.length)
    yield bytes(table)
    size = head.size + len(table) - sum(map(len, head.new))
    yield Region(zeros, 0, model.padded(size) - size)
    for tensor in tensors:
        yield tensor.data
        yield Region(zeros, 0, model.padded(tensor.data.length) - tensor.data.length)
