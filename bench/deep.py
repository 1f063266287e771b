"""Reading every value of two gigabytes of BF16, beside a loop over torch tensors: `python -m bench.deep`."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy

from bench.measure import Row, alternate, python

TENSORS, ELEMENTS = 64, 1 << 24

_OURS = """
import sys, time
from packer.sources import parse_source
from formats.examine import examine
began = time.perf_counter()
from formats.values import judge_values, measure
report = examine(parse_source(sys.argv[1]).fetch())
assert not [finding for value in measure(report) for finding in judge_values(value)]
print(time.perf_counter() - began)
"""
_TORCH = """
import sys, time
import torch
from safetensors import safe_open
began = time.perf_counter()
with safe_open(sys.argv[1], framework="pt") as file:
    for name in file.keys():
        value = file.get_tensor(name).float()
        assert not value.isnan().any() and not value.isinf().any()
        value.min(), value.max(), value.mean(), value.std(), (value == 0).sum()
print(time.perf_counter() - began)
"""


def model(path: Path, numbers: range = range(TENSORS)) -> Path:
    """Tensors of normal numbers, 32 MiB each, named by `numbers`."""
    values = numpy.random.default_rng(numbers.start)
    size = 2 * ELEMENTS
    entries = (
        f'"t{number}":{{"dtype":"BF16","shape":[{ELEMENTS}],"data_offsets":[{at * size},{(at + 1) * size}]}}'
        for at, number in enumerate(numbers)
    )
    header = "{" + ",".join(entries) + "}"
    header += " " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header.encode())
        for _ in numbers:
            wide = values.standard_normal(ELEMENTS, dtype=numpy.float32) * numpy.float32(0.02)
            file.write((wide.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())
    return path


def run(scratch: Path) -> list[Row]:
    """The comparison."""
    path = model(scratch / "deep.safetensors")
    gigabytes = path.stat().st_size / 1e9
    ours, theirs = alternate(python(_OURS, path), python(_TORCH, path))
    path.unlink()
    return [
        Row(
            f"validate --deep of {gigabytes:.1f} GB BF16",
            f"{gigabytes / ours.seconds:.2f} GB/s, {ours.megabytes:.0f} MB",
            f"{gigabytes / theirs.seconds:.2f} GB/s, {theirs.megabytes:.0f} MB (safe_open and torch, tensor by tensor)",
            f"{theirs.seconds / ours.seconds:.1f}x as fast",
            "at least 1 GB/s, under 300 MB",
        )
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="packer-bench-") as folder:
        for row in run(Path(folder)):
            print(f"{row.what}: {row.ours}; {row.theirs}; {row.ratio} (goal: {row.goal})")
