"""Rounds of measuring: the baseline first, then the candidate, until it is known what the candidate is worth.

One model is in memory at a time. Each round goes twice as far as the one before, so that few rounds suffice, and little
is measured of the baseline that nobody needs. Whatever is whole in the folders of an earlier run is taken as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from recipes.child import Overdue, run_child
from recipes.evaluation.details import Details, Size
from recipes.evaluation.report import words
from recipes.evaluation.scorecard import Divergence, Gate, Metric, Verdict
from recipes.evaluation.series import Series, decide, metrics
from recipes.task import Step, Task, Tell
from registry.errors import ModelError

LATE = "time is up"
"""Why an evaluation stopped that would have gone on."""


class Reader(Protocol):
    """Reads what runs left, one unit after the other: passages, or files of items."""

    unit: str

    @property
    def units(self) -> int:
        """Units that have been read."""

    @property
    def items(self) -> int:
        """What is in them, counted in `unit`s."""

    @property
    def failures(self) -> tuple[str, ...]:
        """What counts as lost."""

    def read(self) -> bool:
        """Read the next unit, if it is there."""

    def series(self) -> list[Series]:
        """The measures so far."""

    @property
    def tokens(self) -> int:
        """Tokens that were scored, if that is what is scored."""

    def divergence(self, confidence: float) -> Divergence | None:
        """How far the distributions are apart, where these are known."""

    def details(self, before: Size, after: Size) -> Details:
        """Where it hurts."""


@dataclass
class Side:
    """One of the two models as it is run: which it is, how, in which folder, and the memory that it took at most, in
    bytes.

    Of one that `is_known` what children note has been told.
    """

    name: str
    task: Task
    path: Callable[[Path, int], Path]
    memory: int = 0
    is_known: bool = False

    def whole(self, last: int) -> int:
        """How many of the first `last` units have been measured, with no gap."""
        return next((at for at in range(last) if not self.path(self.task.target, at).exists()), last)


class _Enough(Exception):  # noqa: N818 - it is none
    """What was asked for is known, or time is up."""


@dataclass
class Rounds:
    """One evaluation as it goes on. `units` are those that may be used, `least` those without which nothing is known.

    `curve` has the samples, and the gated metrics, of each look.
    """

    baseline: Side
    candidate: Side
    reader: Reader
    gate: Gate
    units: int
    least: int
    environment: Mapping[str, str]
    tell: Tell
    began: float
    crash: str = ""
    verdict: Verdict = Verdict.UNDECIDED
    curve: list[tuple[int, tuple[Metric, ...]]] = field(default_factory=list)

    def run(self) -> str:
        """Measure until the verdict is known, all units are used, or the budget of time is; says which.

        The baseline gets half of what time is left at most, or all of it were for nothing.
        """
        self._look()
        last = min(max(self.least, self.reader.units), self.units)
        while not (self._is_decided() or self.reader.units >= self.units or self._is_over()):
            last = min(2 * last, self.units) if self.reader.units >= last else last
            self._measure(self.baseline, last, lambda: False, self._left() / 2)
            self._measure_candidate(last)
        return self._why()

    def _why(self) -> str:
        if self.crash:
            return "the candidate failed"
        if self._is_decided():
            return "the verdict is known"
        return f"all {self.reader.items} {self.reader.unit} are used" if self.reader.units >= self.units else LATE

    def _measure_candidate(self, last: int) -> None:
        """What the candidate cannot do is lost; what the machine cannot is an error that nobody catches here."""
        try:
            self._measure(self.candidate, self.baseline.whole(last), self._is_enough, self._left())
        except ModelError as error:
            self._look()  # what was whole before counts, however fast anybody looked
            if not self._is_decided():
                self.crash = f"it cannot be run: {error.what}" + (f" ({error.found})" if error.found else "")
        self._look()

    def _measure(self, side: Side, last: int, is_enough: Callable[[], bool], seconds: float) -> None:
        """Have units measured up to `last`, by a child that is ended when that is enough, or these seconds are over; by
        none if all are there.
        """
        if side.whole(last) == last:
            return

        late = time.monotonic() + seconds

        def told(what: Step | str) -> None:
            if isinstance(what, Step):
                side.memory = max(side.memory, what.device or what.host)
                left = max(late - time.monotonic(), 0.0)
                what = replace(what, name=self._in_words(last), part=side.name, seconds=left)
            elif side.is_known:  # the same note again, from another child
                return
            else:
                what = f"{side.name}: {what}"
            self.tell(what)
            if is_enough():
                raise _Enough

        task = with_settings(side.task, first=0, last=last)
        try:
            answer = run_child(task, self.environment, told, seconds)
        except (_Enough, Overdue):
            return
        finally:
            side.is_known = True
        side.memory = max(side.memory, answer.device or answer.host)

    def _look(self) -> None:
        """Read what is new, unit by unit, as far as the verdict is not known: so the end is the same at any speed."""
        while not self._is_decided() and self.reader.read():
            if self.reader.failures:
                self.verdict = Verdict.LOST
            elif self.reader.units >= self.least:
                found = metrics(self.reader.series(), self.gate)
                self.verdict = decide(found, ())
                self.curve.append((self.reader.items, tuple(one for one in found if one.is_gated)))

    def _is_decided(self) -> bool:
        return bool(self.crash) or self.verdict is not Verdict.UNDECIDED

    def _is_enough(self) -> bool:
        try:
            self._look()
        except ModelError:  # no fault of the child's; whoever looks when it has ended meets it again
            return True
        return self._is_decided() or self._is_over()

    def _is_over(self) -> bool:
        return self._left() <= 0

    def _left(self) -> float:
        """Seconds of the budget that are left."""
        return self.began + self.gate.budget - time.monotonic()

    def _in_words(self, last: int) -> str:
        """What is known so far; where that is nothing, whether this round is the last."""
        if not self.curve:
            return "more if these do not decide" if last < self.units else ""
        worst = min(self.curve[-1][1], key=lambda one: one.retention.low)
        digits = words.digits(worst.retention, self.gate.retain)
        keeps, ends = words.percent(worst.retention.estimate, digits), words.between(worst.retention, digits)
        return f"{worst.name} keeps {keeps} ({ends})".replace("\u00a0", " ")


def with_settings(task: Task, **more: Any) -> Task:
    """The task with more settings."""
    return replace(task, settings={**task.settings, **more})
