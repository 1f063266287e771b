"""The JSON documents besides config.json that programs parse as they load a model: whether they can.

https://huggingface.co/docs/transformers (tokenizers, image processors, generation)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from formats.adapter import CONFIG, WEIGHTS
from formats.code import MAX_VALUES
from formats.document import MAX_CONFIG, TWICE, count_values, kind_of, parse_json
from formats.findings import Finding
from formats.rules import model as rules
from formats.snapshot import ModelFile, Snapshot

MAX_PARSED = 1 << 20
"""Bytes of a document that is parsed; of a larger one, as tokenizers of large vocabularies are, the ends are seen.

Configurations are parsed up to `MAX_CONFIG`, unless they have more values than any that is looked into.
"""

_NAMES = frozenset(
    (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
        *("preprocessor_config.json", "processor_config.json", "config.json", "adapter_config.json"),
    )
)
_OWN = frozenset(("config.json", "adapter_config.json"))
"""Those at the top of a model, which are left to who compares them with the weights."""

_CONFIGS = ("config.json", "chat_template.json")
"""Ends of the names of documents that may name code, or hold a program: they are parsed however large they are."""

_ENDS = 4096
_START = re.compile(rb'\s*\{\s*["}]')


def check_documents(snapshot: Snapshot) -> Iterator[Finding]:
    """Documents, in any folder, that are no JSON objects, or in which a name stands twice, or that an adapter lacks."""
    if (weights := snapshot.get(WEIGHTS)) and not snapshot.get(CONFIG):
        yield rules.ADAPTER_ALONE.finding(weights.name, expected=CONFIG, found="no such file")
    for file in snapshot.files:
        if file.name not in _OWN:
            found = _found(file, file.name.removeprefix(file.folder))
            if found:
                yield rules.CONFIG_JSON.finding(file.name, expected="a JSON object", found=found)


def _found(file: ModelFile, name: str) -> str:
    """What is wrong with a document of this name, if anything."""
    is_config = name.endswith(_CONFIGS)
    if not is_config and name not in _NAMES:
        return ""
    if is_config and file.size > MAX_CONFIG:
        return ""  # too large for a configuration, which is told where code is looked for
    raw = _read(file) if is_config or file.size <= MAX_PARSED else b""
    if (not raw and file.size) or count_values(raw) > MAX_VALUES:
        return _ends(file) if name in _NAMES else ""
    document, error = parse_json(raw, MAX_VALUES)
    wrong = error or ("" if isinstance(document, dict) else kind_of(document))
    return wrong if name in _NAMES or error.startswith(TWICE) else ""


def _read(file: ModelFile) -> bytes:
    with file.open() as stream:
        return stream.read(MAX_CONFIG)


def _ends(file: ModelFile) -> str:
    """What the file begins and ends with if that is not how an object does."""
    with file.open() as stream:
        first = stream.read(_ENDS)
        stream.seek(max(file.size - _ENDS, 0))
        last = stream.read(_ENDS).rstrip()
    whole = _START.match(first) and last.endswith(b"}")
    return "" if whole else f"{_text(first[:30])} to {_text(last[-30:])}"


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
