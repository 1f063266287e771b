"""What is told of how far a child is, in words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from packer import facts as module
from packer.facts import _Steps
from packer.watch import Listener
from recipes.task import Step

if TYPE_CHECKING:
    import pytest


class Heard:
    """A listener that keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


def test_the_pace_is_that_of_the_model_that_is_measured_and_no_time_is_promised_beyond_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another model has another pace, though its samples go on behind the first one's. The clock is a double: time is
    what is tested.
    """
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    heard = Heard()
    steps = _Steps(cast(Listener, heard))

    def step(at: float, done: int, part: str, seconds: float, name: str = "") -> None:
        clock[0] = at
        steps(Step(done, 64, "passages", name, part=part, seconds=seconds))

    step(0, 31, "baseline", 600)
    step(2, 32, "baseline", 598)
    step(100, 33, "candidate", 500, "more if these do not decide")
    step(110, 34, "candidate", 490)
    step(120, 35, "candidate", 120)
    assert heard.notes == [
        "baseline: 31 of 64 passages",
        "baseline: 32 of 64 passages, about 1 min 4 s left",
        "candidate: 33 of 64 passages; more if these do not decide",
        "candidate: 34 of 64 passages, about 5 min left",
        "candidate: 35 of 64 passages, at most 2 min, when time is up, left",
    ]
