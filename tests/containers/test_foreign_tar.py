"""Tar of other programs: every format they write, sizes beyond 8 GiB, and headers that lie."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import tar
from containers.compression import decompressed
from containers.tar import BLOCK, MAX_EXTENSIONS, MAX_NAME, read_tar, walk_tar
from registry.errors import ContentError
from tests.parts.command import run

X, G, LONG, LINK = tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
FILE = tarfile.REGTYPE
Form = Literal[0, 1, 2]
FORMATS: dict[str, Form] = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

SHORT = {"a": b"", "b/c.bin": b"x" * 512, "b/d.json": b"{}", "ü/ключ.txt": b"data" * 1000}
LONGER = {f"{'n' * 90}/{'m' * 60}.bin": b"split in ustar", f"b/{'k' * 99}": b"z" * 513}
LONGEST = {
    f"{'n' * 200}/{'ж' * 100}/f": b"beyond 256",
    f"b/{'é' * 120}": b"q" * 70_000,
    "/".join(["d" * 250] * 4): b"one thousand",
}


def read(data: bytes) -> dict[str, bytes]:
    return {entry.name: b"".join(entry.content) for entry in read_tar(io.BytesIO(data), "test")}


def walked(data: bytes) -> dict[str, bytes]:
    return {name: data[start : start + size] for name, start, size in walk_tar(io.BytesIO(data), "test")}


def both(data: bytes) -> dict[str, bytes]:
    """What both readers find, which must be the same."""
    found = read(data)
    assert walked(data) == found
    return found


def block(name: str, kind: bytes = FILE, size: int = 0, form: Form = tarfile.USTAR_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(form, "utf-8")


def member(name: str, data: bytes = b"data", kind: bytes = FILE) -> bytes:
    return block(name, kind, len(data)) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def record(key: str, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = next(size for size in itertools.count(len(body)) if len(str(size)) + len(body) == size)
    return str(length).encode() + body


def extended(*records: tuple[str, str | bytes], kind: bytes = X) -> bytes:
    return member("PaxHeaders/x", b"".join(record(*each) for each in records), kind)


def refused(data: bytes, match: str) -> None:
    for reader in (read, walked):
        with pytest.raises(ContentError, match=match):
            reader(data)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def make(files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        first = tmp_path / "tree" / next(iter(files))
        (tmp_path / "tree/link").symlink_to("l" * 200)
        (tmp_path / "tree/zz-hard").hardlink_to(first)
        os.mkfifo(tmp_path / "tree/fifo")
        os.utime(first, (1.25, -3.5))
        return tmp_path / "tree"

    return make


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("v7", SHORT),
        ("oldgnu", SHORT | LONGER | LONGEST),
        ("gnu", SHORT | LONGER | LONGEST),
        ("ustar", SHORT | LONGER),
        ("pax", SHORT | LONGER | LONGEST),
        ("posix", SHORT | LONGER | LONGEST),
    ],
)
def test_what_gnu_tar_writes(tree: Callable[[dict[str, bytes]], Path], form: str, files: dict[str, bytes]) -> None:
    folder = tree(files)
    if form in ("v7", "ustar"):  # which cannot hold these
        (folder / "link").unlink()
        os.utime(folder / next(iter(files)), (1, 1))
    if form == "v7":
        (folder / "fifo").unlink()
    run(
        "tar",
        f"--format={form}",
        "--sort=name",
        "-C",
        folder,
        "-cf",
        folder.parent / "t.tar",
        *sorted(os.listdir(folder)),
    )
    assert both((folder.parent / "t.tar").read_bytes()) == files


def test_gnu_tar_with_every_option_that_adds_records(tree: Callable[[dict[str, bytes]], Path]) -> None:
    folder = tree(SHORT | LONGEST)
    options = ("--format=posix", "--pax-option=globexthdr.comment=x,comment:=all", "--xattrs", "--acls")
    run("tar", *options, "-C", folder, "-cf", folder.parent / "t.tar", *sorted(os.listdir(folder)))
    data = (folder.parent / "t.tar").read_bytes()
    assert data[156:157] == G
    assert both(data) == SHORT | LONGEST


def test_gnu_times_are_no_part_of_a_name(tree: Callable[[dict[str, bytes]], Path]) -> None:
    """Incremental archives have them where USTAR has the front of a name."""
    folder = tree(SHORT | LONGEST)
    run("tar", "--format=gnu", "-g", folder.parent / "snar", "-C", folder, "-cf", folder.parent / "t.tar", ".")
    found = both((folder.parent / "t.tar").read_bytes())
    assert {name.removeprefix("./"): data for name, data in found.items()} == SHORT | LONGEST


@pytest.mark.parametrize("form", ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix"])
def test_sparse_files_are_refused(tmp_path: Path, form: str) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(10 << 20)
        file.seek(0, io.SEEK_END)
        file.write(b"y" * 4096)
    run("tar", "-S", *f"--format={form}".split(), "-C", tmp_path, "-cf", tmp_path / "t.tar", "holes")
    refused((tmp_path / "t.tar").read_bytes(), "sparse")


def test_a_volume_that_goes_on_with_a_file_is_refused() -> None:
    refused(member("rest", kind=b"M"), "multi-volume")


@pytest.mark.parametrize("form", FORMATS)
def test_what_python_writes(form: str) -> None:
    files = SHORT | LONGER | ({} if form == "ustar" else LONGEST)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form], pax_headers={"comment": "ü"}) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(data), 1 if form == "ustar" else 1.5, "someone"
            archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo(f"l{len(data)}")
            link.type, link.linkname = tarfile.SYMTYPE, "t" * (90 if form == "ustar" else 400)
            archive.addfile(link)
    assert both(buffer.getvalue()) == files


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_layers_of_umoci_and_skopeo(tree: Callable[[dict[str, bytes]], Path], tmp_path: Path, compression: str) -> None:
    """Both are written in Go, as KitOps, modctl, docker and buildah are."""
    files, layout = SHORT | LONGER | LONGEST, tmp_path / "layout"
    folder = tree(files)
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:t")
    run("umoci", "insert", "--image", f"{layout}:t", folder, "/models")
    if compression == "zstd":
        copy = ("skopeo", "copy", "--dest-compress", "--dest-compress-format", "zstd")
        run(*copy, f"oci:{layout}:t", f"oci:{tmp_path}/zstd:t")
        layout = tmp_path / "zstd"
    manifest = json.loads(blob(layout, json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]))
    layer = manifest["layers"][-1]
    assert layer["mediaType"].endswith(f".tar+{compression}")
    data = blob(layout, layer["digest"])
    found = both(decompressed(io.BytesIO(data), layer["mediaType"], len(data), "test").read())
    hard = {"models/zz-hard": b""} if "models/zz-hard" in found else {}
    assert found == {f"models/{name}": data for name, data in files.items()} | hard


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


class Holes(io.RawIOBase):
    """A stream that seeks, of zeros but for some bytes, and that counts what is read of it."""

    def __init__(self, size: int, parts: dict[int, bytes]) -> None:
        self.size, self.parts, self.position, self.count = size, parts, 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence] + offset
        return self.position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)[: max(self.size - self.position, 0)]  # type: ignore[arg-type]
        view[:] = bytes(len(view))
        for start, data in self.parts.items():
            low, high = max(start, self.position), min(start + len(data), self.position + len(view))
            if low < high:
                view[low - self.position : high - self.position] = data[low - start : high - start]
        self.position += len(view)
        self.count += len(view)
        return len(view)


@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("size", [(8 << 30) - 1, 8 << 30, 100 << 30, (5 << 40) + 77])
def test_sizes_beyond_the_octal_field(form: str, size: int) -> None:
    names = [f"models/{'w' * 120}-{at}.safetensors" for at in range(3)]
    parts, starts, position = {}, [], 0
    for name in names:
        parts[position] = block(name, size=size, form=FORMATS[form])
        starts.append(position + len(parts[position]))
        position = starts[-1] + size + -size % BLOCK
    raw = Holes(position + 2 * BLOCK, parts)
    stream = cast(BinaryIO, io.BufferedReader(raw, 4096))
    assert list(walk_tar(stream, "test")) == [(name, start, size) for name, start in zip(names, starts, strict=True)]
    assert raw.count < 64 << 10
    stream = cast(BinaryIO, io.BufferedReader(Holes(position - BLOCK, parts), 4096))
    with pytest.raises(ContentError, match="truncated"):
        list(walk_tar(stream, "test"))


def test_records_that_say_more_than_the_header() -> None:
    data = extended(
        ("size", "6"), ("mtime", "1.5"), ("path", "päth"), ("linkpath", "x"), ("SCHILY.xattr.a", b"\xff=\n")
    )
    assert both(data + block("short", size=2) + padded(b"inside") + member("next")) == {
        "päth": b"inside",
        "next": b"data",
    }


def test_the_last_of_two_records_counts_and_an_empty_one_takes_back() -> None:
    twice, empty = extended(("path", "a"), ("path", "b")), extended(("path", "a"), ("path", ""), ("size", ""))
    assert both(twice + member("x") + empty + member("c")) == {"b": b"data", "c": b"data"}


def test_records_are_of_one_member_only() -> None:
    assert both(extended(("path", "a"), ("size", "4")) + member("x") + member("y", b"12345")) == {
        "a": b"data",
        "y": b"12345",
    }
    folder = extended(("path", "a"), ("size", "4")) + member("x", b"", tarfile.DIRTYPE)
    assert both(folder + member("y")) == {"y": b"data"}


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_what_has_no_content_has_none_whatever_its_size_says(kind: bytes) -> None:
    """As Go and Python read it: otherwise a file could be hidden from one of two readers."""
    data = extended(("linkpath", "t" * 300), ("size", "4096")) + block("l", kind, 4096) + member("seen")
    assert both(data) == {"seen": b"data"}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["l", "seen"]


def test_old_and_odd_types_of_files() -> None:
    assert both(member("old", kind=tarfile.AREGTYPE) + member("contiguous", kind=tarfile.CONTTYPE)) == {
        "old": b"data",
        "contiguous": b"data",
    }
    assert both(extended(("path", "folder/")) + block("x", tarfile.AREGTYPE, 4) + member("y")) == {"y": b"data"}
    assert both(extended(("path", "solaris"), kind=tarfile.SOLARIS_XHDTYPE) + member("x")) == {"solaris": b"data"}


def test_global_headers_are_passed_over() -> None:
    data = extended(("comment", "0" * 40), kind=G)
    assert both(data) == {}
    assert both(data + member("a") + data + extended(("path", "b")) + member("x") + data) == {
        "a": b"data",
        "b": b"data",
    }


def test_long_links_are_passed_over() -> None:
    data = member("././@LongLink", b"t" * 300 + b"\0", LINK) + member("././@LongLink", b"n" * 300 + b"\0junk", LONG)
    assert both(data + member("n") + member("x")) == {"n" * 300: b"data", "x": b"data"}


MALFORMED = {
    "length-too-large": b"99 path=a\n",
    "length-too-small": b"5 path=a\n",
    "length-zero": b"0 path=a\n",
    "length-negative": b"-9 path=a\n",
    "length-absurd": b"9" * 5000 + b" path=a\n",
    "length-not-a-number": b"\xc2\xb29 path=a\n",
    "no-length": b"path=a\n",
    "no-equals": b"9 path a\n",
    "no-key": b"5 =a\n",
    "no-line-feed": b"9 path=ab",
    "no-space": b"9path=ab\n",
    "zeros": bytes(512),
    "junk-after-a-record": record("path", "a") + b"\0",
    "size-negative": record("size", "-1"),
    "size-with-a-sign": record("size", "+4"),
    "size-with-a-space": record("size", " 4"),
    "size-with-an-underscore": record("size", "1_0"),
    "size-of-other-digits": record("size", "٤"),
    "size-with-a-point": record("size", "4.0"),
    "size-of-many-digits": record("size", "1" * 50_000),
    "size-beyond-the-end": record("size", "9" * 18),
    "name-not-utf-8": record("path", b"\xff\xfe"),
    "sparse-0.0": record("GNU.sparse.size", "9"),
    "sparse-1.0": record("GNU.sparse.major", "1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_records(name: str) -> None:
    refused(member("PaxHeaders/x", MALFORMED[name], X) + member("a"), "malformed|no number|truncated|UTF-8|sparse")


HEADERS = {
    "too-large": (member("x", record("comment", "c" * MAX_NAME), X) + member("a"), "absurd"),
    "absurd-size": (block("x", X, 1 << 62, tarfile.GNU_FORMAT) + member("a"), "absurd"),
    "absurd-global": (block("x", G, 1 << 62, tarfile.GNU_FORMAT) + member("a"), "absurd"),
    "absurd-link": (block("x", LINK, 1 << 62, tarfile.GNU_FORMAT) + member("a"), "absurd"),
    "two-extended": (extended(("path", "a")) + extended(("path", "b")) + member("x"), "two headers"),
    "two-names": (member("x", b"a", LONG) + member("x", b"b", LONG) + member("x"), "two headers"),
    "both-kinds": (member("x", b"a", LONG) + extended(("path", "b")) + member("x"), "two headers"),
    "both-kinds-turned": (extended(("path", "b")) + member("x", b"a", LINK) + member("x"), "two headers"),
    "no-member": (extended(("path", "a")), "has no member"),
    "no-member-but-zeros": (member("x", b"a", LONG) + bytes(1024), "has no member"),
    "global-path": (extended(("path", "evil"), kind=G) + member("a"), "global"),
    "global-size": (extended(("size", "0"), kind=G) + member("a"), "global"),
    "many-global": (extended(("a", "b"), kind=G) * (MAX_EXTENSIONS + 1) + member("a"), "too many extended"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_are_refused(name: str) -> None:
    refused(*HEADERS[name])


def test_as_many_global_headers_as_are_accepted() -> None:
    assert both(extended(("a", "b"), kind=G) * MAX_EXTENSIONS + member("a")) == {"a": b"data"}


@pytest.mark.parametrize("kind", [X, G, LONG, LINK])
def test_endless_headers_end_soon(kind: bytes) -> None:
    header = extended(("comment", "c" * 60_000), kind=kind)
    stream = Endless(itertools.repeat(header))
    with pytest.raises(ContentError):
        list(read_tar(cast(BinaryIO, stream), "test"))
    assert stream.count <= MAX_EXTENSIONS + 2


class Endless(io.RawIOBase):
    """A stream that never ends; it knows how many of its parts were taken."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.parts, self.rest, self.count = iter(parts), b"", 0

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < size:
            self.rest, self.count = self.rest + next(self.parts), self.count + 1
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


def test_all_headers_of_a_walk_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (extended(("comment", "c" * 5000)) + member("a", b"d" * 20_000)) * 20
    monkeypatch.setattr(tar, "MAX_HEADERS", 20 * (len(extended(("comment", "c" * 5000))) + BLOCK))
    assert len(list(walk_tar(io.BytesIO(data), "test"))) == 20
    with pytest.raises(ContentError, match="too many members or headers"):
        list(walk_tar(io.BytesIO(data + extended(("a", "b")) + member("a")), "test"))


def test_records_are_parsed_in_linear_time() -> None:
    start = time.monotonic()
    for _ in range(20):
        assert both(member("x", b"5 a=\n" * (MAX_NAME // 5), X) + member("a")) == {"a": b"data"}
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_truncated_at_every_byte(form: str) -> None:
    """Only the zeros behind the last member may be missing."""
    files, data = {"n" * 130: b"1" * 700, "ü": b"", "z" * 600: b"3" * 10}, b""
    ends = [range(1)]
    for name, content in files.items():
        data += block(name, size=len(content), form=FORMATS[form]) + padded(content)
        ends.append(range(len(data.rstrip(b"\0")) if content else len(data), len(data) + 1))
    for cut in range(len(data)):
        for reader in (read, walked):
            if whole := [count for count, end in enumerate(ends) if cut in end]:
                assert len(reader(data[:cut])) == whole[0]
            else:
                with pytest.raises(ContentError):
                    reader(data[:cut])


KINDS = st.sampled_from([X, X, G, LONG, LINK, FILE, FILE, b"\0", b"1", b"2", b"5", b"7", b"S", b"M", b"X", b"D", b"z"])
KEYS = st.sampled_from(["path", "size", "linkpath", "comment", "GNU.sparse.map", ""])
VALUES = st.one_of(st.text(max_size=20), st.binary(max_size=20), st.integers(-1, 2000).map(str))
CONTENTS = st.one_of(
    st.lists(st.tuples(KEYS, VALUES), max_size=4).map(lambda pairs: b"".join(itertools.starmap(record, pairs))),
    st.binary(max_size=600),
)
MEMBERS = st.tuples(KINDS, CONTENTS, st.one_of(st.none(), st.integers(0, 3000), st.integers(0, (1 << 63) - 1)))


@given(st.lists(MEMBERS, max_size=8))
def test_headers_that_lie(members: list[tuple[bytes, bytes, int | None]]) -> None:
    agree(
        b"".join(
            block("n", kind, len(data) if size is None else size, tarfile.GNU_FORMAT) + padded(data)
            for kind, data, size in members
        )
    )


def agree(data: bytes) -> None:
    """Both readers find the same or refuse, and raise nothing else."""
    results: list[list[tuple[str, bytes]] | None] = []
    for reader in (pairs_read, pairs_walked):
        try:
            results.append(list(reader(data)))
        except ContentError:
            results.append(None)
    assert results[0] == results[1]


def pairs_read(data: bytes) -> Iterator[tuple[str, bytes]]:
    return ((entry.name, b"".join(entry.content)) for entry in read_tar(io.BytesIO(data), "test"))


def pairs_walked(data: bytes) -> Iterator[tuple[str, bytes]]:
    return ((name, data[start : start + size]) for name, start, size in walk_tar(io.BytesIO(data), "test"))


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes(seed: int) -> None:
    """Of each header the sum is made right again, so that what is behind it is reached."""
    dice = random.Random(seed)
    whole = extended(("comment", "c"), kind=G) + b"".join(
        block(name, size=len(data), form=form) + padded(data)
        for form in FORMATS.values()
        for name, data in ((SHORT | LONGEST) if form != tarfile.USTAR_FORMAT else SHORT).items()
        if len(data) < 1000
    )
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.choice(
                [0, 32, 48, 55, 57, 61, 120, 103, 128, 255, dice.randrange(256)]
            )
        for at in range(0, len(data), BLOCK):
            if data[at + 257 : at + 262] == b"ustar":
                total = 256 + sum(data[at : at + 148]) + sum(data[at + 156 : at + BLOCK])
                data[at + 148 : at + 156] = b"%06o\0 " % total
        agree(bytes(data))
