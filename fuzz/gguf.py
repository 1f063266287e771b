"""GGUF: models that are right, and headers that are wrong. Written here, because a writer that checks could not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from formats.gguf import TYPES, read_header
from formats.gguf_metadata import ARRAY, SCALARS, STRING
from formats.snapshot import ModelFile
from fuzz.blind import mutate_content, number
from fuzz.mutant import Content, Mutant, Seed
from registry.blob import FileBlob
from tests.parts.models import CACHE

FILE = "model.gguf"
_REAL = CACHE / "smollm2-gguf/SmolLM2-135M-Instruct.Q4_1.gguf"
_KEPT = 300
"""Entries that are kept of a real vocabulary: the gguf package takes seconds for all of them."""

Pair = tuple[bytes, int, bytes]
"""A key, the type of its value, and the value as it is written."""

Tensor = tuple[bytes, tuple[int, ...], int, int]
"""A name, dimensions as written (innermost first), a type, an offset."""


@dataclass(frozen=True)
class Spec:
    """All that a GGUF file says before its weights; counts are what they are unless given."""

    pairs: tuple[Pair, ...]
    tensors: tuple[Tensor, ...]
    zeros: int
    order: str = "<"
    version: int = 3
    alignment: int = 32
    counts: tuple[int, int] | None = None

    def content(self) -> Content:
        """The file."""
        tensors, pairs = self.counts or (len(self.tensors), len(self.pairs))
        parts = [struct.pack(f"{self.order}4sIQQ", b"GGUF", self.version, tensors, pairs)]
        for key, kind, value in self.pairs:
            parts += [text(self.order, key), struct.pack(f"{self.order}I", kind), value]
        for name, shape, kind, offset in self.tensors:
            rank = len(shape)
            numbers = (rank, *(size % (1 << 64) for size in shape), kind % (1 << 32), offset % (1 << 64))
            parts += [text(self.order, name), struct.pack(f"{self.order}I{rank}QIQ", *numbers)]
        head = b"".join(parts)
        return Content(head + bytes(-len(head) % self.alignment), self.zeros)


def seeds() -> list[Seed]:
    """Models of each version and byte order, one with all types, and SmolLM2's header with few and with all tokens."""
    made = {
        "little": model("<", 3),
        "big": model(">", 3),
        "version 2": model("<", 2),
        "types": _types(),
        "values": replace(model("<", 3), pairs=(*pairs("<"), *_values("<"))),
        "big values": replace(model(">", 3), pairs=(*pairs(">"), *_values(">"))),
        "bare": Spec((string("<", "general.architecture", "x"),), (), 0),
    }
    seeds = [Seed(name, {FILE: spec.content()}, 1.0, spec) for name, spec in made.items()]
    real = _real()
    return [
        *seeds,
        Seed("smollm2 cut", {FILE: real.content()}, 0.8, real),
        Seed("smollm2", {FILE: _hollow(_REAL)}, 0.01),
    ]


def text(order: str, data: bytes) -> bytes:
    """A text as it is written."""
    return struct.pack(f"{order}Q", len(data)) + data


def scalar(order: str, key: str, code: str, value: float) -> Pair:
    """A pair with a number, in `struct`'s word for its type."""
    kind = next(kind for kind, known in SCALARS.items() if known == code)
    return key.encode(), kind, struct.pack(order + code, value)


def string(order: str, key: str, value: str) -> Pair:
    """A pair with a text."""
    return key.encode(), STRING, text(order, value.encode())


def array(order: str, kind: int, items: list[bytes]) -> bytes:
    """An array as it is written, of items as they are written."""
    return struct.pack(f"{order}IQ", kind, len(items)) + b"".join(items)


_TOKENS = 72
"""More than are kept of an array."""


def pairs(order: str) -> tuple[Pair, ...]:
    """What a small llama says of itself."""
    number_of = partial(scalar, order, code="I")
    tokens = array(order, STRING, [text(order, f"t{at}".encode()) for at in range(_TOKENS)])
    scores = array(order, 6, [struct.pack(f"{order}f", -at) for at in range(_TOKENS)])
    kinds = array(order, 5, [struct.pack(f"{order}i", 1)] * _TOKENS)
    return (
        string(order, "general.architecture", "llama"),
        scalar(order, "general.alignment", "I", 32),
        *(number_of(key=f"llama.{key}", value=value) for key, value in _SIZES.items()),
        scalar(order, "llama.attention.layer_norm_rms_epsilon", "f", 1e-5),
        (b"tokenizer.ggml.tokens", ARRAY, tokens),
        (b"tokenizer.ggml.scores", ARRAY, scores),
        (b"tokenizer.ggml.token_type", ARRAY, kinds),
        number_of(key="tokenizer.ggml.bos_token_id", value=1),
        scalar(order, "tokenizer.ggml.add_bos_token", "?", 1),
    )


_SIZES = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
}


def _values(order: str) -> tuple[Pair, ...]:
    """A value of every type, and arrays of them, also of arrays."""
    scalars = tuple(scalar(order, f"any.{code}", code, 1) for code in SCALARS.values())
    arrays = tuple(
        (f"any.array.{kind}".encode(), ARRAY, array(order, kind, [struct.pack(order + code, 1)] * 3))
        for kind, code in SCALARS.items()
    )
    inner = array(order, 4, [struct.pack(f"{order}I", 7)] * 2)
    nested = (b"any.nested", ARRAY, array(order, ARRAY, [inner, inner]))
    empty = (b"any.empty", ARRAY, array(order, STRING, []))
    return (*scalars, *arrays, nested, empty, (b"any.\xc3\xa9", STRING, text(order, b"\xff\xfe")))


def placed(tensors: list[tuple[str, tuple[int, ...], int]], alignment: int = 32) -> tuple[tuple[Tensor, ...], int]:
    """The tensors one behind the other, and the bytes that they take."""
    placed: list[Tensor] = []
    end = 0
    for name, shape, kind in tensors:
        _, block, size = TYPES[kind]
        elements = 1
        for dimension in shape:
            elements *= dimension
        placed.append((name.encode(), shape, kind, end))
        end += -(-elements // block * size // alignment) * alignment
    return tuple(placed), end


def model(order: str = "<", version: int = 3) -> Spec:
    """A small llama that is right."""
    shapes = {"attn_q": (32, 32), "ffn_up": (32, 64)}
    layers = [(f"blk.{layer}.{part}.weight", shape, 2) for layer in range(2) for part, shape in shapes.items()]
    tensors, zeros = placed([("token_embd.weight", (32, _TOKENS), 1), *layers, ("output_norm.weight", (32,), 0)])
    return Spec(pairs(order), tensors, zeros, order, version)


def _types() -> Spec:
    tensors, zeros = placed([(name.lower(), (block, 2), kind) for kind, (name, block, _) in TYPES.items()], 64)
    pairs = (string("<", "general.architecture", "x"), scalar("<", "general.alignment", "I", 64))
    return Spec(pairs, tensors, zeros, alignment=64)


def _real() -> Spec:
    """SmolLM2's own keys and tensors, its vocabulary cut."""
    header = read_header(ModelFile.of(FILE, FileBlob.at(_REAL)))
    with _REAL.open("rb") as stream:
        data = stream.read(header.start)
    pairs: list[Pair] = []
    for key, pair in header.pairs.items():
        value = data[pair.start + 8 + len(key.encode()) + 4 : pair.end]
        pairs.append((key.encode(), pair.kind, _shorter(value, pair.item) if pair.length > _KEPT else value))
    numbers = {name: number for number, (name, _, _) in TYPES.items()}
    tensors = tuple(
        (info.name.encode(), info.shape[::-1], numbers[info.dtype], info.start - header.start)
        for info in header.tensors
    )
    return Spec(tuple(pairs), tensors, _REAL.stat().st_size - header.start)


def _shorter(value: bytes, item: int) -> bytes:
    """The first elements of an array as it is written."""
    at = 12
    for _ in range(_KEPT):
        at += 8 + int.from_bytes(value[at : at + 8], "little") if item == STRING else struct.calcsize(SCALARS[item])
    return struct.pack("<IQ", item, _KEPT) + value[12:at]


def _hollow(path: Path) -> Content:
    start = read_header(ModelFile.of(FILE, FileBlob.at(path))).start
    with path.open("rb") as stream:
        return Content(stream.read(start), path.stat().st_size - start)


def mutate(rng: Random, seed: Seed) -> Mutant:
    """One to three changes: of what the header says, or of any byte."""
    content, spec = seed.files[FILE], seed.data
    made: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if isinstance(spec, Spec) and not made and rng.random() < 0.7:
            change = rng.choice(_CHANGES)
            content = change(rng, spec).content()
            made.append(change.__name__.strip("_"))
        else:
            content, said = mutate_content(rng, content)
            made.append(said)
    return Mutant({FILE: content}, f"{seed.name}: {', '.join(made)}")


def _counts(rng: Random, spec: Spec) -> Spec:
    counts = [len(spec.tensors), len(spec.pairs)]
    at = rng.randrange(2)
    counts[at] = number(rng, counts[at]) % (1 << 64)
    return replace(spec, counts=(counts[0], counts[1]))


def _version(rng: Random, spec: Spec) -> Spec:
    return replace(
        spec, version=rng.choice((0, 1, 2, 3, 4, 1 << 16, 2 << 24, 3 << 24, 0x20003)), order=rng.choice("<>")
    )


def _pair(rng: Random, spec: Spec) -> Spec:
    """A key, type or value of one pair; or the pair doubled, moved or left out."""
    pairs = list(spec.pairs)
    at = rng.randrange(len(pairs))
    key, kind, value = pairs[at]
    match rng.choice(("key", "kind", "value", "value", "double", "drop", "move")):
        case "key":
            names = (b"", b"\xff", key + b"x", b"general.alignment", b"a" * 70000, pairs[rng.randrange(len(pairs))][0])
            pairs[at] = (rng.choice(names), kind, value)
        case "kind":
            pairs[at] = (key, rng.choice((*range(14), 1 << 31)), value)
        case "value":
            pairs[at] = (key, kind, _revalued(rng, spec.order, kind, value))
        case "double":
            pairs.insert(rng.randrange(len(pairs) + 1), pairs[at])
        case "drop":
            del pairs[at]
        case _:
            pairs.append(pairs.pop(at))
    return replace(spec, pairs=tuple(pairs))


def _revalued(rng: Random, order: str, kind: int, value: bytes) -> bytes:
    """A length, a count, an element's type or a number changed; or arrays in arrays."""
    at = rng.choice((0, 4)) if kind == ARRAY else 0
    width = 4 if kind == ARRAY and not at else min(8, len(value))
    if kind == ARRAY and rng.random() < 0.2:
        return _nested(rng, order)
    name = "little" if order == "<" else "big"
    old = int.from_bytes(value[at : at + width], "little" if name == "little" else "big")
    new = number(rng, old) % (1 << 8 * width)
    return value[:at] + new.to_bytes(width, "little" if name == "little" else "big") + value[at + width :]


def _nested(rng: Random, order: str) -> bytes:
    depth, width = rng.choice(((1, 1), (3, 2), (4, 2), (5, 1), (200, 1), (1000, 1), (2, 70), (3, 20)))
    value = array(order, 0, [b"\1"] * width)
    for _ in range(depth):
        value = array(order, ARRAY, [value] * (width if depth < 5 else 1))
    return value


def _tensor(rng: Random, spec: Spec) -> Spec:
    """A name, size, type or offset of one tensor; or the tensor doubled, moved or left out."""
    tensors = list(spec.tensors)
    if not tensors:
        return _pair(rng, spec)
    at = rng.randrange(len(tensors))
    name, shape, kind, offset = tensors[at]
    match rng.choice(
        ("name", "shape", "shape", "rank", "kind", "offset", "offset", "double", "drop", "move", "places")
    ):
        case "name":
            name = rng.choice(
                (b"", b"\xff", b"n" * 63, b"n" * 64, name + b"\0", tensors[rng.randrange(len(tensors))][0])
            )
        case "shape" if shape:
            place = rng.randrange(len(shape))
            shape = (*shape[:place], number(rng, shape[place]), *shape[place + 1 :])
        case "rank":
            shape = rng.choice(((), shape[:1], (*shape, 1), (*shape, 1, 1), (*shape, 1, 1, 1), (*shape, 0), (1,) * 100))
        case "kind":
            kind = rng.choice((*range(45), 1 << 31))
        case "offset":
            offset = rng.choice((number(rng, offset), offset + 32, offset - 32, tensors[-1][3]))
        case "double":
            tensors.insert(rng.randrange(len(tensors) + 1), tensors[at])
            return replace(spec, tensors=tuple(tensors))
        case "drop":
            del tensors[at]
            return replace(spec, tensors=tuple(tensors))
        case "move":
            tensors.append(tensors.pop(at))
            return replace(spec, tensors=tuple(tensors))
        case _:
            other = rng.randrange(len(tensors))
            tensors[at], tensors[other] = tensors[other], tensors[at]
            return replace(spec, tensors=tuple(tensors))
    tensors[at] = (name, shape, kind, offset)
    return replace(spec, tensors=tuple(tensors))


def _nothing(rng: Random, spec: Spec) -> Spec:
    """One more tensor, behind the others, with a shape that may be anything."""
    kind = rng.choice(sorted(TYPES))
    end = spec.zeros if rng.random() < 0.8 else 0
    return replace(spec, tensors=(*spec.tensors, (b"nothing", rng.choice(_SHAPES), kind, end)))


_SHAPES = (
    *((0,), (), (0, 0), (0, 1 << 63), (1 << 63, 0), (1 << 32, 1 << 32), (1 << 32, 1 << 32, 0), (0, 1 << 32, 1 << 32)),
    *((1 << 62, 4), (1 << 62, 0, 4), ((1 << 64) - 1, 0), (256, 0), (255, 0), (1 << 61, 8), (1,), (256,)),
)


def _alignment(rng: Random, spec: Spec) -> Spec:
    """general.alignment of another number or type, and the file padded for it or not."""
    value = rng.choice((0, 1, 2, 3, 8, 16, 31, 64, 4096, 1 << 30, 1 << 31, (1 << 32) - 1))
    code = rng.choice("IIIiQBh")
    size = struct.calcsize(code)
    raw = (value % (1 << 8 * size)).to_bytes(size, "little" if spec.order == "<" else "big")
    kind = next(kind for kind, known in SCALARS.items() if known == code)
    others = tuple(pair for pair in spec.pairs if pair[0] != b"general.alignment")
    padded = value if 0 < value <= 4096 and rng.random() < 0.7 else spec.alignment
    return replace(spec, pairs=(*others, (b"general.alignment", kind, raw)), alignment=padded)


def _split(rng: Random, spec: Spec) -> Spec:
    """Keys of a part of a split model."""
    values = (("split.no", "H", rng.choice((0, 1, 2))), ("split.count", "H", rng.choice((0, 1, 2, 65535))))
    added = (scalar(spec.order, key, code, value) for key, code, value in values)
    return replace(
        spec, pairs=(*spec.pairs, *added, scalar(spec.order, "split.tensors.count", "i", number(rng, 6) % 99))
    )


Change = Callable[[Random, Spec], Spec]
_CHANGES: tuple[Change, ...] = (
    _counts,
    _nothing,
    _version,
    _pair,
    _pair,
    _pair,
    _tensor,
    _tensor,
    _tensor,
    _alignment,
    _split,
)
