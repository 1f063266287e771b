"""YAML that people read and every reader reads alike: PyYAML, GitHub, and go-yaml, by which Kubernetes reads."""

from __future__ import annotations

import re
from typing import Any

import yaml


def to_yaml(document: Any) -> str:
    """A document as text: keys in their order, lists indented, texts of several lines as blocks, no line folded.

    A text that some reader would take for a number, a boolean or nothing stands in quotes.
    """
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True)


_WIDTH = 1 << 20


class _Dumper(yaml.SafeDumper):
    """No anchors, lists indented below their names."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _OTHER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_OTHER = re.compile(r"[-+]?\.?[0-9][0-9a-fA-FoOxX_.+-]*|[yYnN]")
"""Texts that other readers take for something else, and PyYAML does not: `1e3` is a number in YAML 1.2, and `y` a
boolean in YAML 1.1 (https://yaml.org/type/bool.html)."""

_Dumper.add_representer(str, _text)
