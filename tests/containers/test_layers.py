"""Layers are hashed side by side, and nobody waits for a hash that is of no use any more."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from containers import layers
from containers.layers import Draft, model_layers
from containers.tar import Member, TarLayer
from formats.checkpoint import Checkpoint
from packer.sources import FolderSource
from registry.descriptor import digest_of
from registry.errors import TransferError
from registry.memory import Memory
from tests.parts import tiny
from tests.parts.interrupt import interrupted


class Slow(io.RawIOBase):
    """A file of zeros, from a disk that takes 50 ms for each read and gives so many bytes at once."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        time.sleep(0.05)
        return min(len(buffer), self._size)


def gone() -> BinaryIO:
    time.sleep(0.5)
    raise TransferError("the file is gone")


SLOW = Member("models/slow", 1 << 40, lambda: cast(BinaryIO, Slow(1 << 14)))
SLOWEST = Member("models/slow", 1 << 40, lambda: cast(BinaryIO, Slow(1 << 8)))
"""Of which the hash takes nearly a minute to see that it is to stop: it looks between two reads of 256 KiB."""

GONE = Member("models/gone", 1 << 10, gone)


def drafts(monkeypatch: pytest.MonkeyPatch, *members: Member) -> None:
    made = tuple(Draft(TarLayer((member,)), member.name, "") for member in members)
    monkeypatch.setattr(layers, "draft_layers", lambda _: made)


def test_layers_are_those_of_the_drafts(tmp_path: Path) -> None:
    model = Checkpoint(FolderSource(tiny.write_folder(tmp_path / "model", tiny.SHARDED)).fetch())
    for layer, draft in zip(model_layers(model, Memory()), layers.draft_layers(model), strict=True):
        with draft.tar.open() as stream:
            data = stream.read()
        assert (layer.path, layer.tar.descriptor.digest, layer.tar.descriptor.size) == (
            draft.path,
            digest_of(data),
            len(data),
        )


def test_an_interruption_does_not_wait_for_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    drafts(monkeypatch, SLOWEST)
    began = time.monotonic()
    with interrupted(0.5), pytest.raises(KeyboardInterrupt):
        model_layers(cast(Checkpoint, None), Memory())
    assert time.monotonic() - began < 15


def test_a_failure_ends_the_other_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    drafts(monkeypatch, SLOW, GONE)
    began = time.monotonic()
    with pytest.raises(TransferError, match="the file is gone"):
        model_layers(cast(Checkpoint, None), Memory())
    assert time.monotonic() - began < 15
