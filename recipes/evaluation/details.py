"""What a report shows beyond the scorecard: where it hurts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NOTHING: Floats = np.empty(0)


@dataclass(frozen=True)
class Passage:
    """A passage of the text, token by token: what each stands for, and how far the candidate is from the baseline in
    predicting it, in nats. The first token is predicted by nobody: its divergence is 0.
    """

    pieces: tuple[str, ...]
    divergence: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean divergence of its predicted tokens."""
        return sum(self.divergence) / max(len(self.divergence) - 1, 1)


@dataclass(frozen=True)
class WeightError:
    """How far the weights of one module are from what they were: the norm of the difference over that of the original
    (Frobenius), and the scheme by which it was quantized.
    """

    module: str
    scheme: str
    error: float


@dataclass(frozen=True)
class Item:
    """An item of a task that only one of the two models answers rightly: what was asked, and what each scored."""

    task: str
    question: str
    target: str
    baseline: float
    candidate: float


@dataclass(frozen=True)
class Size:
    """A model before or after: bytes of its weight files, each file's, and the memory that evaluating it took."""

    files: tuple[tuple[str, int], ...]
    memory: int


@dataclass(frozen=True)
class Details:
    """Of a fidelity suite `divergence` is every scored token's, `agreement` the share of agreement at each position of
    a passage, and `passages` are the worst ones, the worst first. Of tasks `items` are those that flipped. `weights`
    are in the order of the model's modules. `curve` is the retention's interval after each look: samples, low,
    estimate, high, of the gated metric that was the worst at the end.
    """

    before: Size
    after: Size
    divergence: Floats = field(default_factory=lambda: _NOTHING)
    agreement: Floats = field(default_factory=lambda: _NOTHING)
    passages: tuple[Passage, ...] = ()
    items: tuple[Item, ...] = ()
    weights: tuple[WeightError, ...] = ()
    curve: tuple[tuple[int, float, float, float], ...] = ()
