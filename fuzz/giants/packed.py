"""Giants among pickles and archives."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator

from fuzz.giants.headers import MILLION


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


def pickles() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Contents, by name."""
    members = [f"archive/{at}" for at in range(250)]
    pushes, small = b"N0" * (1 << 19), b"N0" * (1 << 15)
    yield "zip-of-a-million-names", lambda: _many_entries(MILLION)
    yield "zip-of-forty-thousand-names", lambda: _many_entries(40_000)
    yield "zip-of-texts", lambda: _zip(iter(members), pushes, zipfile.ZIP_DEFLATED)
    yield "zip-of-pickles", lambda: _zip(iter(members), b"\x80\x02" + pushes, zipfile.ZIP_DEFLATED)
    yield "tar-of-texts", lambda: _tar(small)
    yield "tar-of-a-negative-size", lambda: _tar(small)[:124] + b"-1\0" + _tar(small)[127:] + bytes(100 << 20)
    yield "zip-of-storages", lambda: _zip((f"a/data/{at}" for at in range(20_000)), b"")
    yield "bomb", lambda: gzip.compress(bytes(128 << 20), 9)
    yield "bomb-in-a-bomb", lambda: gzip.compress(gzip.compress(bytes(128 << 20), 9), 9)
    yield "bomb-of-opcodes", lambda: gzip.compress(b"\x80\x02" + b"N" * (64 << 20), 9)
    yield "bzip2-bomb", lambda: bz2.compress(bytes(64 << 20))
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
