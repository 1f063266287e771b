"""ONNX models with their weights in files of a given size beside them, or inside again.

https://github.com/onnx/onnx/blob/main/docs/ExternalData.md. Nothing is copied here: a file that comes out is new
protobuf around regions of the files that went in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formats.onnx import MAX_FILE, all_tensors, parse
from formats.onnx_fill import fill
from formats.onnx_wire import RAW_DATA, Payload, read_skeleton
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import Regrouped, TensorInfo, WeightFile
from registry.blob import BytesBlob
from registry.descriptor import OCTETS
from registry.join import JoinedBlob, Region
from registry.names import relative_path

SUFFIX = ".onnx"

PAGE = 4096
"""Bytes. Data begins at multiples of it, so that it can be mapped (ExternalData.md, offset)."""

_OTHER_WEIGHTS = (".safetensors", ".gguf")
_FLOAT_DATA, _DOUBLE_DATA = 4, 10
_LIKE_RAW = {
    (_FLOAT_DATA, "FLOAT"): 4,
    (_FLOAT_DATA, "COMPLEX64"): 8,
    (_DOUBLE_DATA, "DOUBLE"): 8,
    (_DOUBLE_DATA, "COMPLEX128"): 16,
}
"""Field and dtype to the bytes of an element, where packed numbers are the tensor's raw form."""

_ZEROS = BytesBlob.of(OCTETS, bytes(PAGE))


@dataclass(frozen=True, eq=False)
class _Values:
    """The values of a tensor, outside the skeleton: `length` bytes of `source` from `start` on.

    `position` is that of an initializer in the graph; None for a tensor elsewhere, which stays external. `field` is the
    one that holds the values in a model; `is_raw` says whether they are in the form of external data.
    """

    tensor: Any
    position: int | None
    field: int
    is_raw: bool
    source: ModelFile
    start: int
    length: int

    @property
    def key(self) -> tuple[str, int, int]:
        """What tensors that share their values have in common."""
        return self.source.name, self.start, self.length

    @property
    def region(self) -> Region:
        return Region(self.source.blob, self.start, self.length)


@dataclass(frozen=True)
class _Place:
    """Where values lie: the number of the data file, and the offset in it."""

    file: int
    offset: int


def regroup_onnx(read: Mapping[ModelFile, WeightFile], snapshot: Snapshot, max_size: int | None) -> Iterator[Regrouped]:
    """Each ONNX model with its weights in data files of at most `max_size` bytes, or in itself if that is None.

    `read` are the files of a valid checkpoint; what is no ONNX is passed over, and so is a model that has no external
    data and is small enough, or has nothing to move. For NAME.onnx the data files are NAME.onnx_data, NAME.onnx_data_1
    and so on. They take what was external, and the graph's initializers of more than 1 KiB that are raw or floats; a
    tensor that is larger than `max_size` gets a file of its own. With None the initializers return into the model as
    raw data, or, if it would exceed 2 GiB, move to one data file, which also keeps external tensors of nodes.

    The new blobs are regions of the old ones: nothing is written, no weight is read.
    """
    for file, weights in read.items():
        is_whole = all(tensor.file == file.name for tensor in weights.tensors)
        if file.suffix != SUFFIX or (is_whole and (max_size is None or file.size <= max_size)):
            continue
        files = _regroup(file, weights, snapshot, max_size)
        names = {file.name, *(tensor.file for tensor in weights.tensors)}
        if not is_whole or len(files) > 1:
            yield Regrouped(tuple(files), frozenset(name for name in names if not name.endswith(_OTHER_WEIGHTS)))


def _regroup(file: ModelFile, weights: WeightFile, snapshot: Snapshot, max_size: int | None) -> list[ModelFile]:
    skeleton = read_skeleton(file)
    model = parse(file, skeleton)
    values = list(_values(file, weights, snapshot, model, skeleton.payloads))
    if max_size is None:
        inside = [each for each in values if each.position is not None]
        files = _write(file, model, inside, [each for each in values if each.position is None], None)
        if files[-1].size <= MAX_FILE:
            return files
    inside = [each for each in values if not each.is_raw]
    return _write(file, model, inside, [each for each in values if each.is_raw], max_size)


def _values(
    file: ModelFile, weights: WeightFile, snapshot: Snapshot, model: Any, payloads: Mapping[int, Payload]
) -> Iterator[_Values]:
    """All values outside the skeleton. An external tensor without any gets its nothing here."""
    from onnx import TensorProto

    initializers = len(model.graph.initializer)
    for number, (tensor, info) in enumerate(zip(all_tensors(model), weights.tensors, strict=True)):
        position = number if number < initializers else None
        if tensor.data_location == TensorProto.EXTERNAL:
            source, length = snapshot.get(info.file), info.end - info.start
            assert source, info.file
            if length:
                yield _Values(tensor, position, RAW_DATA, True, source, info.start, length)
            else:
                _include(tensor)
                tensor.raw_data = b""
        elif number in payloads and position is not None:
            payload = payloads[number]
            yield _Values(
                tensor, number, payload.field, _is_raw(payload, info), file, payload.start, payload.end - payload.start
            )


def _is_raw(payload: Payload, info: TensorInfo) -> bool:
    width = _LIKE_RAW.get((payload.field, info.dtype), 0)
    return payload.field == RAW_DATA or width * info.parameters == payload.end - payload.start


def _write(
    file: ModelFile, model: Any, inside: Iterable[_Values], external: Sequence[_Values], limit: int | None
) -> list[ModelFile]:
    """The data files of `external`, and last the model, with the values `inside`."""
    stem = file.name[: -len(SUFFIX)]
    files, places = _layout(external, limit)
    names = [f"{stem}.onnx_data{f'_{number}' if number else ''}" for number in range(len(files))]
    payloads: dict[int, tuple[int, Region]] = {}
    for each in external:
        place = places[each.key]
        _refer(each.tensor, names[place.file].rpartition("/")[2], place.offset, each.length)
    for each in inside:
        _include(each.tensor)
        payloads[each.position or 0] = each.field, each.region
    blobs = [*map(JoinedBlob.of, files), JoinedBlob.of(fill(model.SerializeToString(deterministic=True), payloads))]
    return [
        ModelFile(relative_path(name, file.name), blob.size, blob)
        for name, blob in zip([*names, file.name], blobs, strict=True)
    ]


def _layout(
    values: Iterable[_Values], limit: int | None
) -> tuple[list[list[Region]], dict[tuple[str, int, int], _Place]]:
    """The content of each data file, and where values are in them; tensors that share values go on sharing them."""
    files: list[list[Region]] = []
    places: dict[tuple[str, int, int], _Place] = {}
    end = 0
    for each in values:
        if each.key in places:
            continue
        start = -(-end // PAGE) * PAGE
        if not files or (limit is not None and start + each.length > limit):
            files.append([])
            start = end = 0
        files[-1] += (Region(_ZEROS, 0, start - end), each.region)
        places[each.key] = _Place(len(files) - 1, start)
        end = start + each.length
    return files, places


def _refer(tensor: Any, location: str, offset: int, length: int) -> None:
    """Point a tensor to its values. A checksum would be that of the whole file, and goes."""
    from onnx import TensorProto

    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = TensorProto.EXTERNAL


def _include(tensor: Any) -> None:
    del tensor.external_data[:]
    tensor.ClearField("data_location")
