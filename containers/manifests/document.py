"""A document with what is said about it, and files of several in YAML."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Document:
    """One object of Kubernetes; `notes`, paragraphs with an empty line between them, stand above it as comments."""

    body: dict[str, Any]
    notes: str = ""


@dataclass(frozen=True)
class Manifests:
    """The documents of one mode, in the order in which they are applied.

    `requires` says which versions of what they need; `kubernetes` is the oldest minor version that takes them.
    """

    documents: tuple[Document, ...]
    requires: tuple[str, ...]
    kubernetes: int


WIDTH = 116
"""Characters of a comment's line."""


class _Dumper(yaml.SafeDumper):
    """No anchors, lists indented below their names, texts of several lines as such."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_NUMBER = re.compile(r"[-+.]?[0-9][0-9a-fA-FoOxX_.+-]*")
"""What some reader of YAML takes for a number where PyYAML does not: `1e3` is one in YAML 1.2, and in Kubernetes."""


_Dumper.add_representer(str, _text)


def render(head: Sequence[str], documents: Iterable[Document]) -> str:
    """A file of YAML: `head` as comments, then each document below its own."""
    parts = [_comments(head)]
    for document in documents:
        notes = _comments(filter(None, document.notes.split("\n\n")))
        body = yaml.dump(document.body, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
        parts.append(f"{notes}{body}")
    return "---\n".join(parts)


def _comments(paragraphs: Iterable[str]) -> str:
    return "#\n".join("".join(f"{line}\n" for line in _comment(paragraph)) for paragraph in paragraphs)


def _comment(paragraph: str) -> Iterator[str]:
    """Lines that begin with `#`; those that are indented, as arithmetic is, stay as they are."""
    if paragraph.startswith("  "):
        yield from (f"# {line}" for line in paragraph.split("\n"))
        return
    words = " ".join(paragraph.split())
    for line in textwrap.wrap(words, WIDTH, break_long_words=False, break_on_hyphens=False):
        yield f"# {line}"
