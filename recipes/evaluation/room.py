"""The disk that an evaluation takes, told before anything is measured."""

from __future__ import annotations

from typing import Any

from formats.checkpoint import Checkpoint
from recipes.evaluation.suite import Kind, Suite
from recipes.fit import model_config

_FLOAT = 4
"""Bytes of a number in a trace, at most."""

_NUMBERS = 6 * 8
"""Bytes of what is measured of a candidate's token."""

_EMBEDDING = "token_embd.weight"
"""The tensor of a GGUF that has a row for each token."""


def room(baseline: Checkpoint, suite: Suite, samples: int) -> int:
    """About how many bytes measuring so many samples takes at most: the traces of the baseline, its last layer, and the
    numbers of a candidate. Answers to tasks take next to nothing.
    """
    if suite.kind is Kind.TASKS or not samples:
        return 0
    states, head = _of_baseline(baseline)
    return samples * suite.window * (states + _NUMBERS) + head


def _of_baseline(baseline: Checkpoint) -> tuple[int, int]:
    """Bytes of the trace of a token, and of the last layer: llama.cpp shows no states, but logits alone."""
    if baseline.card.format == "gguf":
        rows = (tensor.shape[0] for tensor in baseline.tensors if tensor.name == _EMBEDDING)
        return _FLOAT * next(rows, 0), 0
    config = model_config(baseline)
    hidden, words = (_size(config, key) for key in ("hidden_size", "vocab_size"))
    return _FLOAT * hidden, _FLOAT * hidden * words


def _size(config: dict[str, Any], key: str) -> int:
    """A size of a language model, or of that in a model of several parts; 0 if it is not told."""
    inner = config.get("text_config")
    value = config.get(key) or (inner.get(key) if isinstance(inner, dict) else 0)
    return value if isinstance(value, int) and value > 0 else 0
