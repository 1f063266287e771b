"""Compressed layers: those of other programs, and those that are damaged, cut, or far larger than they look."""

from __future__ import annotations

import io
import itertools
import random
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from containers import compression
from containers.compression import FREE, MAX_RATIO, decompressed, is_compressed, is_tar
from containers.tar import Member, TarLayer, read_tar
from registry.blob import CHUNK, verified
from registry.descriptor import Descriptor, digest_of
from registry.errors import ContentError
from tests.parts.command import run

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP, ZSTD = "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"
BOTH = pytest.mark.parametrize("media_type", [GZIP, ZSTD])
PROGRAMS = [
    (GZIP, ["gzip", "-1"]),
    (GZIP, ["gzip", "-9", "--rsyncable"]),
    (ZSTD, ["zstd", "-1"]),
    (ZSTD, ["zstd", "-19"]),
    (ZSTD, ["zstd", "--ultra", "-20"]),
    (ZSTD, ["zstd", "--fast", "--no-check"]),
    (ZSTD, ["zstd", "--rsyncable", "-T2", "--no-content-size"]),
]


def packed(data: bytes, media_type: str = GZIP) -> bytes:
    return zlib.compress(data, wbits=31) if media_type == GZIP else zstd.compress(data)


def read(data: bytes, media_type: str, size: int | None = None) -> bytes:
    with decompressed(io.BytesIO(data), media_type, len(data) if size is None else size, "test") as stream:
        return stream.read()


def refused(data: bytes, media_type: str, match: str) -> None:
    stream = decompressed(io.BytesIO(data), media_type, len(data), "test")
    with stream, pytest.raises(ContentError, match=match):
        while stream.read(CHUNK):
            pass


TYPES = {
    "application/vnd.oci.image.layer.v1.tar": (False, True),
    "application/vnd.oci.image.layer.v1.tar+gzip": (True, True),
    "application/vnd.oci.image.layer.v1.tar+zstd": (True, True),
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": (True, True),
    "application/vnd.docker.image.rootfs.diff.tar": (False, True),
    "application/vnd.docker.image.rootfs.diff.tar.gzip": (True, True),
    "application/vnd.docker.image.rootfs.diff.tar.zstd": (True, True),
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (True, True),
    "application/vnd.cncf.model.weight.v1.tar": (False, True),
    "application/vnd.cncf.model.weight.v1.raw": (False, False),
    "application/vnd.cncf.model.weight.v1.raw+zstd": (True, False),
    "application/vnd.cncf.model.weight.config.v1.tar+zstd": (True, True),
    "application/vnd.kitops.modelkit.model.v1.tar+gzip": (True, True),
    "application/vnd.cncf.model.config.v1+json": (False, False),
    "application/vnd.docker.ai.gguf.v3": (False, False),
    "application/octet-stream": (False, False),
    "application/x-tar": (False, True),
    "Application/X-Tar+GZIP; charset=binary": (True, True),
    "application/gzip": (False, False),
    "": (False, False),
}


@pytest.mark.parametrize("media_type", TYPES)
def test_what_a_media_type_says(media_type: str) -> None:
    assert (is_compressed(media_type), is_tar(media_type)) == TYPES[media_type]
    data = zstd.compress(b"x") if "zstd" in media_type else packed(b"x")
    assert read(data, media_type) == (b"x" if is_compressed(media_type) else data)


def test_what_is_not_compressed_is_the_stream_itself() -> None:
    stream = io.BytesIO(b"x")
    assert decompressed(stream, "application/vnd.cncf.model.weight.v1.raw", 1, "test") is stream


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+bzip2",
        "application/vnd.docker.image.rootfs.diff.tar.xz",
    ],
)
def test_unknown_suffixes(media_type: str) -> None:
    assert not is_compressed(media_type)
    with pytest.raises(ContentError) as caught:
        decompressed(io.BytesIO(), media_type, 0, "sha256:1")
    assert (caught.value.subject, caught.value.found) == ("sha256:1", media_type)


@pytest.mark.parametrize(("media_type", "command"), PROGRAMS)
def test_what_other_programs_compress(tmp_path: Path, media_type: str, command: list[str]) -> None:
    dice = random.Random(1)
    data = dice.randbytes(3 << 20) + b"words " * 500_000 + bytes(1 << 20) + dice.randbytes(100)
    (tmp_path / "data").write_bytes(data)
    done = subprocess.run([*command, "-c", str(tmp_path / "data")], capture_output=True, check=True)
    assert read(done.stdout, media_type) == data


@BOTH
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_sizes_around_those_of_the_buffers(media_type: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    with decompressed(io.BytesIO(packed(data, media_type)), media_type, size, "test") as stream:
        assert (stream.read(size // 2), stream.read(), stream.read(1)) == (data[: size // 2], data[size // 2 :], b"")


@BOTH
def test_members_and_frames_one_after_another(media_type: str) -> None:
    parts = [b"a", b"", b"b" * 100_000, random.Random(2).randbytes(100_000), b"", b"c"]
    assert read(b"".join(packed(part, media_type) for part in parts), media_type) == b"".join(parts)


def test_skippable_frames_are_skipped() -> None:
    """As zstd:chunked and pzstd have them."""
    skipped = b"\x5f\x2a\x4d\x18" + (300_000).to_bytes(4, "little") + bytes(300_000)
    assert read(skipped + packed(b"a", ZSTD) + skipped + packed(b"b", ZSTD) + skipped, ZSTD) == b"ab"


def test_gzip_headers_with_every_field() -> None:
    whole = packed(b"data")
    fields = b"\x1f\x8b\x08\x1c" + whole[4:10] + b"\x04\x00SGab" + b"name\0" + b"comment\0"
    assert read(fields + whole[10:], GZIP) == b"data"


@BOTH
def test_truncated_at_every_byte(media_type: str) -> None:
    parts = [packed(random.Random(3).randbytes(150) + bytes(150), media_type), packed(b"end", media_type)]
    ends = list(itertools.accumulate(map(len, parts)))
    for cut in range(ends[-1]):
        if cut not in ends:  # where another stream ends well, and only the digest beneath can tell
            refused(b"".join(parts)[:cut], media_type, "truncated")


@BOTH
def test_truncated_where_a_buffer_ends(media_type: str) -> None:
    data = packed(random.Random(4).randbytes(300_000), media_type)
    for cut in range(0, len(data), compression.PIECE):
        refused(data[:cut], media_type, "truncated")


@BOTH
@pytest.mark.parametrize("garbage", [b"\0", bytes(1024), b"garbage", b"\x1f", b"\x28\xb5", b"\x1f\x8b\x08"])
def test_trailing_garbage(media_type: str, garbage: bytes) -> None:
    for data in (b"data", random.Random(5).randbytes(compression.PIECE)):
        refused(packed(data, media_type) + garbage, media_type, "damaged|truncated")


@BOTH
def test_another_compression_than_the_type_says(media_type: str) -> None:
    refused(packed(b"data", ZSTD if media_type == GZIP else GZIP), media_type, "damaged")
    refused(b"", media_type, "truncated")


def test_a_wrong_sum() -> None:
    data = packed(b"data" * 1000)
    refused(data[:-8] + bytes(4) + data[-4:], GZIP, "damaged")
    data = zstd.compress(b"data" * 1000, options={zstd.CompressionParameter.checksum_flag: 1})
    refused(data[:-4] + bytes(4), ZSTD, "damaged")


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_changed_bytes(media_type: str, seed: int) -> None:
    """Nothing but `ContentError` is raised, and soon."""
    dice, start = random.Random(seed), time.monotonic()
    whole = packed(b"words and words " * 500, media_type) + packed(dice.randbytes(2000), media_type)
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            data[dice.choice([dice.randrange(30), dice.randrange(len(data))])] = dice.randrange(256)
        with suppress(ContentError):
            assert len(read(bytes(data), media_type)) < FREE
    assert time.monotonic() - start < 60


def bomb(media_type: str, size: int) -> bytes:
    """Zeros, compressed piece by piece."""
    packer = zlib.compressobj(wbits=31) if media_type == GZIP else zstd.ZstdCompressor()
    return b"".join(packer.compress(bytes(CHUNK)) for _ in range(size // CHUNK)) + packer.flush()


@BOTH
def test_a_bomb_is_refused_where_it_goes_off(media_type: str) -> None:
    data = bomb(media_type, 1 << 30)
    made, stream = 0, decompressed(io.BytesIO(data), media_type, len(data), "test")
    with stream, pytest.raises(ContentError, match="decompresses to more than"):
        while piece := stream.read(CHUNK):
            made += len(piece)
    assert MAX_RATIO * len(data) + FREE - 2 * CHUNK <= made <= MAX_RATIO * len(data) + FREE


@BOTH
def test_a_bomb_of_many_frames(media_type: str) -> None:
    refused(packed(bytes(CHUNK), media_type) * 100, media_type, "decompresses to more than")


@BOTH
def test_what_shrinks_well_but_is_small_is_read(media_type: str) -> None:
    data = bomb(media_type, FREE)
    assert len(data) < FREE // 900
    assert read(data, media_type) == bytes(FREE)


@BOTH
def test_very_many_frames_are_refused_soon(media_type: str) -> None:
    start = time.monotonic()
    refused(packed(b"", media_type) * 300_000, media_type, "frames")
    assert time.monotonic() - start < 30


def test_windows_beyond_the_limit(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(random.Random(6).randbytes(1 << 20) * 40)
    for options, is_refused in ((["--long=25"], False), (["--long=26"], True), (["--ultra", "-22"], True)):
        with (tmp_path / "data").open("rb") as stdin:
            command = ["zstd", "-c", "--no-content-size", *options]
            done = subprocess.run(command, stdin=stdin, capture_output=True, check=True)
        if is_refused:
            refused(done.stdout, ZSTD, "too much memory")
        else:
            assert read(done.stdout, ZSTD) == (tmp_path / "data").read_bytes()


MEMORY = """
import resource, sys
from containers.compression import decompressed
stream, peak = sys.stdin.buffer, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with decompressed(stream, sys.argv[1], 1 << 40, "test") as inflated:
    size = sum(map(len, iter(lambda: inflated.read(1 << 20), b"")))
print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
"""


@BOTH
def test_memory_is_that_of_a_window(tmp_path: Path, media_type: str) -> None:
    """Of the largest window that is accepted, and of what makes as much as one piece of input can."""
    dice = random.Random(7)
    long = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: compression.WINDOW_LOG})
    noise = b"".join(long.compress(dice.randbytes(CHUNK)) for _ in range(80)) + long.flush()
    (tmp_path / "data").write_bytes((noise if media_type == ZSTD else b"") + bomb(media_type, 512 << 20))
    with (tmp_path / "data").open("rb") as stdin:
        done = run(sys.executable, "-c", MEMORY, media_type, stdin=stdin)
    size, grown = map(int, done.stdout.split())
    assert size == (512 << 20) + (80 * CHUNK if media_type == ZSTD else 0)
    assert grown < 44 << 10


@BOTH
def test_the_digest_of_what_was_compressed_is_checked(media_type: str) -> None:
    """Also of bytes that no member of the tar holds."""
    member = Member("models/a", 4, lambda: io.BytesIO(b"data"))
    data = packed(TarLayer((member,)).open().read() + bytes(100_000), media_type) + packed(b"", media_type)
    for digest, is_refused in ((digest_of(data), False), (digest_of(b"other"), True)):
        beneath = verified(io.BytesIO(data), Descriptor(media_type, digest, len(data)), "test")
        stream = decompressed(beneath, media_type, len(data), "test")
        entries = ((entry.name, b"".join(entry.content)) for entry in read_tar(stream, "test"))
        if is_refused:
            with pytest.raises(ContentError, match="not what its descriptor promises"):
                list(entries)
        else:
            assert list(entries) == [("models/a", b"data")]
        stream.close()
        assert beneath.closed


class Trickle(io.RawIOBase):
    """A stream that gives one byte at a time, as a slow connection may."""

    def __init__(self, data: bytes) -> None:
        self.data = iter(data)

    def read(self, size: int = -1) -> bytes:
        return bytes(itertools.islice(self.data, 1))


@BOTH
def test_a_stream_of_single_bytes(media_type: str) -> None:
    data = packed(b"one " * 100, media_type) + packed(b"two", media_type)
    with decompressed(cast(BinaryIO, Trickle(data)), media_type, len(data), "test") as stream:
        assert stream.read() == b"one " * 100 + b"two"


def test_zstandard_is_imported_late() -> None:
    """A command that meets no such layer need not load it."""
    code = "import sys, containers.compression; print(any('zstd' in name for name in sys.modules))"
    assert run(sys.executable, "-c", code).stdout == "False\n"
