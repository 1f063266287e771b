"""Code that comes with a model: what its configuration imports, files that run, and chat templates.

Python and shared libraries count as code, since loaders of models run them (`.py .pyc .so .pyd .dll .dylib`). Shell
scripts and notebooks do not: no loader runs them, and models ship them as documentation.
https://huggingface.co/docs/transformers/custom_models
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from formats.document import MAX_CONFIG, count_values
from formats.findings import Finding, Rule
from formats.rules import code as rules
from formats.snapshot import ModelFile, Snapshot
from formats.template import MAX_TEMPLATE, MAX_TEMPLATES, Fault, judge

MAX_VALUES = 120_000
"""Values in a configuration that is parsed; a large tokenizer's has less than half of that."""

_MAX_BYTES = 4 * MAX_TEMPLATE
_MAX_FINDINGS = 20
_FILE = re.compile(r".*\.(py|pyc|pyd|dll|dylib|so(\.\d+)*)", re.IGNORECASE | re.DOTALL)
_KEYS = re.compile(rb"auto_map|custom_pipelines|chat_template|\\u00")
_FAULTS = {
    Fault.SYNTAX: rules.TEMPLATE_SYNTAX,
    Fault.UNSAFE: rules.TEMPLATE_UNSAFE,
    Fault.ENDLESS: rules.TEMPLATE_ENDLESS,
}
_NO_CODE = "no code of its own"


def find_code(snapshot: Snapshot, templates: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Everything in a model that runs as code, or makes something else run; every rule begins with `code-`.

    `templates` are chat templates that are kept elsewhere, such as in GGUF metadata, by the name of the file that holds
    each. Configurations that are no JSON are passed over. Takes a child process if there is a template at all.
    """
    found = [((name, ""), text) for name, text in (templates or {}).items()]
    for file in snapshot.files:
        if _FILE.fullmatch(file.name):
            yield rules.FILE.finding(file.name, expected=_NO_CODE, found=f"{file.size} bytes")
        elif file.suffix == ".jinja":
            text = _template(file)
            if isinstance(text, str):
                found.append(((file.name, ""), text))
            else:
                yield text
        elif file.name.endswith(("config.json", "chat_template.json")):
            document, finding = _document(file)
            if finding:
                yield finding
            yield from islice(_imports(file, document), _MAX_FINDINGS)
            kept = islice(_templates(document), MAX_TEMPLATES + 1)
            found.extend(((file.name, key), text) for key, text in kept)
    yield from _judged(found)


def _template(file: ModelFile) -> str | Finding:
    """The text of a file, or why there is none."""
    if file.size > _MAX_BYTES:
        return rules.TEMPLATE_ENDLESS.finding(
            file.name, expected=f"at most {_MAX_BYTES} bytes", found=f"{file.size} bytes"
        )
    try:
        with file.open() as stream:
            return stream.read(_MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        return rules.TEMPLATE_SYNTAX.finding(file.name, expected="UTF-8", found=str(error))


def _document(file: ModelFile) -> tuple[dict[str, Any], Finding | None]:
    """The JSON object in a file if anything in it could matter here."""
    if file.size > MAX_CONFIG:
        return {}, rules.UNREAD.finding(file.name, expected=f"at most {MAX_CONFIG} bytes", found=f"{file.size} bytes")
    with file.open() as stream:
        data = stream.read(MAX_CONFIG)
    if not _KEYS.search(data):
        return {}, None
    values = count_values(data)
    if values > MAX_VALUES:
        return {}, rules.UNREAD.finding(file.name, expected=f"at most {MAX_VALUES} values", found=f"some {values}")
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        return {}, None
    return document if isinstance(document, dict) else {}, None


def _imports(file: ModelFile, document: dict[str, Any]) -> Iterator[Finding]:
    """What a configuration, or one inside it, imports."""
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, rule in _RULES.items():
                if value.get(key):
                    yield rule.finding(file.name, expected=_NO_CODE, found=_classes(value[key]))
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


_RULES: dict[str, Rule] = {"auto_map": rules.AUTO_MAP, "custom_pipelines": rules.PIPELINES}


def _classes(named: object) -> str:
    """What is named, and from where: `AutoModel: modeling.Model; AutoTokenizer: tok.Slow from the repository a/b`."""
    if not isinstance(named, dict):
        return str(named)[:300]
    return "; ".join(f"{key}: {_sources(value)}" for key, value in list(named.items())[:20])


def _sources(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("impl")
    names = [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]
    split = [name.rpartition("--") for name in names[:5]]
    return ", ".join(f"{name} from the repository {where}" if where else name for where, _, name in split)


def _templates(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The chat templates of a configuration: one text, a map of names to texts, or a list of both in objects."""
    match document.get("chat_template"):
        case str(text):
            yield "", text
        case dict(named):
            yield from ((str(name), text) for name, text in named.items() if isinstance(text, str))
        case list(entries):
            objects = [entry for entry in entries if isinstance(entry, dict)]
            texts = [(str(entry.get("name", "")), entry.get("template")) for entry in objects]
            yield from ((name, text) for name, text in texts if isinstance(text, str))


def _judged(found: list[tuple[tuple[str, str], str]]) -> Iterator[Finding]:
    distinct = list(dict.fromkeys(text for _, text in found))
    verdicts = dict(zip(distinct, judge(distinct), strict=True))
    for (name, key), text in found:
        fault, detail = verdicts[text]
        if fault:
            yield _FAULTS[fault].finding(name, found=f"template {key!r}: {detail}" if key else detail)
