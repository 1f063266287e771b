"""Reading headers: a checkpoint of 200 shards and 100,000 tensors, and a GGUF with its vocabulary."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from bench.measure import Row, alternate, python

SHARDS, TENSORS = 200, 100_000

_OURS = """
import sys, time
from packer.sources import parse_source
began = time.perf_counter()
from formats.examine import examine
report = examine(parse_source(sys.argv[1]).fetch())
assert report.ok, report.findings[:3]
print(time.perf_counter() - began)
"""
_SAFETENSORS = """
import json, sys, time
from pathlib import Path
import safetensors
began = time.perf_counter()
places = json.loads((Path(sys.argv[1]) / "model.safetensors.index.json").read_text())["weight_map"]
for shard in sorted(set(places.values())):
    with safetensors.safe_open(Path(sys.argv[1]) / shard, framework="numpy") as file:
        for name in file.keys():
            part = file.get_slice(name)
            part.get_shape(), part.get_dtype()
print(time.perf_counter() - began)
"""
_OURS_GGUF = """
import sys, time
from pathlib import Path
from registry.blob import FileBlob
began = time.perf_counter()
from formats import gguf
from formats.snapshot import ModelFile
print(len(gguf.read(ModelFile.of("m.gguf", FileBlob.at(Path(sys.argv[1])))).tensors) and time.perf_counter() - began)
"""
_GGUF = """
import sys, time
import gguf
began = time.perf_counter()
gguf.GGUFReader(sys.argv[1])
print(time.perf_counter() - began)
"""


def checkpoint(folder: Path) -> Path:
    """200 shards of sparse tensors with an index; they look like gigabytes and take megabytes."""
    folder.mkdir()
    each, places, size = TENSORS // SHARDS, {}, 4 * 1024
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        names = [f"model.layers.{shard}.mlp.experts.{at // 5}.part{at % 5}.weight" for at in range(each)]
        header = {
            tensor: {"dtype": "BF16", "shape": [32, 64], "data_offsets": [at * size, (at + 1) * size]}
            for at, tensor in enumerate(names)
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text)
        os.truncate(folder / name, 8 + len(text) + each * size)
        places.update(dict.fromkeys(names, name))
    index = {"metadata": {"total_size": TENSORS * size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def run(scratch: Path, gguf: Path) -> list[Row]:
    """Both comparisons."""
    folder = checkpoint(scratch / "shards")
    ours, theirs = alternate(python(_OURS, folder), python(_SAFETENSORS, folder))
    mine, gguf_py = alternate(python(_OURS_GGUF, gguf), python(_GGUF, gguf))
    return [
        Row(
            "judge 200 shards, 100,000 tensors: headers, index, config",
            f"{ours.seconds:.2f} s, {ours.megabytes:.0f} MB",
            f"{theirs.seconds:.2f} s, {theirs.megabytes:.0f} MB (safetensors.safe_open, names and shapes only)",
            f"{theirs.seconds / ours.seconds:.2f}x as fast",
            "under 1 s and 200 MB",
        ),
        Row(
            "read a GGUF header with 49,152 tokens",
            f"{mine.seconds * 1000:.0f} ms, {mine.megabytes:.0f} MB",
            f"{gguf_py.seconds * 1000:.0f} ms, {gguf_py.megabytes:.0f} MB (gguf.GGUFReader)",
            f"{gguf_py.seconds / mine.seconds:.0f}x as fast",
            "at least 20x as fast",
        ),
    ]
