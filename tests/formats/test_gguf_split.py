"""GGUF models split and joined: against the files that went in, and gguf-py, which reads and writes both."""

from __future__ import annotations

import re
import shutil
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import gguf as reader
from formats import gguf_split
from formats.examine import examine
from formats.gguf_split import regroup_gguf
from formats.snapshot import ModelFile
from packer.sources import parse_source
from registry.blob import BytesBlob
from registry.descriptor import OCTETS
from registry.errors import ModelError, UsageError
from registry.names import relative_path
from tests.parts.tiny import write_folder

F32, F16, Q8_0, I8 = 0, 1, 8, 24
BYTES = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34), I8: (1, 1)}
UINT32, TEXT = 4, 8


@dataclass(frozen=True)
class Tensor:
    name: str
    kind: int
    shape: tuple[int, ...]

    @property
    def data(self) -> bytes:
        block, size = BYTES[self.kind]
        length = int(np.prod(self.shape, dtype=int)) // block * size
        return bytes((7 * at + len(self.name)) % 251 + 1 for at in range(length))


@dataclass(frozen=True)
class Whole:
    """A GGUF as the specification has it; `pairs` are keys with their values already in bytes."""

    pairs: tuple[tuple[str, bytes], ...] = ()
    tensors: tuple[Tensor, ...] = ()
    order: str = "<"
    version: int = 3
    alignment: int = 32

    def text(self, text: str) -> bytes:
        return struct.pack(f"{self.order}Q", len(text.encode())) + text.encode()

    def pad(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % self.alignment)

    def content(self) -> bytes:
        order = self.order
        pairs = [("general.architecture", struct.pack(f"{order}I", TEXT) + self.text("tiny")), *self.pairs]
        if self.alignment != 32:
            pairs.insert(1, ("general.alignment", struct.pack(f"{order}II", UINT32, self.alignment)))
        head = struct.pack(f"{order}4sIQQ", b"GGUF", self.version, len(self.tensors), len(pairs))
        head += b"".join(self.text(key) + value for key, value in pairs)
        data = b""
        for tensor in self.tensors:
            shape = tensor.shape[::-1]
            form = f"{order}I{len(shape)}QIQ"
            head += self.text(tensor.name) + struct.pack(form, len(shape), *shape, tensor.kind, len(data))
            data += self.pad(tensor.data)
        return self.pad(head) + data


def floats(**sizes: int) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, F32, (size,)) for name, size in sizes.items())


Files = dict[str, bytes]


def regroup(files: Files, max_size: int | None) -> list[tuple[Files, frozenset[str]]]:
    """What comes out for a folder with these files, and what it replaces."""
    with tempfile.TemporaryDirectory() as folder:
        report = examine(parse_source(str(write_folder(Path(folder), files))).fetch())
        assert report.ok, report.findings
        return [
            ({file.name: content(file) for file in made.files}, made.replaced)
            for made in regroup_gguf(report.read, max_size)
        ]


def content(file: ModelFile) -> bytes:
    with file.open() as stream:
        data = stream.read()
    assert len(data) == file.size
    return data


def split(data: bytes, max_size: int) -> Files:
    ((made, replaced),) = regroup({"m.gguf": data}, max_size)
    assert replaced == {"m.gguf"}
    return made


def merged(files: Files) -> tuple[str, bytes]:
    ((made, replaced),) = regroup(files, None)
    assert replaced == set(files)
    ((name, data),) = made.items()
    return name, data


def header_of(name: str, data: bytes) -> reader.Header:
    return reader.read_header(ModelFile(relative_path(name, name), len(data), BytesBlob.of(OCTETS, data)))


def headers_of(files: Files) -> list[reader.Header]:
    return [header_of(name, data) for name, data in files.items()]


def names_of(files: Files) -> list[list[str]]:
    return [[tensor.name for tensor in header.tensors] for header in headers_of(files)]


Seen = tuple[dict[str, Any], dict[str, Any]]


def seen(path: Path) -> Seen:
    """The metadata and tensors that gguf-py sees, but for what every split changes."""
    read = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in read.fields.items() if not key.startswith(("GGUF.", "split."))}
    tensors = {
        tensor.name: (tensor.tensor_type, tensor.shape.tolist(), tensor.data.tobytes()) for tensor in read.tensors
    }
    return fields, tensors


def all_seen(paths: list[Path]) -> Seen:
    """The metadata of the first part and the tensors of all; the others have no metadata."""
    (first, tensors), *others = map(seen, paths)
    for fields, more in others:
        assert fields.keys() <= {"general.alignment"}
        assert not tensors.keys() & more.keys()
        tensors.update(more)
    return first, tensors


def test_real_model(gguf_model: Path, tmp_path: Path) -> None:
    limit = 40_000_000
    report = examine(parse_source(str(gguf_model)).fetch())
    (made,) = regroup_gguf(report.read, limit)
    parts = write(made.files, tmp_path / "parts")
    assert [part.name[-20:] for part in parts] == [f"-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert all(part.stat().st_size <= limit for part in parts)
    (original,) = gguf_model.glob("*.gguf")
    fields, tensors = seen(original)
    metadata, found = all_seen(parts)
    assert (metadata, found, list(found)) == (fields, tensors, list(tensors))
    keys = gguf.GGUFReader(parts[1]).fields
    assert {key: (keys[key].types[0], keys[key].contents()) for key in keys if key.startswith("split.")} == {
        "split.no": (gguf.GGUFValueType.UINT16, 1),
        "split.count": (gguf.GGUFValueType.UINT16, 3),
        "split.tensors.count": (gguf.GGUFValueType.INT32, len(tensors)),
    }

    again = examine(parse_source(str(tmp_path / "parts")).fetch())
    assert again.ok
    (back,) = regroup_gguf(again.read, None)
    (whole,) = write(back.files, tmp_path / "whole")
    assert (whole.name, whole.read_bytes()) == (original.name, original.read_bytes())
    assert back.replaced == {part.name for part in parts}


def write(files: Iterable[ModelFile], folder: Path) -> list[Path]:
    folder.mkdir()
    for each in files:
        with each.open() as source, (folder / each.name).open("wb") as target:
            shutil.copyfileobj(source, target)
    return sorted(folder.iterdir())


def gguf_py(path: Path, **options: Any) -> list[Path]:
    """A model as gguf-py writes it, split or not."""
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "tiny", **options)
    writer.add_array("tokenizer.ggml.tokens", [f"word-{number}" for number in range(100)])
    writer.add_float32("tiny.epsilon", 0.5)
    for number in range(9):
        writer.add_tensor(f"t{number}", np.arange(5 + 10 * number, dtype=np.float32))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.iterdir())


@pytest.mark.parametrize("options", [{"split_max_tensors": 2}, {"split_max_size": 500, "small_first_shard": True}])
def test_parts_of_gguf_py(tmp_path: Path, options: dict[str, Any]) -> None:
    (whole,) = gguf_py(tmp_path / "whole" / "m.gguf")
    parts = gguf_py(tmp_path / "parts" / "m.gguf", **options)
    assert len(parts) >= 4
    assert merged({part.name: part.read_bytes() for part in parts}) == ("m.gguf", whole.read_bytes())
    for limit in (1, 300, 2400, 3000):
        assert merged(split(whole.read_bytes(), limit)) == ("m.gguf", whole.read_bytes())


def scalar(code: str) -> st.SearchStrategy[Any]:
    if code == "?":
        return st.booleans()
    if code in "fd":
        return st.floats(width=32 if code == "f" else 64, allow_nan=False)
    bits = struct.calcsize(code) * 8
    return st.integers(0, 2**bits - 1) if code.isupper() else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@st.composite
def wholes(draw: st.DrawFn) -> Whole:
    base = Whole(
        order=draw(st.sampled_from("<>")),
        version=draw(st.sampled_from((2, 3))),
        alignment=draw(st.sampled_from((32, 64, 128, 8))),
    )
    order, pairs = base.order, []
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from((*reader.SCALARS, TEXT, reader.ARRAY)))
        value = struct.pack(f"{order}I", kind)
        if kind == TEXT:
            value += base.text(draw(st.text(max_size=60)))
        elif kind == reader.ARRAY:
            words = draw(st.lists(st.text(max_size=5), max_size=80))
            value += struct.pack(f"{order}IQ", TEXT, len(words)) + b"".join(map(base.text, words))
        else:
            value += struct.pack(order + reader.SCALARS[kind], draw(scalar(reader.SCALARS[kind])))
        pairs.append((f"tiny.{number}", value))
    tensors = []
    for number in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(tuple(BYTES)))
        row = BYTES[kind][0] * draw(st.integers(0, 12))
        outer = draw(st.lists(st.integers(1, 3), max_size=3))
        tensors.append(Tensor(f"tensor.{'x' * draw(st.integers(0, 9))}{number}", kind, (*outer, row)))
    return Whole(tuple(pairs), tuple(tensors), order, base.version, base.alignment)


@given(wholes(), st.integers(1, 3000))
@settings(max_examples=150, deadline=None)
def test_any_model(whole: Whole, max_size: int) -> None:
    data = whole.content()
    if len(data) <= max_size:
        assert not regroup({"m.gguf": data}, max_size)
        return
    parts = split(data, max_size)
    headers = headers_of(parts)
    assert list(parts) == [f"m-{number + 1:05}-of-{len(parts):05}.gguf" for number in range(len(parts))]
    for number, (part, header) in enumerate(zip(parts.values(), headers, strict=True)):
        assert len(part) <= max_size or len(header.tensors) == (1 if number else 0)
        assert number == 0 or header.tensors
        assert (header.order, header.version, header.alignment) == (whole.order, whole.version, whole.alignment)
        assert header.pairs["split.no"].value == number
    for part, following in zip(parts.values(), headers[1:], strict=False):
        first = following.tensors[0]
        entry = 24 + len(first.name) + 8 * len(first.shape)
        assert len(part) + entry + whole.alignment + len(whole.pad(bytes(first.end - first.start))) > max_size
    assert b"".join(map(values, parts.values(), headers)) == b"".join(tensor.data for tensor in whole.tensors)
    assert merged(parts) == ("m.gguf", data)
    assert regroup(parts, max_size) == [(parts, frozenset(parts))]


def values(data: bytes, header: reader.Header) -> bytes:
    return b"".join(data[tensor.start : tensor.end] for tensor in header.tensors)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("alignment", [32, 128])
def test_gguf_py_reads_parts(tmp_path: Path, order: str, alignment: int) -> None:
    tensors = (Tensor("a", F32, (3, 5)), Tensor("b", Q8_0, (2, 32)), Tensor("none", F32, (0,)), Tensor("c", I8, (7,)))
    data = Whole((), tensors, order, 2, alignment).content()
    parts = write_folder(tmp_path / "parts", split(data, 300))
    whole = write_folder(tmp_path, {"m.gguf": data}) / "m.gguf"
    assert len(list(parts.iterdir())) > 2
    assert all_seen(sorted(parts.iterdir())) == seen(whole)
    assert list(seen(whole)[1]) == ["a", "b", "none", "c"]


def test_limit_is_exact() -> None:
    data = Whole(tensors=floats(a=100, b=100, c=100, d=100)).content()
    assert not regroup({"m.gguf": data}, len(data))
    parts = split(data, len(data) - 1)
    assert names_of(parts) == [["a", "b", "c"], ["d"]]
    largest = max(map(len, parts.values()))
    assert split(data, largest) == parts
    assert names_of(split(data, largest - 1)) == [["a", "b"], ["c", "d"]]
    assert regroup(parts, len(data)) == [({"m.gguf": data}, frozenset(parts))]
    assert regroup(parts, len(data) - 1) == [(parts, frozenset(parts))]


def test_oversize_tensor_is_alone() -> None:
    parts = split(Whole(tensors=floats(a=10, large=1000, b=10, c=10)).content(), 500)
    assert names_of(parts) == [["a"], ["large"], ["b", "c"]]
    assert [len(part) > 500 for part in parts.values()] == [False, True, False]


def test_metadata_larger_than_the_limit() -> None:
    words = b"".join(Whole().text("word") for _ in range(200))
    pairs = (("tiny.words", struct.pack("<IIQ", reader.ARRAY, TEXT, 200) + words),)
    data = Whole(pairs, floats(a=10, b=10)).content()
    parts = split(data, 500)
    assert names_of(parts) == [[], ["a", "b"]]
    assert merged(parts) == ("m.gguf", data)


def test_metadata_and_no_tensor_stays_one_file() -> None:
    data = Whole(pairs=(("tiny.text", struct.pack("<I", TEXT) + Whole().text("x" * 1000)),)).content()
    assert split(data, 100) == {"m.gguf": data}


def test_models_are_kept_apart() -> None:
    small, large = Whole(tensors=floats(a=10)).content(), Whole(tensors=floats(a=100, b=100)).content()
    only = split_keys(Whole(tensors=floats(a=10)), 0, 1, 1).content()
    files = {"x/m-00001-of-00001.gguf": only, "small.gguf": small, "x/large.gguf": large, "y/large.gguf": large}
    made = regroup(files, 700)
    assert {tuple(replaced): list(files) for files, replaced in made} == {
        ("x/m-00001-of-00001.gguf",): ["x/m.gguf"],
        ("x/large.gguf",): [f"x/large-0000{number}-of-00002.gguf" for number in (1, 2)],
        ("y/large.gguf",): [f"y/large-0000{number}-of-00002.gguf" for number in (1, 2)],
    }
    assert {"x/m.gguf": small} in [files for files, _ in made]


def split_keys(whole: Whole, number: int, count: int, tensors: int, **more: bytes) -> Whole:
    order = whole.order
    pairs = (
        ("split.no", struct.pack(f"{order}IH", 2, number)),
        ("split.tensors.count", struct.pack(f"{order}Ii", 5, tensors)),
        ("split.count", struct.pack(f"{order}IH", 2, count)),
        *more.items(),
    )
    return replace(whole, pairs=(*whole.pairs, *pairs))


def parts_of(first: Whole, second: Whole, **more: bytes) -> Files:
    return {
        "m-00001-of-00002.gguf": split_keys(first, 0, 2, 2).content(),
        "m-00002-of-00002.gguf": split_keys(second, 1, 2, 2, **more).content(),
    }


def test_parts_that_are_aligned_differently() -> None:
    first, second = floats(a=3, b=5)
    _, joined = merged(parts_of(Whole(tensors=(first,)), Whole(tensors=(second,), alignment=64)))
    assert joined == Whole(tensors=(first, second)).content()


def test_metadata_of_later_parts_is_kept() -> None:
    first, second = floats(a=3, b=5)
    value = struct.pack("<IB", 0, 7)
    _, joined = merged(parts_of(Whole(tensors=(first,)), Whole(tensors=(second,)), note=value))
    assert joined == Whole((("note", value),), (first, second)).content()


def test_parts_of_two_byte_orders_are_refused() -> None:
    first, second = floats(a=3, b=5)
    with pytest.raises(ModelError, match="another byte order") as caught:
        merged(parts_of(Whole(tensors=(first,)), Whole(tensors=(second,), order=">")))
    assert caught.value.subject == "m-00002-of-00002.gguf"


def test_absurd_alignment_is_refused() -> None:
    data = Whole(tensors=floats(a=1), alignment=1 << 21).content()
    with pytest.raises(ModelError, match="alignment"):
        split(data, 100)


def test_too_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.iinfo(np.uint16).max == gguf_split.MAX_PARTS
    monkeypatch.setattr(gguf_split, "MAX_PARTS", 20)  # the real number takes a minute
    data = Whole(tensors=floats(**{f"t{number}": number + 1 for number in range(100)})).content()
    with pytest.raises(UsageError, match="more parts than can be numbered") as caught:
        split(data, 1)
    assert caught.value.found == "101 parts of 1 bytes"
    (enough,) = map(int, re.findall(r"\d+", caught.value.hint))
    assert len(split(data, enough)) == 20
    with pytest.raises(UsageError):
        split(data, enough - 1)


def test_planning_is_cheap(tmp_path: Path) -> None:
    shape, count = (4096, 1024), 500
    entries, size = b"", 0
    for number in range(count):
        entries += Whole().text(f"blk.{number}.weight") + struct.pack("<IQQIQ", 2, *shape[::-1], F32, size)
        size += 4 * shape[0] * shape[1]
    architecture = Whole().text("general.architecture") + struct.pack("<I", TEXT) + Whole().text("tiny")
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as stream:
        stream.write(Whole().pad(struct.pack("<4sIQQ", b"GGUF", 3, count, 1) + architecture + entries))
        stream.truncate(stream.tell() + size)
    report = examine(parse_source(str(path)).fetch())
    tracemalloc.start()
    started = time.monotonic()
    (made,) = regroup_gguf(report.read, 1 << 30)
    elapsed, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(part.size for part in made.files) > size > 8_000_000_000
    assert len(made.files) == 8
    assert elapsed < 2
    assert peak < 10_000_000
