"""FP8 on the processor, beside llmcompressor by itself: a large checkpoint of random weights, and a small real model.

The files lie on disk. Memory is the peak of all processes together. What is written is removed before the next run.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.measure import ROOT, Cost, Row, in_turn, once
from bench.tree import once_with_children
from recipes.engines.devices import free_memory

PACKER = ROOT / ".venv/bin/packer"
SMALL = ROOT / ".cache/models/smollm2-safetensors"
RUNS, SHAPE, SHARD = 3, "3b", 10**9
SPARE = 4 << 30
"""Bytes of memory that must be free besides a model that is to be loaded."""

OFFLINE = {"HF_HUBOFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
_WAYS = {"files": "model_free_ptq, as it comes", "oneshot": "oneshot, the model loaded"}


@dataclass(frozen=True)
class _Trial:
    """A model that is quantized in each way, to a folder that is new each time."""

    model: Path
    scratch: Path

    @property
    def size(self) -> int:
        """Bytes of weights."""
        return sum(path.stat().st_size for path in self.model.glob("*.safetensors"))

    def packer(self) -> Cost:
        """By packer."""
        target = self._fresh()
        environment = {**OFFLINE, "PACKER_CACHE": str(self.scratch / "cache")}
        return once_with_children([PACKER, "quantize", self.model, target, "--recipe", "fp8-dynamic"], environment)

    def plain(self, way: str) -> Cost:
        """By llmcompressor, in a way of `bench.plain`."""
        target = self._fresh()
        return once_with_children([sys.executable, "-m", "bench.plain", way, self.model, target], OFFLINE)

    def _fresh(self) -> Path:
        target = self.scratch / "out"
        shutil.rmtree(target, ignore_errors=True)
        return target


def run() -> Iterator[Row]:
    """The small model, median of three; the large one, once."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache", prefix="bench-") as folder:
        scratch = Path(folder)
        yield from _small(_Trial(SMALL, scratch))
        model = scratch / "model"
        once([sys.executable, "-m", "bench.llama", model, SHAPE, "cpu", str(SHARD)])
        yield from _large(_Trial(model, scratch))


def _small(trial: _Trial) -> Iterator[Row]:
    mine, *theirs = in_turn([trial.packer, *(partial(trial.plain, way) for way in _WAYS)], RUNS)
    what = f"SmolLM2-135M, {trial.size / 1e9:.2f} GB in one file"
    yield from _rows(what, mine, dict(zip(_WAYS, theirs, strict=True)), "under 60 s")


def _large(trial: _Trial) -> Iterator[Row]:
    size = trial.size
    ways = [way for way in _WAYS if way != "oneshot" or free_memory() > size + SPARE]
    what = f"random weights, {size / 1e9:.1f} GB in shards of {SHARD / 1e9:.0f} GB, one run"
    mine = trial.packer()
    yield from _rows(what, mine, {way: trial.plain(way) for way in ways}, "under 4 GB")


def _rows(what: str, mine: Cost, others: Mapping[str, Cost], goal: str) -> Iterator[Row]:
    for way, cost in others.items():
        share = f"{mine.seconds / cost.seconds:.2f} of its time, {mine.megabytes / cost.megabytes:.2f} of its memory"
        yield Row(what, _figures(mine), f"{_figures(cost)} ({_WAYS[way]})", share, goal)


def _figures(cost: Cost) -> str:
    return f"{cost.seconds:.1f} s, {cost.cpu:.1f} s CPU, {cost.megabytes / 1000:.2f} GB"
