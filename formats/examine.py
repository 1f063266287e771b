"""Examining a snapshot: every header read, every rule asked, every finding kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from formats import gguf, onnx, safetensors
from formats.adapter import CONFIG as ADAPTER
from formats.adapter import Adapter, check_adapter, parse_adapter
from formats.card import Card, read_card
from formats.code import find_code
from formats.config import CONFIG, check_config
from formats.document import read_json
from formats.findings import Finding, RejectedError, Rule, errors
from formats.gguf_check import check_parts
from formats.index import check_shards
from formats.loading import check_documents
from formats.pickle import find_pickle
from formats.rules import model as rules
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, WeightFile

FORMATS = {".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx"}
"""Extension to weight format; where a model has several, the first of these is the model's."""

READERS = 8
"""Files whose headers are read at the same time: over a network each costs some round trips."""


@dataclass(frozen=True)
class Report:
    """What was found in a snapshot. `read` holds every weight file that could be read; `card` needs one at least."""

    snapshot: Snapshot
    read: Mapping[ModelFile, WeightFile]
    card: Card | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing refuses the model."""
        return not errors(self.findings)

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Of all weight files, in order."""
        return tuple(tensor for weights in self.read.values() for tensor in weights.tensors)


def graphs_of(read: Mapping[ModelFile, WeightFile]) -> dict[str, Mapping[str, Any]]:
    """The metadata of each ONNX file: `ir_version`, `opsets`, `inputs`, `outputs` and more."""
    return {file.name: weights.metadata for file, weights in read.items() if FORMATS[file.suffix] == "onnx"}


def examine(snapshot: Snapshot, *, allow_code: bool = False) -> Report:
    """Read the headers of all weight files, look into every other file, and ask every rule.

    Code that comes with the model is always told; it refuses the model unless `allow_code`. Raises only what comes from
    below: a file or a server that fails.
    """
    results = _read_headers(snapshot)
    read = {file: result for file, result in results.items() if isinstance(result, WeightFile)}
    config, broken_config = _document(snapshot, CONFIG, rules.CONFIG_JSON)
    lora, broken_lora = _adapter(snapshot)
    shards = tuple(check_shards(read, snapshot))
    # what is not there cannot be compared: a missing shard would be a missing layer too
    whole = read if len(read) == len(results) and not errors(shards) else {}
    pickles = _pickles(snapshot, read)
    findings = (
        *pickles,
        *([] if results or pickles else [_no_weights(snapshot)]),
        *(finding for result in results.values() for finding in result.findings),
        *shards,
        *check_parts(read),
        *broken_config,
        *broken_lora,
        *check_documents(snapshot),
        *_against_config(config, lora, whole),
        *_code(snapshot, read, allow_code=allow_code),
    )
    return Report(snapshot, read, _card(snapshot, read, config, lora), findings)


def _no_weights(snapshot: Snapshot) -> Finding:
    names = ", ".join(file.name for file in snapshot.files[:8]) or "no files"
    return rules.NO_WEIGHTS.finding("", expected=" or ".join(FORMATS), found=names)


def _read_headers(snapshot: Snapshot) -> dict[ModelFile, WeightFile | RejectedError]:
    files = [file for file in snapshot.files if file.suffix in FORMATS]
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(files, pool.map(lambda file: _read(file, snapshot), files), strict=True))


def _read(file: ModelFile, snapshot: Snapshot) -> WeightFile | RejectedError:
    try:
        match FORMATS[file.suffix]:
            case "safetensors":
                return safetensors.read(file)
            case "gguf":
                return gguf.read(file)
            case _:
                return onnx.read(file, snapshot)
    except RejectedError as error:
        return error


def _pickles(snapshot: Snapshot, read: Mapping[ModelFile, WeightFile]) -> list[Finding]:
    """In every file that is not known to be something else; the data of a weight file is known by that file."""
    data = {tensor.file for weights in read.values() for tensor in weights.tensors}
    files = [file for file in snapshot.files if file not in read]
    with ThreadPoolExecutor(READERS) as pool:
        return [finding for finding in pool.map(lambda file: find_pickle(file, data), files) if finding]


def _code(snapshot: Snapshot, read: Mapping[ModelFile, WeightFile], *, allow_code: bool) -> Iterator[Finding]:
    texts = {file.name: weights.metadata.get("tokenizer.chat_template") for file, weights in read.items()}
    templates: dict[str, str] = {name: text for name, text in texts.items() if isinstance(text, str)}
    for finding in find_code(snapshot, templates):
        yield finding.allowed() if allow_code else finding


def _document(snapshot: Snapshot, name: str, rule: Rule) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """A JSON document of the model, and what is wrong with it; empty if it is not there."""
    file = snapshot.get(name)
    try:
        return (read_json(file, rule) if file else {}), ()
    except RejectedError as error:
        return {}, error.findings


def _adapter(snapshot: Snapshot) -> tuple[Adapter | None, tuple[Finding, ...]]:
    config, broken = _document(snapshot, ADAPTER, rules.ADAPTER_CONFIG)
    try:
        return (parse_adapter(config) if config else None), broken
    except RejectedError as error:
        return None, error.findings


def _against_config(
    config: Mapping[str, Any], lora: Adapter | None, read: Mapping[ModelFile, WeightFile]
) -> Iterator[Finding]:
    """The tensors beside the configs, which are those of one model."""
    tensors = {
        tensor.name: tensor
        for file, weights in read.items()
        if FORMATS[file.suffix] == "safetensors" and "/" not in file.name
        for tensor in weights.tensors
    }
    if lora and tensors:
        yield from check_adapter(lora, tensors)
    elif tensors:
        yield from check_config(config, tensors)


def _card(
    snapshot: Snapshot, read: Mapping[ModelFile, WeightFile], config: Mapping[str, Any], lora: Adapter | None
) -> Card | None:
    if not read:
        return None
    main = min((FORMATS[file.suffix] for file in read), key=list(FORMATS.values()).index)
    own = [weights for file, weights in read.items() if FORMATS[file.suffix] == main]
    tensors = (tensor for weights in own for tensor in weights.tensors)
    metadata = {key: value for weights in reversed(own) for key, value in weights.metadata.items()}
    return read_card(snapshot, main, tensors, metadata, config, lora.base if lora else "")
