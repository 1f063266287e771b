"""Safetensors: models that are right, and headers that are wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from formats.safetensors import BITS
from fuzz import trees
from fuzz.blind import mutate_content, number
from fuzz.mutant import Content, Mutant, Seed
from tests.parts.models import CACHE, safetensors

FILE = "model.safetensors"
_SPACES = (b"", b" ", b"\n", b"\t \r\n", b" " * 100, b"\0", b"\x0c", b"{}", b",")
_DTYPES = (*BITS, "F33", "f32", "", "FP4", "E4M3", "I128")


def seeds() -> list[Seed]:
    """Models made here, and the headers of real ones before holes of the right size."""
    made = {"two": _two(), "dtypes": _dtypes(), "odd": _odd(), "empty": _file([], 0)}
    real = {
        "smollm2": (safetensors() / FILE, 0.5),
        "silero": (CACHE / "real/silero-vad/silero_vad_16k.safetensors", 2.0),
        "minilm": (CACHE / "real/minilm/model.safetensors", 0.5),
    }
    seeds = [_seed(name, content, 2.0) for name, content in made.items()]
    return seeds + [_seed(name, hollow(path), weight) for name, (path, weight) in real.items()]


def hollow(path: Path) -> Content:
    """A real file without its weights."""
    with path.open("rb") as stream:
        prefix = stream.read(8)
        head = prefix + stream.read(struct.unpack("<Q", prefix)[0])
    return Content(head, path.stat().st_size - len(head))


def _seed(name: str, content: Content, weight: float) -> Seed:
    return Seed(name, {FILE: content}, weight, trees.parse(content.head[8:]))


def _file(entries: list[tuple[str, Any]], zeros: int) -> Content:
    text = json.dumps(dict(entries)).encode()
    text += b" " * (-len(text) % 8)
    return Content(struct.pack("<Q", len(text)) + text, zeros)


def _entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _two() -> Content:
    entries = [
        ("__metadata__", {"format": "pt"}),
        ("a", _entry("F32", [2, 2], 0, 16)),
        ("b", _entry("F16", [4], 16, 24)),
    ]
    return _file(entries, 24)


def _dtypes() -> Content:
    """Eight elements of every dtype."""
    entries: list[tuple[str, Any]] = []
    end = 0
    for dtype in sorted(BITS, key=lambda name: -BITS[name]):
        start, end = end, end + BITS[dtype]
        entries.append((dtype.lower(), _entry(dtype, [2, 4], start, end)))
    return _file(entries, end)


def _odd() -> Content:
    """A scalar, tensors of nothing, names that are no plain text."""
    entries = [
        ("scalar", _entry("F64", [], 0, 8)),
        ("none", _entry("F32", [0, 3], 8, 8)),
        ("", _entry("U8", [1] * 9, 8, 9)),
        ("caf\u00e9 \U0001f600\n", _entry("I8", [7], 9, 16)),
        ("__metadata__", {"\u00e9": "\U0001f600", "": ""}),
    ]
    return _file(entries, 16)


def mutate(rng: Random, seed: Seed) -> Mutant:
    """One to three changes: of the header's tree, of its length, or of any byte."""
    content, tree = seed.files[FILE], seed.data
    made: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if made == [] and rng.random() < 0.65:
            change = rng.choice((_any_value, _any_value, _tensor, _tensor, _tensor, _nothing, _order))
            tree = change(rng, tree)
            content = _written(rng, tree, content.zeros)
            made.append(change.__name__.strip("_"))
        elif rng.random() < 0.2:
            content = _relength(rng, content)
            made.append("length")
        else:
            content, said = mutate_content(rng, content)
            made.append(said)
    return Mutant({FILE: content}, f"{seed.name}: {', '.join(made)}")


def _written(rng: Random, tree: Any, zeros: int) -> Content:
    text = trees.dump(tree)
    if rng.random() < 0.3:
        text += rng.choice(_SPACES)
    if rng.random() < 0.03:
        text = rng.choice(_SPACES) + text
    return Content(struct.pack("<Q", len(text)) + text, zeros)


def _relength(rng: Random, content: Content) -> Content:
    length = number(rng, max(len(content.head) - 8, 0)) % (1 << 64)
    return Content(struct.pack("<Q", length) + content.head[8:], content.zeros)


def _any_value(rng: Random, tree: Any) -> Any:
    return trees.mutate_tree(rng, tree)[0]


def _order(rng: Random, tree: Any) -> Any:
    copied = trees.Pairs(tree)
    rng.shuffle(copied)
    return copied


def _nothing(rng: Random, tree: Any) -> Any:
    """One more tensor, of no bytes, with a shape that may be anything."""
    ends = [dict(entry)["data_offsets"][1] for name, entry in tree if name != "__metadata__"] or [0]
    place = rng.choice((rng.choice(ends), max(ends)))
    shape = rng.choice(_SHAPES)
    return trees.Pairs([*tree, ("nothing", trees.Pairs(_entry(rng.choice(_DTYPES), shape, place, place).items()))])


_SHAPES: tuple[list[int], ...] = (
    *([0], [0, 0], [], [1], [0, 1 << 63, 1 << 63], [1 << 63, 1 << 63, 0], [1 << 32, 1 << 32, 0], [1 << 64, 0]),
    *([0, (1 << 64) - 1], [(1 << 64) - 1, 0], [(1 << 61), 0], [0] * 64, [0] * 65, [2, 0, 1 << 63]),
)


def _tensor(rng: Random, tree: Any) -> Any:
    """Another dtype, a size or an offset of one tensor; sometimes one that fits."""
    places = [at for at, (name, _) in enumerate(tree) if name != "__metadata__"]
    if not places:
        return _any_value(rng, tree)
    at = rng.choice(places)
    name, entry = tree[at]
    members = dict(entry)
    match rng.choice(("dtype", "shape", "offsets", "reshape")):
        case "dtype":
            members["dtype"] = rng.choice(_DTYPES)
        case "shape":
            members["shape"] = _renumber(rng, members["shape"])
        case "offsets":
            members["data_offsets"] = _renumber(rng, members["data_offsets"])
        case _:
            members["shape"] = [*members["shape"], *[1] * rng.choice((1, 3, 63, 64, 65, 5000))]
    copied = trees.Pairs(tree)
    copied[at] = (name, trees.Pairs(members.items()))
    return copied


def _renumber(rng: Random, numbers: list[int]) -> list[int]:
    if not numbers:
        return [number(rng)]
    at = rng.randrange(len(numbers))
    return [*numbers[:at], number(rng, numbers[at]), *numbers[at + 1 :]]
