"""Pickles are recognised whatever they are called and however they are packed, and are never run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import picklescan.scanner
import pytest
import torch

from formats.examine import examine
from formats.findings import Finding
from formats.onnx_wire import varint
from formats.opcodes import MAX_OPCODES
from formats.pickle import convertible, find_pickle, pickled_name
from formats.snapshot import ModelFile
from fuzz.subject import snapshot_of
from registry.blob import FileBlob
from tests.models import make
from tests.parts.models import CACHE

REAL = CACHE / "pickle"


class Attack:
    """What a pickle of it runs when it is loaded."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


ATTACK = pickle.dumps(Attack(os.system, "false"))
HARMLESS = pickle.dumps(OrderedDict(a=1))


def find(tmp_path: Path, data: bytes, name: str = "notes.json", *exempt: str) -> Finding | None:
    path = tmp_path / name
    path.write_bytes(data)
    return find_pickle(ModelFile.of(name, FileBlob.at(path)), exempt)


def rule(tmp_path: Path, data: bytes, name: str = "notes.json", *exempt: str) -> str:
    finding = find(tmp_path, data, name, *exempt)
    return finding.rule.id if finding else ""


def zipped(compression: int = zipfile.ZIP_DEFLATED, /, **members: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def array(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, value, **options)
    return buffer.getvalue()


def legacy(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def modern(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip-second-stream": lambda data: gzip.compress(b"") + gzip.compress(data),
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "zip": lambda data: zipped(a=data),
    "zip-stored": lambda data: zipped(zipfile.ZIP_STORED, **{"archive/data.pkl": data}),
    "gzip-in-zip": lambda data: zipped(a=gzip.compress(data)),
    "tar": lambda data: tarred(weights=data),
    "trailing-bytes": lambda data: data + b"\0not an opcode",
    "object-array": lambda data: array(numpy.array([1], dtype=object), allow_pickle=True)[:128] + data,
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("protocol", range(6))
def test_an_attack_is_found_in_every_packing(tmp_path: Path, packing: str, protocol: int) -> None:
    finding = find(tmp_path, PACKINGS[packing](pickle.dumps(Attack(os.system, "false"), protocol)))
    assert finding
    assert finding.rule.id == "pickle-dangerous"
    assert "posix.system" in finding.found
    assert not convertible(finding)


HARMLESS_RULES = {
    "object-array": "pickle-numpy-objects",
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_harmless_pickle_is_found_in_every_packing(tmp_path: Path, packing: str) -> None:
    finding = find(tmp_path, PACKINGS[packing](HARMLESS))
    assert finding
    assert finding.rule.id == HARMLESS_RULES.get(packing, "pickle-by-content")
    assert "collections.OrderedDict" in finding.found


@pytest.mark.parametrize("save", [legacy, modern])
def test_what_torch_saves(tmp_path: Path, save: Callable[[Any], bytes]) -> None:
    finding = find(tmp_path, save({"a": torch.zeros(2, 3)}), "model.pt")
    assert finding
    assert (finding.rule.id, convertible(finding)) == ("pickle-by-content", True)
    assert "torch._utils._rebuild_tensor_v2" in finding.found
    assert rule(tmp_path, save({"a": torch.zeros(2, 3), "b": Attack(os.system, "false")})) == "pickle-dangerous"


UNREADABLE = {
    "archive-in-archive": zipped(**{"a.pt": modern({})}),
    "archive-in-gzip": gzip.compress(modern({})),
    "bz2-in-zip": zipped(zipfile.ZIP_BZIP2, a=HARMLESS),
    "truncated-zip": modern({"a": torch.zeros(2)})[:-30],
    "many-members": zipped(**{str(number): b"" for number in range(300)}),
    "lz4": b"\x04\x22\x4d\x18" + bytes(100),
    "damaged-gzip": gzip.compress(HARMLESS)[:10] + b"\xff" * 20,
    "much-memory": lzma.compress(HARMLESS, preset=9),
    "many-streams": gzip.compress(b"") * 1000 + gzip.compress(HARMLESS),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_looked_into_is_refused(tmp_path: Path, kind: str) -> None:
    assert rule(tmp_path, UNREADABLE[kind]) == "pickle-unreadable"


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(a=HARMLESS))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    assert rule(tmp_path, bytes(data)) == "pickle-unreadable"


def test_a_directory_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    data = zipped(a=HARMLESS)
    end = data.index(b"PK\x05\x06")
    data = data[:end] + bytes(4 << 20) + data[end : end + 12] + struct.pack("<I", 3 << 20) + data[end + 16 :]
    assert rule(tmp_path, data) == "pickle-unreadable"


NO_PICKLES = {
    "numbers.npy": array(numpy.arange(10)),
    "fields.npy": array(numpy.zeros(2, dtype=[("Offset", "<i4"), ("O1", "<f4")])),
    "numbers.npz": zipped(**{"a.npy": array(numpy.arange(10))}),
    "texts.zip": zipped(**{"config.json": b"{}", "notes.txt": b"cat\ndog\n"}),
    "text.gz": gzip.compress(b"introduction\n\n1. yes"),
    "text.tar": tarred(**{"a.txt": b"text"}),
    "bomb.gz": gzip.compress(bytes(50 << 20)),
    "algebra.txt": b"x^2 + y^2",
    "floats.dat": b"\x80\x3f" * 1000,
    "int8.dat": b"\x80\x02\x00\x01" * 1000,
    "base64.txt": b"V" + b"QUJD" * 30_000,
    "none.txt": b"N.",
    "list.txt": b"]q\x00.",
    "letters.txt": b"catalog\nitem\n. And more.",
    "empty.zip": zipped(),
    "word.txt": b"(\nin\nthe\n",
}


@pytest.mark.parametrize("name", NO_PICKLES)
def test_what_is_no_pickle_passes(tmp_path: Path, name: str) -> None:
    assert find(tmp_path, NO_PICKLES[name], name) is None


STRICTER_THAN_PICKLETOOLS = {
    "hexadecimal": b"I0x10\n0",
    "not-ascii": b"S'\xe9'\n0",
    "long-line": b"V" + b"a" * 60_000 + b"\n0",
    "long-text": b"\x80\x04X" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"0",
}


@pytest.mark.parametrize("kind", STRICTER_THAN_PICKLETOOLS)
def test_what_stops_other_scanners_hides_nothing(tmp_path: Path, kind: str) -> None:
    data = STRICTER_THAN_PICKLETOOLS[kind] + b"cos\nsystem\n(S'false'\ntR."
    assert pickle.loads(data, encoding="latin-1") == 256  # what `false` ends with: the program does run
    assert rule(tmp_path, data) == "pickle-dangerous"


DISGUISES = {
    "dotted": b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93.",
    "computed": b"\x80\x04\x8c\x02oscbuiltins\nstr\n\x8c\x06system\x85R\x93.",
    "memoised": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93.",
    "old-name": b"\x80\x02curllib2\nurlopen\n.",
    "extension": b"\x80\x02\x82\x01.",
    "instance": b"(S'false'\nios\nsystem\n.",
    "behind-another": HARMLESS + ATTACK,
    "without-stop": b"cos\nsystem\n(S'false'\ntR",
    "second-member": zipped(a=HARMLESS, b=ATTACK),
}


@pytest.mark.parametrize("kind", DISGUISES)
def test_a_disguised_import_is_dangerous(tmp_path: Path, kind: str) -> None:
    assert rule(tmp_path, DISGUISES[kind]) == "pickle-dangerous"


def test_a_list_longer_than_what_is_looked_at_is_not_convertible(tmp_path: Path) -> None:
    data = pickle.dumps(list(range(MAX_OPCODES)))
    finding = find(tmp_path, data)
    assert finding
    assert (finding.rule.id, convertible(finding)) == ("pickle-partial", False)


def test_an_import_behind_a_skipped_array_is_found(tmp_path: Path) -> None:
    data = pickle.dumps([numpy.zeros(3 << 20), Attack(os.system, "false")])
    assert rule(tmp_path, data) == "pickle-dangerous"


def test_the_dangerous_imports_come_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    data = b"\x80\x02" + b"".join(b"cm%d\nn\n0" % number for number in range(50)) + b"cos\nsystem\n."
    finding = find(tmp_path, data)
    assert finding
    assert finding.found.startswith("imports os.system, m0.n, ")
    assert finding.found.endswith(" and 31 more")


def test_names(tmp_path: Path) -> None:
    assert pickled_name("a/model.PKL.gz")
    assert pickled_name("model.joblib.lz4")
    assert not pickled_name("model.json.gz")
    assert rule(tmp_path, b"raw", "model.pt") == "pickle-by-name"
    assert rule(tmp_path, b"", "model.bin") == "pickle-by-name"
    assert rule(tmp_path, b"raw", "model.bin", "model.bin") == ""
    assert rule(tmp_path, b"raw", "model.pt", "model.pt") == "pickle-by-name"
    assert rule(tmp_path, ATTACK, "model.bin", "model.bin") == "pickle-dangerous"


def test_nothing_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps(Attack(os.system, f"touch {marker}"))
    for name in ("model.pt", "model.npy", "model.dat"):
        assert rule(tmp_path, data, name) == "pickle-dangerous"
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()


REAL_RULES = {
    "tiny.pth": ("pickle-by-content", "torch.LongStorage"),
    "alex.pth": ("pickle-by-content", "collections.OrderedDict"),
    "squeeze.pth": ("pickle-by-content", "torch._utils._rebuild_tensor_v2"),
    "vgg.pth": ("pickle-by-content", "torch.FloatStorage"),
    "silero_vad.jit": ("pickle-torchscript", "a program under code/"),
}


@pytest.mark.parametrize("name", REAL_RULES)
def test_real_weights(name: str) -> None:
    finding = find_pickle(ModelFile.of(name, FileBlob.at(REAL / name)))
    assert finding
    assert finding.rule.id == REAL_RULES[name][0]
    assert REAL_RULES[name][1] in finding.found


def _picklescan(path: Path) -> tuple[set[str], bool]:
    result = picklescan.scanner.scan_file_path(str(path))
    return {f"{entry.module}.{entry.name}" for entry in result.globals}, result.issues_count > 0


@pytest.mark.parametrize("name", [name for name in REAL_RULES if name.endswith(".pth")])
def test_picklescan_agrees_on_real_weights(name: str) -> None:
    finding = find_pickle(ModelFile.of(name, FileBlob.at(REAL / name)))
    assert finding
    listed = finding.found.partition("imports ")[2].split(", ")
    assert (set(listed), False) == _picklescan(REAL / name)


def test_picklescan_agrees_on_an_attack(tmp_path: Path) -> None:
    finding = find(tmp_path, modern({"a": torch.zeros(2), "b": Attack(os.system, "false")}), "model.pt")
    assert finding
    listed = finding.found.partition("imports ")[2].split(", ")
    assert (set(listed), True) == _picklescan(tmp_path / "model.pt")


def test_picklescan_agrees_on_torchscript() -> None:
    finding = find_pickle(ModelFile.of("a.jit", FileBlob.at(REAL / "silero_vad.jit")))
    theirs, dangerous = _picklescan(REAL / "silero_vad.jit")
    assert finding
    assert not dangerous
    assert f" and {len(theirs) - 4} more;" in finding.found


APPENDED = {
    "plain": (zipped(a=HARMLESS), "pickle-appended"),
    "commented": (zipped(a=HARMLESS)[:-2] + struct.pack("<H", 60_000) + bytes(60_000), "pickle-appended"),
    "followed": (zipped(a=HARMLESS) + bytes(1000), "pickle-appended"),
    "encrypted": (zipped(a=HARMLESS).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"), "pickle-appended"),
    "attack": (zipped(a=ATTACK), "pickle-dangerous"),
    "texts": (zipped(a=b"text"), ""),
    "empty": (zipped(), ""),
    "no-directory": (b"PK\5\6" + bytes(8) + b"\x04" + bytes(9), ""),
}


@pytest.mark.parametrize("kind", APPENDED)
def test_an_archive_behind_something_else(tmp_path: Path, kind: str) -> None:
    data, expected = APPENDED[kind]
    finding = find(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(100_000) + data, "logo.png")
    assert (finding.rule.id if finding else "") == expected
    assert not finding or not convertible(finding)


def test_an_archive_behind_a_model(tmp_path: Path) -> None:
    good = tmp_path / "m.gguf"
    data = make.LITTLE.content()
    behind = {"nothing": b"", "padding": bytes(1), "texts": zipped(a=b"text"), "pickle": zipped(a=HARMLESS)}
    found = {}
    for kind, more in behind.items():
        good.write_bytes(data.head + bytes(data.zeros) + more)
        found[kind] = [finding.rule.id for finding in examine(snapshot_of(tmp_path)).findings]
    assert found == {
        "nothing": [],
        "padding": ["gguf-trailing-bytes"],
        "texts": ["gguf-trailing-bytes"],
        "pickle": ["gguf-trailing-bytes", "pickle-appended"],
    }


def test_an_archive_in_an_unknown_field_of_an_onnx_model(tmp_path: Path) -> None:
    archive = zipped(a=HARMLESS)
    field = bytes(((900 << 3 | 2) & 0x7F | 0x80, (900 << 3 | 2) >> 7)) + varint(len(archive))
    model = make.graph()["model.onnx"]
    assert isinstance(model, bytes)
    (tmp_path / "model.onnx").write_bytes(model + field + archive)
    assert [finding.rule.id for finding in examine(snapshot_of(tmp_path)).findings] == ["pickle-appended"]
