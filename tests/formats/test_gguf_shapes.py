"""The shapes of a GGUF's tensors beside its keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formats.examine import examine
from formats.gguf_shapes import check_shapes
from formats.tensors import TensorInfo
from fuzz import gguf
from fuzz.subject import snapshot_of
from registry.names import relative_path
from tests.models import make

SIZES: dict[str, Any] = {
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}
RIGHT = {
    "blk.1.attn_norm.weight": (32,),
    "blk.1.attn_q.weight": (32, 32),
    "blk.1.attn_q.bias": (32,),
    "blk.1.attn_k.weight": (16, 32),
    "blk.1.attn_v.weight": (16, 32),
    "blk.1.attn_output.weight": (32, 32),
    "blk.1.ffn_gate.weight": (64, 32),
    "blk.1.ffn_up.weight": (64, 32),
    "blk.1.ffn_down.weight": (32, 64),
    "output_norm.weight": (32,),
}


def wrong(shapes: dict[str, tuple[int, ...]], architecture: str = "llama", **changed: Any) -> list[str]:
    """The tensors that do not fit the keys, some of which are changed."""
    file = relative_path("m.gguf", "m.gguf")
    tensors = [TensorInfo(name, "F32", shape, file, 0, 0) for name, shape in shapes.items()]
    sizes = {**SIZES, **{key.replace("__", "."): value for key, value in changed.items()}}
    metadata = {f"{architecture}.{key}": value for key, value in sizes.items()}
    return [finding.tensor for finding in check_shapes(file, tensors, metadata, architecture)]


def test_shapes_that_are_right() -> None:
    assert not wrong(RIGHT)


@pytest.mark.parametrize("name", RIGHT)
def test_a_shape_that_is_wrong(name: str) -> None:
    assert wrong({**RIGHT, name: (8, *RIGHT[name][1:])}) == [name]


@pytest.mark.parametrize(
    ("key", "value", "broken"),
    [
        ("feed_forward_length", 1, {"ffn_gate", "ffn_up", "ffn_down"}),
        ("attention__head_count", 7, {"attn_q", "attn_k", "attn_v", "attn_output"}),
        ("attention__head_count_kv", 4, {"attn_k", "attn_v"}),
        ("attention__key_length", 16, {"attn_q", "attn_k"}),
        ("attention__value_length", 16, {"attn_v"}),
        ("feed_forward_length", [64, 1], {"ffn_gate", "ffn_up", "ffn_down"}),
        ("feed_forward_length", [1, 64], set()),
        ("feed_forward_length", "80 values", set()),
        ("attention__head_count", 0, set()),
    ],
)
def test_a_key_that_is_wrong(key: str, value: Any, broken: set[str]) -> None:
    assert {name.split(".")[2] for name in wrong(RIGHT, **{key: value})} == broken


def test_heads_that_are_not_the_width_of_the_model() -> None:
    sizes = {"attention__key_length": 64, "attention__value_length": 64}
    shapes: dict[str, tuple[int, ...]] = {
        "blk.0.attn_q.weight": (256, 32),
        "blk.0.attn_v.weight": (128, 32),
        "blk.0.attn_output.weight": (32, 256),
    }
    assert not wrong(shapes, "gemma3", **sizes)


def test_what_phi_fuses() -> None:
    assert not wrong({"blk.0.attn_qkv.weight": (64, 32), "blk.0.ffn_up.weight": (128, 32)}, "phi3")
    assert wrong({"blk.0.attn_qkv.weight": (96, 32), "blk.0.ffn_up.weight": (64, 32)}, "phi3")


def test_what_is_not_certain_is_not_asked() -> None:
    broken: dict[str, tuple[int, ...]] = dict.fromkeys(RIGHT, (1,))
    assert not wrong(broken, "deepseek2")
    assert not wrong({"blk.0.ffn_up.weight": (1, 1)}, "qwen3moe")


def test_a_later_part_is_held_to_the_keys_of_the_first(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(split(number))
    found = {(finding.rule.id, finding.file, finding.tensor) for finding in examine(snapshot_of(tmp_path)).findings}
    assert found == {("gguf-shape", "m-00002-of-00002.gguf", "blk.1.ffn_up.weight")}


def split(number: int) -> bytes:
    """A part of a llama whose last matrix, in the second part, has lost a row."""
    embedding, ups = (
        ("token_embd.weight", (32, 72), 0),
        [(f"blk.{at}.ffn_up.weight", (32, 64 - at), 0) for at in (0, 1)],
    )
    parts: list[list[tuple[str, tuple[int, ...], int]]] = [[embedding, ups[0]], [ups[1]]]
    tensors, zeros = gguf.placed(parts[number])
    values = (("split.no", "H", number), ("split.count", "H", 2), ("split.tensors.count", "i", 3))
    pairs = (*(gguf.scalar("<", *value) for value in values), *(() if number else make.LITTLE.pairs))
    content = replace(make.LITTLE, pairs=pairs, tensors=tensors, zeros=zeros).content()
    return content.head + bytes(content.zeros)


def test_a_real_model_passes(gguf_model: Path) -> None:
    assert not examine(snapshot_of(gguf_model)).findings
