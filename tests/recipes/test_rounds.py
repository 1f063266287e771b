"""The rounds of an evaluation, with children whose end is known to the unit: no real one can be made to fail there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.child import Answer, Overdue
from recipes.evaluation import rounds as module
from recipes.evaluation.answers import Answers
from recipes.evaluation.engines.tasks import results
from recipes.evaluation.rounds import LATE, Rounds, Side
from recipes.evaluation.scorecard import Gate, Verdict
from recipes.task import Done, Step, Task, Tell
from registry.errors import ModelError

ITEMS, UNITS, LEAST = 8, 30, 8
Child = Callable[[Task, int], None]
"""What happens in a child before it writes a unit."""


def item(at: int, value: float | None) -> dict[str, Any]:
    known = {"question": "?", "target": "!", "empty": False}
    return {"task": "t", "doc": at, "hash": f"{at}", "metrics": {"acc": value}, **known}


class Children:
    """In place of children: each unit has items of one value, and something may happen before one is written."""

    def __init__(self, before: Child, value: Callable[[Task, int], float | None], *, speaks: bool = True) -> None:
        self.before, self.value, self.speaks = before, value, speaks
        self.limits: list[tuple[str, float]] = []

    def __call__(self, task: Task, environment: Any, tell: Tell, seconds: float) -> Answer:
        self.limits.append((task.target.name, seconds))
        for unit in range(task.settings["first"], task.settings["last"]):
            if not results(task.target, unit).exists():
                self.before(task, unit)
                rows = [item(ITEMS * unit + at, self.value(task, unit)) for at in range(ITEMS)]
                results(task.target, unit).write_text(json.dumps(rows))
                if self.speaks:
                    tell(Step(unit + 1, task.settings["last"], "items", ""))
        return Answer(Done({}, ()), 1.0, 0, 0, 0, "cpu")


def rounds(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: Children,
    budget: float = 1000.0,
    told: list[Any] | None = None,
) -> Rounds:
    told = [] if told is None else told
    monkeypatch.setattr(module, "run_child", children)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    before, after = folder / "baseline", folder / "candidate"
    for place in (before, after):
        place.mkdir(exist_ok=True)
    sides = [Side(place.name, Task("tasks", {}, folder, place, ()), results) for place in (before, after)]
    reader = Answers(before, after, {"t": "acc"})
    return Rounds(
        sides[0],
        sides[1],
        reader,
        Gate(retain=0.9, budget=budget),
        UNITS,
        LEAST,
        {},
        told.append,
        0.0,
    )


def nothing(task: Task, unit: int) -> None:
    """Nothing happens."""


def right(task: Task, unit: int) -> float:
    return 1.0


def test_what_is_wrong_with_the_baseline_is_not_the_candidates_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value(task: Task, unit: int) -> float | None:
        return None if task.target.name == "baseline" and unit == 2 else 1.0

    one = rounds(tmp_path, monkeypatch, Children(nothing, value))
    with pytest.raises(ModelError, match="the baseline's answer has no number"):
        one.run()
    assert not one.crash


def crashing(at: int) -> Child:
    def crash(task: Task, unit: int) -> None:
        if task.target.name == "candidate" and unit == at:
            raise ModelError("it fails", found="here")

    return crash


@pytest.mark.parametrize("speaks", [True, False])
def test_a_crash_counts_as_lost_and_what_was_whole_before_counts_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, speaks: bool
) -> None:
    """However fast one looked at what the child had written: so run again it is the same."""
    early, late = tmp_path / "early", tmp_path / "late"
    early.mkdir()
    one = rounds(early, monkeypatch, Children(crashing(3), right, speaks=speaks))
    assert one.run() == "the candidate failed"
    assert "it fails (here)" in one.crash
    late.mkdir()
    for _ in range(2):
        one = rounds(late, monkeypatch, Children(crashing(12), right, speaks=speaks))
        assert one.run() == "the verdict is known"
        assert (one.verdict, one.crash) == (Verdict.RETAINED, "")


def test_children_have_what_is_left_of_the_time_and_the_baseline_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(nothing, right)
    rounds(tmp_path, monkeypatch, children, budget=100.0).run()
    assert children.limits == [("baseline", 50.0), ("candidate", 100.0)]


def test_a_child_that_is_overdue_leaves_it_undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(task: Task, unit: int) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: 2000.0)
        raise Overdue

    one = rounds(tmp_path, monkeypatch, Children(hang, right))
    assert (one.run(), one.verdict) == (LATE, Verdict.UNDECIDED)


def test_what_is_told_says_of_which_model_in_which_time_and_what_may_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both as far as the round goes: 8 of 30 units, since these may suffice."""
    told: list[Any] = []
    rounds(tmp_path, monkeypatch, Children(nothing, right), budget=100.0, told=told).run()
    steps = [one for one in told if isinstance(one, Step)]
    assert {(one.part, one.total, one.seconds) for one in steps} == {
        ("baseline", LEAST, 50.0),
        ("candidate", LEAST, 100.0),
    }
    assert {one.name for one in steps} == {"more if these do not decide"}
