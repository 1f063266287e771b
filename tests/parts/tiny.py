"""Tiny models made of bytes, and the ways in which each can be wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def safetensors_bytes(header: dict[str, Any] | str, data: bytes) -> bytes:
    """A safetensors file with this header, however wrong it is; one that is no text is padded as the format wants."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text += b" " * (0 if isinstance(header, str) else -len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def tensor(start: int, end: int, dtype: str = "F32", shape: list[Any] | None = None) -> dict[str, Any]:
    """A header entry; by default a vector that fills its bytes."""
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


GOOD = safetensors_bytes({"a": tensor(0, 16), "b": tensor(16, 24)}, bytes(24))
"""Two tensors, no gap."""


def gguf_bytes(
    pairs: dict[str, str], tensors: dict[str, tuple[int, list[int], int]], data: bytes, **wrong: Any
) -> bytes:
    """A GGUF file: text metadata; tensors by name as type, dimensions innermost first, and offset."""
    order = wrong.get("order", "<")
    head = struct.pack(
        f"{order}4sIQQ",
        wrong.get("magic", b"GGUF"),
        wrong.get("version", 3),
        wrong.get("count", len(tensors)),
        len(pairs),
    )
    for key, value in pairs.items():
        head += _string(key, order) + struct.pack(f"{order}I", 8) + _string(value, order)
    for name, (kind, shape, offset) in tensors.items():
        head += _string(name, order) + struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return head + bytes(-len(head) % 32) + data


def _string(text: str, order: str) -> bytes:
    return struct.pack(f"{order}Q", len(text.encode())) + text.encode()


GOOD_GGUF = gguf_bytes({"general.architecture": "tiny"}, {"a": (0, [8, 2], 0), "b": (0, [4], 64)}, bytes(80))
"""Two F32 tensors."""


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


SHARDED = {
    "model-00001-of-00002.safetensors": safetensors_bytes(json.dumps({"a": tensor(0, 16)}), bytes(16)),
    "model-00002-of-00002.safetensors": safetensors_bytes(json.dumps({"b": tensor(0, 8)}), bytes(8)),
    "model.safetensors.index.json": json.dumps(
        {
            "metadata": {"total_size": 24},
            "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
        }
    ).encode(),
    "config.json": b'{"architectures": ["TinyForCausalLM"], "model_type": "tiny"}',
}
"""A model in two shards."""
