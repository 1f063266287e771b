"""Measuring whole processes: wall time and peak memory, several runs, medians."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNS = 5
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """Seconds and peak resident megabytes, medians; `seconds` is what the process printed, if it printed a number."""

    seconds: float
    megabytes: float


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
    return medians([_once(command, before) for _ in range(runs)])


def alternate(
    one: Sequence[str | Path], other: Sequence[str | Path], before: Callable[[], object] = lambda: None
) -> tuple[Cost, Cost]:
    """The costs of two commands, run in turn, so that what else the machine does hits both."""
    pairs = [(_once(one, before), _once(other, before)) for _ in range(RUNS)]
    return medians([first for first, _ in pairs]), medians([second for _, second in pairs])


def medians(costs: Sequence[Cost]) -> Cost:
    """The median of each."""
    return Cost(statistics.median(cost.seconds for cost in costs), statistics.median(cost.megabytes for cost in costs))


def python(code: str, *arguments: str | Path) -> list[str | Path]:
    """A command that runs `code`, which prints the seconds that count."""
    return [sys.executable, "-c", code, *arguments]


def _once(command: Sequence[str | Path], before: Callable[[], object]) -> Cost:
    before()
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
    )
    assert process.stdout
    said = process.stdout.read().split()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return Cost(float(said[-1]) if said and _is_number(said[-1]) else took, usage.ru_maxrss / 1024)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
