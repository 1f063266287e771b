"""The worst passages, token by token, each shaded by its divergence."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from recipes.evaluation.details import Passage
from recipes.evaluation.report import words

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Nats from which on a token has the next darker shade: the same on every page, so that pages can be compared."""

MAX_PASSAGES = 6
MAX_TOKENS = 300
MAX_PIECE = 40


@dataclass(frozen=True)
class Token:
    """The space before it, what it stands for, its shade (0 is none), and its divergence in words."""

    space: str
    piece: str
    level: int
    divergence: str


@dataclass(frozen=True)
class Shown:
    """A passage as it is shown: how bad it is, its tokens, and how many more it has."""

    mean: str
    most: str
    tokens: tuple[Token, ...]
    more: int


def shown(passages: tuple[Passage, ...]) -> Iterator[Shown]:
    """The first passages, each from its beginning."""
    for passage in passages[:MAX_PASSAGES]:
        pairs = tuple(zip(passage.pieces, passage.divergence, strict=False))
        yield Shown(
            mean=words.nats(passage.mean),
            most=words.nats(max(passage.divergence, default=0.0)),
            tokens=tuple(_token(*pair) for pair in pairs[:MAX_TOKENS]),
            more=max(len(pairs) - MAX_TOKENS, 0),
        )


def _token(piece: str, divergence: float) -> Token:
    level = len(LEVELS) if math.isnan(divergence) else bisect_right(LEVELS, divergence)
    text = piece.lstrip(" ") or piece
    return Token(piece[: len(piece) - len(text)][:MAX_PIECE], _piece(text), level, words.nats(divergence))


def _piece(piece: str) -> str:
    """A piece with its line breaks, each of which is also seen."""
    lines = piece[:MAX_PIECE].replace("\r\n", "\n").split("\n")
    return "↵\n".join(words.visible(line, 2 * MAX_PIECE) for line in lines) + ("…" if len(piece) > MAX_PIECE else "")
