"""YAML and short texts from outside, bounded."""

from __future__ import annotations

from typing import Any

import yaml

MAX_SHORT = 1000
"""Characters of a name, a licence or an architecture that are kept."""


class _Plain(yaml.SafeLoader):
    """No aliases: eleven lines of merged ones take hours and all memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported")
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> object:
    """The document in `text`; `ValueError` for whatever is wrong with it."""
    try:
        return yaml.load(text, _Plain)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def short_text(value: object) -> str:
    """A text, or the first of a list of them, on one line that is safe to print; empty for anything else."""
    if isinstance(value, list):
        value = value[0] if value else ""
    return printable(value.strip()[:MAX_SHORT]) if isinstance(value, str) else ""


def printable(text: str) -> str:
    """`text` without control characters, escape sequences or lone surrogates."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
