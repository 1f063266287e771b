"""Regions of blobs as one blob: any seek and read gives what the bytes joined would give."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.blob import BytesBlob, FileBlob
from registry.descriptor import OCTETS, digest_of
from registry.errors import ContentError
from registry.join import JoinedBlob, Region

BLOBS = [BytesBlob.of(OCTETS, os.urandom(size)) for size in (0, 1, 700, 5000)]
PARTS = st.lists(
    st.one_of(
        st.binary(max_size=50),
        st.tuples(st.sampled_from(BLOBS), st.integers(0, 5000), st.integers(0, 5000)).map(
            lambda it: Region(it[0], min(it[1:]), max(min(max(it[1:]), len(it[0].data)) - min(it[1:]), 0))
        ),
    ),
    max_size=8,
)


def whole(parts: list[bytes | Region]) -> bytes:
    data = b""
    for part in parts:
        if isinstance(part, Region):
            assert isinstance(part.blob, BytesBlob)
            part = part.blob.data[part.start : part.start + part.length]
        data += part
    return data


@given(parts=PARTS, moves=st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 6000)), max_size=6))
def test_it_is_a_file(parts: list[bytes | Region], moves: list[tuple[int, int]]) -> None:
    blob, expected = JoinedBlob.of(parts), io.BytesIO(whole(parts))
    assert blob.size == len(expected.getvalue())
    assert blob.descriptor.digest == digest_of(expected.getvalue())
    with blob.open() as stream:
        assert stream.read() == expected.read()
        for position, count in moves:
            assert (stream.seek(position), expected.seek(position)) == (position, position)
            assert stream.read(count) == expected.read(count)


def test_neighbours_become_one_region() -> None:
    blob = BLOBS[3]
    joined = JoinedBlob.of([Region(blob, 0, 10), Region(blob, 10, 20), b"x", Region(blob, 30, 5), Region(blob, 36, 1)])
    assert [(region.start, region.length) for region in joined.regions] == [(0, 30), (0, 1), (30, 5), (36, 1)]


def test_a_source_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    blob = JoinedBlob.of([Region(FileBlob.at(tmp_path / "f"), 3, 10)])
    with blob.open() as stream, pytest.raises(ContentError, match="ended early"):
        stream.read()


def test_a_blob_is_opened_once_for_all_its_neighbouring_regions(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(200)))
    file, opened = FileBlob.at(tmp_path / "f"), list[int]()

    class Counting:
        descriptor = file.descriptor

        def open(self) -> object:
            opened.append(1)
            return file.open()

    blob = Counting()
    joined = JoinedBlob(tuple(Region(blob, at, 1) for at in range(0, 200, 2)))  # type: ignore[arg-type]
    with joined.open() as stream:
        assert stream.read() == bytes(range(0, 200, 2))
    assert len(opened) == 1
