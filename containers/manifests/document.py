"""A document with what is said about it, and files of several in YAML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from containers.dumper import to_yaml


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


def render(head: Sequence[str], documents: Iterable[Document]) -> str:
    """A file of YAML: `head` as comments, then each document below its own."""
    parts = [_comments(head)]
    for document in documents:
        notes = _comments(filter(None, document.notes.split("\n\n")))
        parts.append(f"{notes}{to_yaml(document.body)}")
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
