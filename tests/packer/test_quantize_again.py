"""`packer quantize` after a run that had quantized already, and then could not write or was killed while it did."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packer.buildfile import Quantize
from packer.quantize import quantize_to
from packer.sources import Reach, parse_source
from packer.watch import Run
from registry.access import Access
from registry.errors import ModelError, SpaceError
from registry.folder import STAGING
from tests.parts.layers import llama
from tests.parts.models import digests

SHARD = "model-00002-of-00003.safetensors"


class Listening:
    """A listener that has the disk filled up by others before a stage, if one is named."""

    def __init__(self, patch: pytest.MonkeyPatch, full: str = "") -> None:
        self._patch, self._full = patch, full
        self.facts: dict[str, Any] = {}

    def started(self, stage: str, size: int | None) -> None:
        if stage == self._full:
            self._patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))

    def expected(self, size: int) -> None:
        pass

    def advanced(self, count: int) -> None:
        pass

    def noted(self, text: str) -> None:
        pass

    def finished(self, stage: str, facts: dict[str, Any]) -> None:
        self.facts[stage] = facts


def quantized(model: Path, target: Path, full: str = "") -> bool:
    """Whether it was done anew."""
    reach = Reach(Access(), target.parent / "artifacts")
    with pytest.MonkeyPatch.context() as patch:
        listener = Listening(patch, full)
        said = Quantize(recipe="fp8-dynamic", device="cpu")
        quantize_to(str(model), target, said, (), reach, dict(os.environ), Run(listener))
    return bool(listener.facts["quantize"]["is_new"])


def test_what_was_quantized_is_not_thrown_away(tmp_path: Path) -> None:
    """Not by a disk that is full when all else is to be written, and not by a kill between two names."""
    model, target = llama(tmp_path / "model"), tmp_path / "made"
    with pytest.raises(SpaceError):
        quantized(model, target, full="write")
    assert [path.name for path in target.iterdir()] == [STAGING]
    with pytest.raises(ModelError, match="not finished"):
        parse_source(str(target)).fetch()
    made = (target / STAGING / SHARD).stat().st_ino
    (target / STAGING / SHARD).rename(target / SHARD)
    assert not quantized(model, target)
    assert (target / SHARD).stat().st_ino == made
    assert digests(target).keys() == digests(model).keys()
    assert not (target / STAGING).exists()
    assert quantized(model, tmp_path / "fresh")
    assert digests(target) == digests(tmp_path / "fresh")
