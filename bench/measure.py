"""Measuring whole processes: wall time, processor time, peak memory and files moved, several runs, medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

RUNS = 5
ROOT = Path(__file__).resolve().parents[1]
_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Cost:
    """What a process took, its children with it: medians of several runs.

    `seconds` is what the process printed, if it printed a number. `megabytes` is the resident peak, `cpu` seconds of
    processor time, `read` and `written` megabytes that went through files (sockets do not count). `said` is what the
    last run printed.
    """

    seconds: float
    megabytes: float
    cpu: float = 0.0
    read: float = 0.0
    written: float = 0.0
    said: str = ""


Attempt = Callable[[], Cost]
"""One run of something, measured."""


@dataclass(frozen=True)
class Row:
    """One comparison. `goal` says what was to be reached, in words."""

    what: str
    ours: str
    theirs: str
    ratio: str
    goal: str


def measure(command: Sequence[str | Path], before: Callable[[], object] = lambda: None, runs: int = RUNS) -> Cost:
    """The cost of a command. `before` is called before each run, and not measured."""
    return in_turn([_prepared(command, before)], runs)[0]


def alternate(
    one: Sequence[str | Path], other: Sequence[str | Path], before: Callable[[], object] = lambda: None
) -> tuple[Cost, Cost]:
    """The costs of two commands, run in turn, so that what else the machine does hits both."""
    first, second = in_turn([_prepared(one, before), _prepared(other, before)])
    return first, second


def in_turn(attempts: Sequence[Attempt], runs: int = RUNS) -> list[Cost]:
    """The cost of each attempt: one run of all, then the next."""
    rounds = [[attempt() for attempt in attempts] for _ in range(runs)]
    return [medians(costs) for costs in zip(*rounds, strict=True)]


def medians(costs: Sequence[Cost]) -> Cost:
    """The median of each."""
    numbers = ("seconds", "megabytes", "cpu", "read", "written")
    figures = {name: statistics.median(getattr(cost, name) for cost in costs) for name in numbers}
    return Cost(**figures, said=costs[-1].said)


def python(code: str, *arguments: str | Path) -> list[str | Path]:
    """A command that runs `code`, which prints the seconds that count."""
    return [sys.executable, "-c", code, *arguments]


def once(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Cost:
    """The cost of one run; `RuntimeError` with what it complained of if it fails."""
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as complaints:
        done = subprocess.run(
            [sys.executable, "-I", "-S", _LAUNCH, str(told.fileno()), *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            pass_fds=[told.fileno()],
            text=True,
            check=False,
        )
        told.seek(0)
        complaints.seek(0)
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {complaints.read()[-2000:].decode()}")
        cost = Cost(**json.loads(told.read()), said=done.stdout)
    last = (done.stdout.split() or [""])[-1]
    return replace(cost, seconds=float(last)) if _is_number(last) else cost


def _prepared(command: Sequence[str | Path], before: Callable[[], object]) -> Attempt:
    def attempt() -> Cost:
        before()
        return once(command)

    return attempt


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
