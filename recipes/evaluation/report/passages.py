"""The worst passages, token by token, each shaded by how much it diverges among the tokens around it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from recipes.evaluation.details import Passage
from recipes.evaluation.report import words
from recipes.evaluation.report.plots import NOTHING

LEVELS = (1.5, 3.0, 6.0, 12.0)
"""Times the mean of its passage from which on a token has the next darker shade. Most tokens of a passage have none,
whether the models are far from each other or near.
"""

MAX_WORST = 3
"""Tokens of a passage that are named."""

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
    """A passage as it is shown: how bad it is, its worst tokens, its tokens, and how many more it has."""

    mean: str
    worst: tuple[Token, ...]
    tokens: tuple[Token, ...]
    more: int


def shown(passages: tuple[Passage, ...]) -> Iterator[Shown]:
    """The first passages that diverge at all, each from its beginning."""
    diverging = [one for one in passages if not all(value < NOTHING for value in one.divergence)]
    for passage in diverging[:MAX_PASSAGES]:
        mean = max(_mean(passage), NOTHING)
        tokens = [_token(*pair, mean) for pair in zip(passage.pieces, passage.divergence, strict=False)]
        order = sorted(range(len(tokens)), key=lambda at: -_rank(passage.divergence[at]))
        yield Shown(
            mean=words.nats(mean),
            worst=tuple(tokens[at] for at in order[:MAX_WORST] if tokens[at].level),
            tokens=tuple(tokens[:MAX_TOKENS]),
            more=max(len(tokens) - MAX_TOKENS, 0),
        )


def _mean(passage: Passage) -> float:
    """The mean divergence of its tokens that have a finite one."""
    return replace(passage, divergence=tuple(filter(math.isfinite, passage.divergence))).mean


def _rank(divergence: float) -> float:
    return math.inf if math.isnan(divergence) else divergence


def _token(piece: str, divergence: float, mean: float) -> Token:
    level = len(LEVELS) if math.isnan(divergence) else bisect_right([level * mean for level in LEVELS], divergence)
    text = piece.lstrip(" ") or piece
    return Token(piece[: len(piece) - len(text)][:MAX_PIECE], _piece(text), level, words.nats(divergence))


def _piece(piece: str) -> str:
    """A piece with its line breaks, each of which is also seen."""
    lines = piece[:MAX_PIECE].replace("\r\n", "\n").split("\n")
    return "↵\n".join(words.visible(line, 2 * MAX_PIECE) for line in lines) + ("…" if len(piece) > MAX_PIECE else "")
