"""What an evaluation takes, beside what one would write or run instead. The model is real; the files lie on disk."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.measure import ROOT, Cost, Row, in_turn, once
from bench.quantize import OFFLINE, PACKER, SMALL
from bench.tree import once_with_children

RUNS = 3
_CAPITALS = ROOT / "recipes/suites/capitals"
_LM_EVAL = ROOT / ".venv/bin/lm_eval"


@dataclass(frozen=True)
class _Trial:
    """A model and its variants, below a folder that is removed in the end."""

    scratch: Path

    def quantized(self, recipe: str) -> Path:
        """A variant, made once."""
        target = self.scratch / recipe
        if not target.exists():
            once([PACKER, "quantize", SMALL, target, "--recipe", recipe], self._environment("quantized"))
        return target

    def packer(self, recipe: str, suite: str, cache: str, *, is_fresh: bool = True) -> Cost:
        """An evaluation by packer; with a fresh cache it knows nothing of the baseline."""
        candidate = self.quantized(recipe)
        if is_fresh:
            shutil.rmtree(self.scratch / cache, ignore_errors=True)
        command: list[str | Path] = [PACKER, "evaluate", candidate, "--baseline", SMALL, "--suite", suite]
        command += ["--retain", "0.8", "--report", self.scratch / "report"]
        return once_with_children(command, self._environment(cache))

    def script(self, recipe: str) -> Cost:
        """The divergence over as many passages, by a script that has both models in memory."""
        command: list[str | Path] = [sys.executable, "-m", "bench.divergence", SMALL, self.quantized(recipe)]
        return once_with_children(command, OFFLINE)

    def lm_eval(self, recipe: str) -> Cost:
        """The capitals asked of both, by lm-eval's own command."""
        return _sum([self._asked(SMALL), self._asked(self.quantized(recipe))])

    def _asked(self, model: Path) -> Cost:
        command: list[str | Path] = ["env", "-C", _CAPITALS, _LM_EVAL, "run", "--include_path", _CAPITALS]
        command += ["--tasks", "capitals", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32"]
        command += ["--device", "cpu", "--batch_size", "8"]
        return once_with_children(command, OFFLINE)

    def _environment(self, cache: str) -> dict[str, str]:
        return {**OFFLINE, "PACKER_CACHE": str(self.scratch / cache)}


def run() -> Iterator[Row]:
    """Fidelity beside a script, the next variant beside the first, tasks beside lm-eval."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache", prefix="bench-") as folder:
        trial = _Trial(Path(folder))
        fp8, int8 = "fp8-dynamic", "int8-w8a8-rtn"
        cold, script = in_turn([partial(trial.packer, fp8, "fidelity", "cache"), partial(trial.script, fp8)], RUNS)
        yield _row("fidelity of fp8-dynamic, 32 passages", cold, script, "a script of transformers")
        warm = trial.packer(int8, "fidelity", "cache", is_fresh=False)
        first = trial.packer(int8, "fidelity", "cold")
        yield _row("fidelity of int8-w8a8-rtn, its baseline known, one run", warm, first, "its baseline unknown")
        ours, theirs = trial.packer(fp8, "capitals", "asked"), trial.lm_eval(fp8)
        yield _row("capitals asked of both, to a verdict, one run", ours, theirs, "lm_eval run, of all 213, twice")


def _row(what: str, mine: Cost, other: Cost, name: str) -> Row:
    share = f"{mine.seconds / other.seconds:.2f} of its time, {mine.megabytes / other.megabytes:.2f} of its memory"
    return Row(what, _figures(mine), f"{_figures(other)} ({name})", share, "none")


def _sum(costs: list[Cost]) -> Cost:
    """One after the other."""
    memory = max(cost.megabytes for cost in costs)
    return Cost(sum(cost.seconds for cost in costs), memory, sum(cost.cpu for cost in costs))


def _figures(cost: Cost) -> str:
    return f"{cost.seconds:.0f} s, {cost.cpu:.0f} s CPU, {cost.megabytes / 1000:.2f} GB"
