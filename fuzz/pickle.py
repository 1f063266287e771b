"""Pickles and what they are packed in: programs that import, archives, compressed data, arrays of objects."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from random import Random

import numpy

from fuzz.blind import mutate as mutate_bytes
from fuzz.blind import number
from fuzz.mutant import Content, Mutant, Seed
from tests.parts.models import CACHE

NAMES = ("model.bin", "notes.txt", "extra.dat", "archive.zip", "config.yaml", "tokenizer.model", "README")
"""Names that files are tried under: those of pickles, and others, which are judged by their content."""

_LARGEST = 200_000
"""Bytes of a real file that is taken as it is; of a larger one, its beginning and its end."""

_OPCODES = bytes(ord(opcode.code) for opcode in pickletools.opcodes)
_GLOBALS = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"ctorch\nload\n",
    b"iposix\nsystem\n",
)
_ZIP_MARKS = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")


def seeds() -> list[Seed]:
    """Pickles of every protocol, bare and packed in each way, and real weights."""
    made = {f"protocol {protocol}": _calling(protocol) for protocol in range(6)}
    plain = pickle.dumps({"a": [1, 2.5, None, "text", b"bytes"], "b": (True, {1, 2})}, protocol=4)
    made |= {"plain": plain, "classes": pickle.dumps([print, zipfile.ZipFile, numpy.dtype("f4")], protocol=2)}
    made |= {f"packed by {name}": pack(_calling(2)) for name, pack in _PACKERS.items()}
    made |= {"arrays": _array(), "twice packed": gzip.compress(bz2.compress(_calling(4)))}
    made |= {"several": _calling(2) + plain + _calling(4) + bytes(16)}
    made |= {"old": _calling(0) + _calling(1), "instance": b"(S'1'\ni__builtin__\neval\n.", "object": _OBJECT}
    real = {path.name: path.read_bytes() for path in sorted((CACHE / "pickle").iterdir()) if "LICENSE" not in path.name}
    small = {name: data for name, data in real.items() if len(data) < _LARGEST}
    bare = {
        name for name, data in made.items() if b"PK" not in data and name.startswith(("protocol", "several", "old"))
    }
    return [Seed(name, {"": Content(data)}, 3.0 if name in bare else 1.0) for name, data in (made | small).items()] + [
        Seed(name, {"": Content(data)}, 0.2) for name, data in real.items() if name not in small
    ]


_OBJECT = b"(c__builtin__\neval\nS'1'\no."


class _Calls:
    """An object whose pickle calls what it is told to; nothing here loads one."""

    def __init__(self, function: Callable[..., object], *given: object) -> None:
        self._reduced = (function, given)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._reduced


def _calling(protocol: int) -> bytes:
    return pickle.dumps([1, "text", _Calls(eval, "1"), {"a": b"x" * 20}], protocol=protocol)


def _zipped(data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in (("data.pkl", data), ("data/0", bytes(64)), ("version", b"3\n"), ("extra.txt", b"text")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content, compression)
    return buffer.getvalue()


def _tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("pickle", "storages"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _array() -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.array([{}, 1], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _with_storages(data: bytes) -> bytes:
    """A zip archive whose directory lies behind more than one window."""
    return _zipped(data)[:-22] + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 4, 4, 220, 300, 40) + bytes(40)


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": _zipped,
    "deflate": lambda data: _zipped(data, zipfile.ZIP_DEFLATED),
    "zip with a comment": _with_storages,
    "tar": _tarred,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "npz": lambda _: _zipped(_array()),
}


def mutate(rng: Random, seed: Seed) -> Mutant:
    """One to three changes of opcodes, of the archive or of any byte; sometimes packed after that."""
    data, made = seed.files[""].head, []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(_CHANGES)
        data = change(rng, data)
        made.append(change.__name__.strip("_"))
    if rng.random() < 0.15:
        name = rng.choice(sorted(_PACKERS))
        data = _PACKERS[name](data)
        made.append(name)
    return Mutant({rng.choice(NAMES): Content(data), **_WEIGHTS}, f"{seed.name}: {', '.join(made)}")


_EMPTY = b'{"__metadata__":{}}     '
_WEIGHTS = {"model.safetensors": Content(struct.pack("<Q", len(_EMPTY)) + _EMPTY)}
"""A model beside the file, so that nothing else is wrong."""


def _any_byte(rng: Random, data: bytes) -> bytes:
    return mutate_bytes(rng, data)[0]


def _opcode(rng: Random, data: bytes) -> bytes:
    """An opcode put in somewhere, with or without an argument."""
    at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else min(rng.randrange(80), len(data))
    argument = rng.choice((b"", b"\1", b"1\n", bytes(4), b"\xff\xff\xff\x7f", b"\xff" * 8, b"I0x1\n", b"'a'\n"))
    return data[:at] + bytes((rng.choice(_OPCODES),)) + argument + data[at:]


def _replaced(rng: Random, data: bytes) -> bytes:
    """A byte made an opcode."""
    at = min(rng.randrange(80), max(len(data) - 1, 0))
    return data[:at] + bytes((rng.choice(_OPCODES),)) + data[at + 1 :]


def _import(rng: Random, data: bytes) -> bytes:
    at = min(rng.choice((0, 2, rng.randrange(60))), len(data))
    return data[:at] + rng.choice(_GLOBALS) + rng.choice((b"", b"(S'id'\ntR.", b")R", b"0")) + data[at:]


def _line(rng: Random, data: bytes) -> bytes:
    """Something odd at an end of a line, where arguments in text are."""
    ends = _places(data, b"\n")
    if not ends:
        return _opcode(rng, data)
    at = rng.choice(ends) - rng.choice((0, 0, 0, 1, 2))
    odd = (
        b"\0",
        b"\0x",
        b" ",
        b"\r",
        b"_",
        b"_0",
        b"L",
        b"+",
        b"-",
        b"'",
        b'"',
        b"\\",
        b"\xff",
        b".",
        b"0",
        b"\t",
        b"\\u0041",
    )
    return data[: max(at, 0)] + rng.choice(odd) + data[max(at, 0) :]


def _inside(rng: Random, data: bytes) -> bytes:
    """An opcode between two others, as pickletools reads them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in texts
            places = [place or 0 for _, _, place in pickletools.genops(data)]
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError):
        return _opcode(rng, data)
    at = rng.choice(places)
    return data[:at] + rng.choice(_HARMLESS) + data[at:]


_HARMLESS = (
    *(
        b"N0",
        b"K\0000",
        b"\x80\x02",
        b"\x80\x05",
        b"(1",
        b"(l0",
        b"]0",
        b"})0"[:2],
        b"I1\n0",
        b"I01\n0",
        b"L1L\n0",
        b"F1\n0",
    ),
    *(b"S'a'\n0", b"Va\n0", b"U\1a0", b"N\x940", b"Np900\n0", b"Nq\xee0", b"N20" + b"0", b"\x95" + bytes(8), b"(N1"),
    *(
        b"c__builtin__\ndict\n0",
        b"cos\npath\n0",
        b"I 1\n0",
        b"I1_0\n0",
        b"F inf\n0",
        b"L+1L\n0",
        b"\x8a\0000",
        b"\x8e" + bytes(8) + b"0",
    ),
)
"""Opcodes that leave the stack as it was, more or less."""


def _front(rng: Random, data: bytes) -> bytes:
    """Something in front, or the protocol's bytes taken away."""
    front = (b"\n", b" ", b"N0", b"\x80\x02", b"\x80\xff", b"K\x01.", b"text\n", b"PK\x03\x04", b"\x1f\x8b\x08", b"#")
    return rng.choice(front) + data if rng.random() < 0.7 else data[2:]


def _many(rng: Random, data: bytes) -> bytes:
    """An opcode many times."""
    at = min(rng.randrange(20), len(data))
    return data[:at] + rng.choice((b"(", b"]", b"N", b"K\x01", b"2", b"0", b"\x94", b"h\0", b"(l")) * 20_000 + data[at:]


def _zip_field(rng: Random, data: bytes) -> bytes:
    """A number in one of the archive's records."""
    marks = [at for mark in _ZIP_MARKS for at in _places(data, mark)]
    if not marks:
        return _any_byte(rng, data)
    at = rng.choice(marks) + rng.randrange(4, 46)
    width = rng.choice((1, 2, 4, 8))
    new = number(rng, int.from_bytes(data[at : at + width], "little")) % (1 << 8 * width)
    return data[:at] + new.to_bytes(width, "little") + data[at + width :]


def _tar_field(rng: Random, data: bytes) -> bytes:
    """A size, a kind or a name in one of the headers of a tar archive."""
    headers = [at - 257 for at in _places(data, b"ustar") if at >= 257]
    if not headers:
        return _any_byte(rng, data)
    at = rng.choice(headers)
    start, value = rng.choice(_TAR_FIELDS)
    return data[: at + start] + value + data[at + start + len(value) :]


_TAR_FIELDS = (
    *((124, value) for value in (b"-1\0", b"-0000000777", b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12)),
    *((124, value) for value in (b"9", b"1_0", b" 17 ", bytes(12), b"+0000001000", b"\x80" + bytes(9) + b"\2\0")),
    *((156, value) for value in (b"0", b"\0", b"5", b"L", b"x", b"S")),
    *((0, value) for value in (b"\xff" * 100, b"../x\0", bytes(100))),
)


def _places(data: bytes, mark: bytes) -> list[int]:
    found: list[int] = []
    at = data.find(mark)
    while at >= 0 and len(found) < 50:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    *(_any_byte, _any_byte, _any_byte, _any_byte, _opcode, _opcode, _replaced),
    *(_import, _front, _zip_field, _zip_field, _many, _line, _line, _inside, _inside, _tar_field),
)  # fmt: skip
