"""Writes docs/rules.md from the rules themselves: `make docs`. A test fails if that was forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from formats.findings import Rule
from formats.rules import KINDS, rules

_HEAD = """# Rules

What `packer validate` holds a model to, made from the code by `make docs`. A rule of severity error refuses the model;
a warning is told and lets it pass. Rules about code become warnings where it is allowed (`--remote-code allow`).
"""

_TITLES = {
    "model": "The files of a model together",
    "safetensors": "safetensors",
    "gguf": "GGUF",
    "onnx": "ONNX",
    "pickle": "Pickles",
    "code": "Code that comes with a model",
    "values": "Values: those of scales, and with `--deep` all",
}


def document() -> str:
    """The whole page."""
    return "\n".join((_HEAD, *(line for kind in KINDS for line in _section(kind))))


def _section(kind: str) -> Iterator[str]:
    yield f"## {_TITLES[kind]}\n"
    for rule in rules(kind):
        yield from _entry(rule)


def _entry(rule: Rule) -> Iterator[str]:
    yield f"### {rule.id}\n"
    yield f"**{rule.severity.value.capitalize()}**: {rule.what}.\n"
    yield f"{rule.why}\n"
    yield f"- Where it is written: {rule.source}"
    yield f"- What to do: {rule.advice}\n"


if __name__ == "__main__":
    Path("docs/rules.md").write_text(document(), encoding="utf-8")
