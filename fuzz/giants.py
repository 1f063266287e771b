"""Files that are large where readers hope for small: each is made when asked for, most of them refused at once."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator

from fuzz.mutant import Content
from fuzz.wire import BYTES, VARINT, Field, join, varint

MILLION = 1_000_000
_HEADER = 16 << 20
"""Bytes of the longest safetensors header that is read."""

Files = dict[str, Content]


def _weights(text: bytes, zeros: int = 0) -> Content:
    text += b" " * (-len(text) % 8)
    return Content(struct.pack("<Q", len(text)) + text, zeros)


def _filled(start: bytes, piece: bytes, end: bytes, size: int = _HEADER) -> bytes:
    """`piece` over and over between `start` and `end`, some `size` bytes in all."""
    return start + piece * ((size - len(start) - len(end)) // len(piece)) + end


MOST_TENSORS = 1 << 16


def _tensors(count: int, name: str = "") -> str:
    entries = (f'"{name}{at:x}":{{"dtype":"U8","shape":[1],"data_offsets":[{at},{at + 1}]}}' for at in range(count))
    return ",".join(entries)


def _safetensors() -> Iterator[tuple[str, Callable[[], Content]]]:
    yield "million-tensors", lambda: _weights(f"{{{_tensors(MILLION)}}}".encode(), MILLION)
    yield "quarter-of-a-million-tensors", lambda: _weights(f"{{{_tensors(250_000)}}}".encode(), 250_000)
    yield "most-tensors", lambda: _weights(f"{{{_tensors(MOST_TENSORS)}}}".encode(), MOST_TENSORS)
    yield (
        "most-tensors-of-long-names",
        lambda: _weights(f"{{{_tensors(MOST_TENSORS, 190 * 'a')}}}".encode(), MOST_TENSORS),
    )
    yield (
        "most-tensors-of-odd-names",
        lambda: _weights(f"{{{_tensors(MOST_TENSORS, 4 * chr(0x1F600))}}}".encode(), MOST_TENSORS),
    )
    yield (
        "most-tensors-of-escaped-names",
        lambda: _weights(f"{{{_tensors(MOST_TENSORS, chr(92) + 'u00e9')}}}".encode(), MOST_TENSORS),
    )
    yield "header-of-100-mb", lambda: _weights(_filled(b'{"a":"', b"a", b'"}', 100_000_000))
    yield "length-of-2-to-the-60", lambda: Content(struct.pack("<Q", 1 << 60) + b"{}", 1 << 30)
    for name, start, piece, end in (
        ("long-shape", b'{"a":{"dtype":"U8","data_offsets":[0,1],"shape":[1', b",1", b"]}}"),
        ("long-unknown-member", b'{"a":{"b":[{}', b",{}", b"]}}"),
        ("long-flat-member", b'{"a":{"b":[[]', b",[]", b"]}}"),
        ("many-members", b'{"a":{"a":0', b',"a":0', b"}}"),
        ("long-metadata", b'{"__metadata__":{"":""', b',"":""', b"}}"),
        ("long-metadata-value", b'{"__metadata__":{"a":"\xf0\x9f\x98\x80', b"a", b'"}}'),
        ("long-name", b'{"\xf0\x9f\x98\x80', b"a", b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        ("escaped-name", b'{"', b"\\ud83d\\ude00", b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        ("deep-list", b'{"a":{"b":', b"[", b""),
        ("deep-object", b"", b'{"a":', b""),
        ("long-float", b'{"a":{"b":0.', b"1", b"}}"),
        ("long-number", b'{"a":{"b":', b"1", b"}}"),
        ("nothing-but-quotes", b'{"', b'"', b""),
        ("nothing-but-spaces", b"{", b" ", b"}"),
        ("backslashes", b'{"', b"\\\\", b'":{}}'),
    ):
        yield name, lambda start=start, piece=piece, end=end: _weights(_filled(start, piece, end))  # type: ignore[misc]
    yield "distinct-metadata", lambda: _weights(_metadata(_HEADER - 200))
    yield "allowed-metadata", lambda: _weights(_metadata((4 << 20) - 200))


def _metadata(size: int) -> bytes:
    pairs, at = io.StringIO(), 0
    while pairs.tell() < size:
        pairs.write(f',"{at:x}":""')
        at += 1
    return f'{{"__metadata__":{{{pairs.getvalue()[1:]}}}}}'.encode()


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _gguf(tensors: int, pairs: int, body: bytes, zeros: int = 0) -> Content:
    return Content(struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs) + body, zeros)


def _array(kind: int, count: int) -> bytes:
    return struct.pack("<IIQ", 9, kind, count)


_ARCHITECTURE = _text(b"general.architecture") + struct.pack("<I", 8) + _text(b"x")


def _keys(count: int, value: bytes) -> bytes:
    return b"".join(_text(f"{at:x}".encode()) + value for at in range(count))


def _nested(depth: int, width: int) -> bytes:
    value = struct.pack("<IQ", 0, width) + bytes(range(width))
    for _ in range(depth):
        value = struct.pack("<IQ", 9, width) + value * width
    return value


def _gguf_tensors(count: int) -> bytes:
    return b"".join(_text(f"{at:x}".encode()) + struct.pack("<IQIQ", 1, 8, 0, 32 * at) for at in range(count))


def _gguf_files() -> Iterator[tuple[str, Callable[[], Content]]]:
    huge, byte = 1 << 60, struct.pack("<IB", 0, 1)
    yield "tensors-2-to-the-60", lambda: _gguf(huge, 1, _ARCHITECTURE, 1 << 30)
    yield "keys-2-to-the-60", lambda: _gguf(0, huge, _ARCHITECTURE, 1 << 30)
    yield "million-keys", lambda: _gguf(0, MILLION, _keys(MILLION, byte))
    yield "most-keys", lambda: _gguf(0, 65_536, _keys(65_535, byte) + _ARCHITECTURE)
    yield "million-tensors", lambda: _gguf(MILLION, 1, _ARCHITECTURE + _gguf_tensors(MILLION), 32 * MILLION)
    yield (
        "most-tensors",
        lambda: _gguf(MOST_TENSORS, 1, _ARCHITECTURE + _gguf_tensors(MOST_TENSORS) + bytes(32), 32 * MOST_TENSORS),
    )
    yield "array-2-to-the-60", lambda: _gguf(0, 1, _text(b"a") + _array(0, huge), 1 << 30)
    yield "texts-2-to-the-60", lambda: _gguf(0, 1, _text(b"a") + _array(8, huge), 1 << 30)
    yield "endless-empty-texts", lambda: _gguf(0, 1, _text(b"a") + _array(8, 1 << 32), 1 << 36)
    yield "text-2-to-the-60", lambda: _gguf(0, 1, _text(b"a") + struct.pack("<IQ", 8, huge), 1 << 30)
    yield "long-texts", lambda: _gguf(0, 1, _text(b"a") + _array(8, 100), 0)
    yield "nested-1000-deep", lambda: _gguf(0, 1, _text(b"a") + struct.pack("<I", 9) + _nested(1000, 1))
    yield "nested-64-wide", lambda: _gguf(0, 1, _text(b"a") + struct.pack("<I", 9) + _nested(3, 64))
    many = _array(2, 64) + struct.pack("<64H", *range(1000, 1064))
    yield "kept-arrays", lambda: _gguf(0, 65_536, _keys(65_536, many))
    texts = struct.pack("<IIQ", 9, 8, 64) + _text(b"a") * 64
    yield "kept-texts", lambda: _gguf(0, 65_536, _keys(65_536, texts))
    yield "long-key", lambda: _gguf(0, 1, _text(b"a" * (16 << 20)))
    yield "allowed-keys-that-are-long", lambda: _gguf(0, 2000, b"".join(
        _text(f"{at:05}".encode() + b"a" * 65_000) + byte for at in range(2000)))  # fmt: skip


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
    relu = _field(4, b"Relu")
    return b"".join(
        _field(1, _field(1, b"x" if not at else b"n%x" % (at - 1)) + _field(2, b"n%x" % at) + relu)
        for at in range(count)
    )


def _subgraphs(depth: int) -> bytes:
    """A node that holds a graph with a node that holds a graph..."""
    inner = _field(2, b"g")
    for _ in range(depth):
        attribute = _field(1, b"then_branch") + _field(20, 5) + _field(6, inner)
        inner = _field(2, b"g") + _field(1, _field(4, b"If") + _field(5, attribute))
    return inner


def _initializers(count: int) -> bytes:
    return b"".join(
        _field(5, _field(1, 1) + _field(2, 3) + _field(8, b"w%x" % at) + _field(9, b"a")) for at in range(count)
    )


def _functions(count: int, imports: int) -> bytes:
    """Local functions, and operator sets that the checker copies for each of them."""
    own = _field(9, _field(1, b"") + _field(2, 19))
    functions = (_field(25, _field(1, b"f%x" % at) + _field(10, b"local") + own) for at in range(count))
    sets = (_field(8, _field(1, b"d%x" % at) + _field(2, 1)) for at in range(imports))
    return b"".join((*functions, *sets))


def _onnx_files() -> Iterator[tuple[str, Callable[[], Content]]]:
    yield "million-nodes", lambda: _onnx(_chain(MILLION))
    yield "hundred-thousand-nodes", lambda: _onnx(_chain(100_000))
    yield "fifty-thousand-nodes", lambda: _onnx(_chain(50_000))
    yield "million-empty-nodes", lambda: _onnx(_field(1, b"") * MILLION)
    yield "subgraphs-1000-deep", lambda: _onnx(_subgraphs(1000))
    yield "subgraphs-90-deep", lambda: _onnx(_subgraphs(90))
    yield "million-initializers", lambda: _onnx(_initializers(MILLION))
    yield "hundred-thousand-initializers", lambda: _onnx(_initializers(100_000))
    yield "million-attributes", lambda: _onnx(_field(1, _field(4, b"Relu") + _field(5, b"") * MILLION))
    yield "million-inputs", lambda: _onnx(_field(1, _field(4, b"Relu") + _field(1, b"") * MILLION))
    yield "long-ints", lambda: _onnx(_field(1, _field(4, b"Relu") + _field(5, _field(8, b"\1" * (16 << 20)))))
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


def _zip(names: Iterator[str], data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def _many_entries(count: int) -> bytes:
    """A zip archive of one file under a million names: only its directory is large."""
    head = b"PK\3\4" + bytes(26)
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + struct.pack("<I", at) for at in range(count))
    counts = min(count, 0xFFFF)
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), len(head))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(head) + len(directory), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, counts, counts, len(directory), len(head), 0)
    return head + directory + (wide + locator if count > 0xFFFF else b"") + end


def _tar(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for at in range(250):
            info = tarfile.TarInfo(f"part-{at}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _imports(count: int) -> bytes:
    return b"\x80\x02" + b"".join(b"cmodule_%d\nname\n0" % at for at in range(count)) + b"N."


def _pickles() -> Iterator[tuple[str, Callable[[], bytes]]]:
    members = [f"archive/{at}" for at in range(250)]
    pushes, small = b"N0" * (1 << 19), b"N0" * (1 << 15)
    yield "zip-of-a-million-names", lambda: _many_entries(MILLION)
    yield "zip-of-forty-thousand-names", lambda: _many_entries(40_000)
    yield "zip-of-texts", lambda: _zip(iter(members), pushes, zipfile.ZIP_DEFLATED)
    yield "zip-of-pickles", lambda: _zip(iter(members), b"\x80\x02" + pushes, zipfile.ZIP_DEFLATED)
    yield "tar-of-texts", lambda: _tar(small)
    yield "zip-of-storages", lambda: _zip((f"a/data/{at}" for at in range(20_000)), b"")
    yield "bomb", lambda: gzip.compress(bytes(1 << 30), 9)
    yield "bomb-in-a-bomb", lambda: gzip.compress(gzip.compress(bytes(1 << 30), 9), 9)
    yield "bomb-of-opcodes", lambda: gzip.compress(b"\x80\x02" + b"N" * (64 << 20), 9)
    yield "bzip2-bomb", lambda: bz2.compress(bytes(256 << 20))
    yield "million-opcodes", lambda: b"\x80\x02" + b"N" * MILLION + b"."
    yield "million-marks", lambda: b"\x80\x02" + b"(" * MILLION + b"."
    yield "million-memos", lambda: b"\x80\x04N" + b"\x94" * MILLION + b"."
    yield "million-doubles", lambda: b"\x80\x02(" + b"N2" * MILLION + b"l."
    yield "long-argument", lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + bytes(100)
    yield "long-line", lambda: b"c" + b"a" * (16 << 20)
    yield "long-frames", lambda: (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60)) * 100_000
    yield "million-imports", lambda: _imports(MILLION)
    yield "most-imports", lambda: _imports(1000)
    yield "long-integers", lambda: b"\x80\x02" + (b"\x8b" + struct.pack("<i", 60_000) + b"\xff" * 60_000) * 200 + b"."
    yield "numbers-in-text", lambda: b"I" + b"9" * 60_000 + b"\ncos\nsystem\n(S'id'\ntR."
    yield "memo-of-long-text", lambda: b"\x80\x02Np" + b"9" * 4000 + b"\n0g" + b"9" * 60_000 + b"\n."


def _json(document: object) -> Content:
    return Content(json.dumps(document).encode())


def _beside(name: str, text: bytes) -> Files:
    return {
        "model.safetensors": _weights(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
        name: Content(text),
    }


def _lora(modules: int, **config: object) -> Files:
    """An adapter of many modules."""
    names = [f"m.{at:x}.q.lora_{side}.weight" for at in range(modules) for side in "AB"]
    entries = ",".join(
        f'"{name}":{{"dtype":"U8","shape":[1,1],"data_offsets":[{at},{at + 1}]}}' for at, name in enumerate(names)
    )
    document = {"base_model_name_or_path": "b", "r": 1, "target_modules": ["q"], **config}
    weights = _weights(f"{{{entries}}}".encode(), len(names))
    return {"adapter_model.safetensors": weights, "adapter_config.json": _json(document)}


def _documents() -> Iterator[tuple[str, Callable[[], Files]]]:
    for name in ("config.json", "adapter_config.json", "model.safetensors.index.json"):
        size = (32 << 20) - 10 if "index" in name else (16 << 20) - 10
        for kind, start, piece, end in (
            ("lists", b'{"a":[[]', b",[]", b"]}"),
            ("objects", b'{"a":[{}', b",{}", b"]}"),
            ("numbers", b'{"a":[0', b",0", b"]}"),
            ("deep", b'{"a":', b"[", b""),
            ("text", b'{"a":"\xf0\x9f\x98\x80', b"a", b'"}'),
            ("digits", b'{"a":0.', b"1", b"}"),
            ("escapes", b'{"a":"', b"\\ud83d\\ude00", b'"}'),
        ):
            yield (
                f"{name}-of-{kind}",
                lambda name=name, start=start, piece=piece, end=end, size=size: _beside(  # type: ignore[misc]
                    name, _filled(start, piece, end, size)
                ),
            )
    index = "model.safetensors.index.json"
    shards = 100_000
    yield "index-of-missing-shards", lambda: {
        **_beside("config.json", b"{}"), index: _json({"weight_map": {f"{at:x}": f"{at:x}" for at in range(shards)}}),
    }  # fmt: skip
    yield "index-of-missing-tensors", lambda: {
        **_beside("config.json", b"{}"), index: _json({"weight_map": {f"{at:x}": "model.safetensors" for at in range(shards)}}),
    }  # fmt: skip
    yield "index-that-names-nothing", lambda: {
        "model.safetensors": _weights(f"{{{_tensors(MOST_TENSORS)}}}".encode(), MOST_TENSORS), index: _json({"weight_map": {"0": "model.safetensors"}}),
    }  # fmt: skip
    yield "adapter-of-many-targets", lambda: _lora(20_000, target_modules=[f"t{at:x}" for at in range(100_000)])
    yield "adapter-of-many-ranks", lambda: _lora(20_000, rank_pattern={f"t{at:x}": 2 for at in range(100_000)})
    yield "adapter-of-another-rank", lambda: _lora(40_000, r=7)
    yield "adapter-of-dots", lambda: _lora(10, target_modules=["." * 1_000_000, "a." * 500_000])
    yield "config-of-many-missing-scales", lambda: {
        "config.json": _json({"quantization_config": {"quant_method": "gptq"}}),
        "model.safetensors": _weights(f"{{{_tensors(MOST_TENSORS)}}}".replace('":{', '.qweight":{').encode(), MOST_TENSORS),
    }  # fmt: skip


def giants() -> dict[str, Callable[[], Files]]:
    """Name to what makes the files."""
    made: dict[str, Callable[[], Files]] = {}
    for kind, file, single in (
        ("safetensors", "model.safetensors", _safetensors()),
        ("gguf", "model.gguf", _gguf_files()),
        ("onnx", "model.onnx", _onnx_files()),
    ):
        made |= {f"{kind}-{name}": lambda file=file, make=make: {file: make()} for name, make in single}  # type: ignore[misc]
    made |= {f"pickle-{name}": lambda make=make: _beside("extra.dat", make()) for name, make in _pickles()}  # type: ignore[misc]
    return made | {f"documents-{name}": make for name, make in _documents()}
