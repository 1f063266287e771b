"""Workflows as YAML that people read: a word beside what needs one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from containers.dumper import to_yaml


def workflow_yaml(document: Mapping[str, Any], comments: Mapping[str, str], head: str) -> str:
    """A GitHub workflow as text: a blank line between its parts and between steps, `comments` behind the lines that
    are the same as their keys, and `head` above it all.

    `on` is written as GitHub's own documentation does; YAML 1.1 would have it in quotes, and YAML 1.2 reads both.
    """
    parts = [to_yaml({key: value}) for key, value in document.items()]
    text = "\n".join(re.sub(r"^'on':", "on:", part) for part in parts)
    text = re.sub(r"(?<!steps:)\n( *- name:)", r"\n\n\1", text)
    lines = [f"{line}  # {said}" if (said := comments.get(_bare(line))) else line for line in text.split("\n")]
    return f"# {head}\n\n" + "\n".join(lines)


def _bare(line: str) -> str:
    return line.strip().removeprefix("- ")
