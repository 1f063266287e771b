"""Calibration samples as a model is given them: tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

from jinja2 import TemplateError

from recipes.task import Task, Tell
from registry.errors import UsageError

SHORTEST = 8
"""Tokens that a sample must have: less says nothing about what passes through a model."""

FEWEST = 16
"""Samples that must be long enough, unless fewer were asked for."""


def token_rows(task: Task, tokenizer: Any, tell: Tell, what: str = "calibration samples") -> list[list[int]]:
    """The tokens of each sample of a task, cut to its `max_length`, without those that are too short.

    Messages are put in the form that the model's chat template gives them. Where it refuses them, as some do a system's
    words, they go without those; without a template their contents follow each other. `UsageError`, which calls them
    `what` they are, if too few samples are long enough.
    """
    samples = [_formed(row, tokenizer) for row in _read(task)]
    if changed := sum(1 for sample in samples if sample.is_changed):
        tell(f"the chat template refuses {changed} of {len(samples)} samples as they are: they go in a simpler form")
    rows = [tokenizer(sample.text, add_special_tokens=sample.is_plain)["input_ids"] for sample in samples]
    kept = [row[: task.max_length] for row in rows if len(row) >= SHORTEST]
    if len(kept) < min(FEWEST, max(len(rows), 1)):
        middle = f"{median(map(len, rows)):.0f}" if rows else "no"
        raise UsageError(
            f"the {what} are too short, or too few",
            expected=f"{min(FEWEST, max(len(rows), 1))} samples of {SHORTEST} tokens at least",
            found=f"{len(kept)} such among {len(rows)}; the middle one has {middle} tokens",
            hint="give longer samples, such as whole conversations or pages",
        )
    return kept


class _Sample(NamedTuple):
    """A sample as text. A plain one gets the tokenizer's special tokens: a chat template has its own."""

    text: str
    is_plain: bool
    is_changed: bool = False


def _read(task: Task) -> Iterator[Mapping[str, Any]]:
    assert task.samples
    with task.samples.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _formed(row: Mapping[str, Any], tokenizer: Any) -> _Sample:
    messages = row.get("messages")
    if not messages or not tokenizer.chat_template:
        return _Sample(_plain(row), is_plain=True)
    for said in (messages, _without_system(messages)):
        with suppress(TemplateError):
            text = tokenizer.apply_chat_template(said, tokenize=False)
            return _Sample(text, is_plain=False, is_changed=said is not messages)
    return _Sample(_plain(row), is_plain=True, is_changed=True)


def _without_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return [message for message in messages if message["role"] != "system"]


def _plain(row: Mapping[str, Any]) -> str:
    messages = row.get("messages")
    return "\n\n".join(message["content"] for message in messages) if messages else str(row["text"])
