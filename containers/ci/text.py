"""Documents as YAML that people read: keys in their order, scripts as blocks, a word beside what needs one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

WIDTH = 1000
"""Letters of a line before it is folded: none is."""


class _Dumper(yaml.SafeDumper):
    """Lists indented, texts of several lines as blocks, nothing said by reference."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def workflow_yaml(document: Mapping[str, Any], comments: Mapping[str, str], head: str) -> str:
    """A GitHub workflow as text: a blank line between its parts and between steps, `comments` behind the lines that
    are the same as their keys, and `head` above it all.

    `on` is written as GitHub's own documentation does; YAML 1.1 would have it in quotes, and YAML 1.2 reads both.
    """
    parts = [yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, width=WIDTH) for key, value in document.items()]
    text = "\n".join(re.sub(r"^'on':", "on:", part) for part in parts)
    text = re.sub(r"(?<!steps:)\n( *- name:)", r"\n\n\1", text)
    lines = [f"{line}  # {said}" if (said := comments.get(_bare(line))) else line for line in text.split("\n")]
    return f"# {head}\n\n" + "\n".join(lines)


def _bare(line: str) -> str:
    return line.strip().removeprefix("- ")
