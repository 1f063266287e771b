"""What a GGUF's metadata and tensors say of each other, in one file and across the parts of a split model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice

from formats.findings import Finding
from formats.gguf_metadata import Header
from formats.gguf_shapes import check_shapes
from formats.index import SHARD
from formats.rules import gguf as rules
from formats.snapshot import ModelFile
from formats.tensors import WeightFile

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
"""Keys of a part."""

MAX_FINDINGS = 100
"""Findings about one file: whoever exchanged all shapes sees it from a hundred."""

_PER_TOKEN = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_TOKENS = "tokenizer.ggml.tokens"
_SPECIAL = re.compile(r"tokenizer\.ggml\.\w+_token_id")
_LLAMA_LIKE = ("context_length", "embedding_length", "feed_forward_length", "attention.head_count")
_NEEDED = {
    **dict.fromkeys(("llama", "llama4", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "olmo2"), _LLAMA_LIKE),
    **dict.fromkeys(("gpt2", "gptneox", "falcon", "starcoder2", "stablelm", "granite", "smollm3"), _LLAMA_LIKE),
}
"""Architecture to the keys, below its own name, that llama.cpp does not load it without; block_count besides."""

_LAYER = re.compile(r"blk\.(\d{1,6})\.")


def check_content(file: ModelFile, header: Header) -> Iterator[Finding]:
    """Keys, tokenizer, layers and embedding of one file. A later part of a split model has no metadata of its own."""
    number, count = (_integer(header, key) for key in (NUMBER, COUNT))
    if number is not None and count is not None and not 0 <= number < max(count, 1):
        yield rules.SPLIT.finding(file.name, expected=f"split.no below {count}", found=number)
    if number:
        return
    architecture = header.pairs.get("general.architecture")
    if not architecture or not isinstance(architecture.value, str):
        yield rules.KEYS.finding(file.name, expected="general.architecture", found="none")
        return
    yield from _check_tokenizer(file, header)
    is_model = header.pairs.get("general.type")
    if not is_model or is_model.value == "model":
        yield from _check_architecture(file, header, architecture.value, is_whole=(count or 0) < 2)


def _check_architecture(file: ModelFile, header: Header, name: str, *, is_whole: bool) -> Iterator[Finding]:
    if name in _NEEDED and header.tensors:
        for key in ("block_count", *_NEEDED[name]):
            if f"{name}.{key}" not in header.pairs:
                yield rules.KEYS.finding(file.name, expected=f"{name}.{key}", found="none")
        if is_whole:
            yield from _check_layers(file, header, name)
    wrong = list(_check_embedding(file, header, name))
    values = {key: pair.value for key, pair in header.pairs.items()}
    yield from wrong or check_shapes(file.name, header.tensors, values, name)


def _check_layers(file: ModelFile, header: Header, name: str) -> Iterator[Finding]:
    depth = _integer(header, f"{name}.block_count")
    there = {int(match[1]) for tensor in header.tensors if (match := _LAYER.match(tensor.name))}
    if depth is None or not there:
        return
    missing = min(set(range(min(depth, len(there) + 1))) - there, default=None)
    if missing is not None or max(there) >= depth:
        found = f"a layer {max(there)}" if missing is None else f"no layer {missing}"
        yield rules.LAYERS.finding(file.name, expected=f"block_count {depth}", found=found)


def _check_embedding(file: ModelFile, header: Header, name: str) -> Iterator[Finding]:
    """The embedding and, of architectures that are known, the head, which have a row for each token."""
    tokens, width = header.pairs.get(_TOKENS), _integer(header, f"{name}.embedding_length")
    if not tokens or width is None:
        return
    rows = _integer(header, f"{name}.vocab_size") or tokens.length
    names = {"token_embd.weight", *(("output.weight",) if name in _NEEDED else ())}
    for tensor in header.tensors:
        if tensor.name in names and tensor.shape not in {(tokens.length, width), (rows, width)}:
            yield rules.EMBEDDING.finding(
                file.name, tensor=tensor.name, expected=[tokens.length, width], found=list(tensor.shape)
            )


def _check_tokenizer(file: ModelFile, header: Header) -> Iterator[Finding]:
    tokens = header.pairs.get(_TOKENS)
    if not tokens:
        return
    for key in _PER_TOKEN:
        if key in header.pairs and header.pairs[key].length != tokens.length:
            found = f"{header.pairs[key].length} in {key}"
            yield rules.TOKENIZER.finding(file.name, expected=f"{tokens.length} as in {_TOKENS}", found=found)
    for key, pair in header.pairs.items():
        if _SPECIAL.fullmatch(key) and isinstance(pair.value, int) and not 0 <= pair.value < tokens.length:
            if pair.value in (-1, 0xFFFFFFFF):
                continue
            yield rules.TOKENIZER.finding(file.name, expected=f"{key} below {tokens.length}", found=pair.value)


def _integer(header: Header, key: str) -> int | None:
    value = header.pairs[key].value if key in header.pairs else None
    return value if type(value) is int else None


def check_parts(read: Mapping[ModelFile, WeightFile]) -> Iterator[Finding]:
    """Whether the parts of each split model fit each other; files that are missing are another rule's."""
    parts: dict[tuple[str, str], list[tuple[int, ModelFile, WeightFile]]] = {}
    for file, weights in read.items():
        count = weights.metadata.get(COUNT)
        match = SHARD.fullmatch(file.name)
        if match and match[4] == ".gguf":
            parts.setdefault((match[1], match[3]), []).append((int(match[2]), file, weights))
        elif file.suffix == ".gguf" and isinstance(count, int) and count > 1:
            yield rules.SPLIT.finding(file.name, expected=f"a name like NAME-00001-of-{count:05}.gguf", found=file.name)
    for (_, total), members in parts.items():
        yield from _check_members(int(total), members)


def _check_later(file: ModelFile, weights: WeightFile, metadata: Mapping[str, object]) -> Iterator[Finding]:
    """The tensors of a later part beside the keys in the first one."""
    name = metadata.get("general.architecture")
    if isinstance(name, str):
        yield from islice(check_shapes(file.name, weights.tensors, metadata, name), MAX_FINDINGS)


def _check_members(total: int, members: list[tuple[int, ModelFile, WeightFile]]) -> Iterator[Finding]:
    names: set[str] = set()
    for number, file, weights in members:
        said = (weights.metadata.get(NUMBER), weights.metadata.get(COUNT))
        if said != (number - 1, total):
            yield rules.SPLIT.finding(
                file.name, expected=f"split.no {number - 1} of {total}", found=f"{said[0]} of {said[1]}"
            )
        twice = next((tensor.name for tensor in weights.tensors if tensor.name in names), None)
        if twice is not None:
            yield rules.SPLIT.finding(file.name, tensor=twice, expected="each tensor once", found="in two parts")
        names.update(tensor.name for tensor in weights.tensors)
        if number > 1:
            yield from _check_later(file, weights, members[0][2].metadata)
    said_count = members[0][2].metadata.get(TENSORS)
    there = sum(len(weights.tensors) for _, _, weights in members)
    if len(members) == total and said_count != there:
        yield rules.SPLIT.finding(
            members[0][1].name, expected=f"{said_count} tensors in all parts", found=f"{there} tensors"
        )
