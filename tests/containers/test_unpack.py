"""The files of an artifact get their names when their bytes are on the disk."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from containers.tar import Member
from containers.unpack import unpack
from registry.blob import BytesBlob
from registry.descriptor import IMAGE_LAYER
from registry.layout import Layout
from tests.containers.test_look import push


def test_files_are_on_the_disk_before_they_are_renamed(tmp_path: Path) -> None:
    members = [Member(f"models/{name}", 4, lambda: io.BytesIO(b"data")) for name in "ab"]
    layer = b"".join(member.header() + b"data" + bytes(member.padding) for member in members)
    store = Layout(tmp_path / "layout")
    manifest = push(store, [BytesBlob.of(IMAGE_LAYER, layer)])
    sizes: list[tuple[int, int]] = []
    target = tmp_path / "out"
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        sizes.append((os.fstat(descriptor).st_size, sum(path.is_file() for path in target.iterdir())))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", watched)
        unpack(manifest, store, target)
    assert sizes == [(4, 0), (4, 0)]
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"]
