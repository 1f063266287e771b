"""Quantization on a machine with a GPU: `python tests/gpu/run.py [--parameters tiny]`.

It needs Python with torch and transformers, and no network: what else is needed comes as wheels, which `make
gpu-wheels` fetches elsewhere. It makes models of random weights, quantizes them by packer and by llmcompressor alone,
and holds both against the source. JSON lines go to standard output, the first about the machine, and a table to
standard error. It ends with 1 if packer's result is further from the source than it may be. Without a GPU it runs on
the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.bare import environment
from bench.gpu import Result, table
from bench.llama import SHAPES
from bench.measure import ROOT, Cost
from bench.tree import once_with_children

STEPS, DIVERGENCE = 1.001, 0.1
"""The most that a weight may be off, in halves of an FP8 step, with a thousandth for what is computed in float32; and
the most that logits may be, in nats. Each logit spreads by two, so that 0.1 nats are an error of a fifth of that."""

SAMPLES = 16
MEMORY = Path("/dev/shm")
_SHARD = {"tiny": 4 * 10**6}
_PACKER = "from packer.cli import main; main()"
_MACHINE = """
import json, torch, transformers, llmcompressor, compressed_tensors
gpu = torch.cuda.is_available()
made = {each.__name__: each.__version__ for each in (torch, transformers, llmcompressor, compressed_tensors)}
print(json.dumps({"device": torch.cuda.get_device_name(0) if gpu else "no GPU", "torch": "cuda" if gpu else "cpu",
    "versions": ", ".join(f"{name} {version}" for name, version in made.items())}))
"""


@dataclass(frozen=True)
class Trial:
    """A recipe on a model of some shape, and the way in which llmcompressor alone does the same."""

    recipe: str
    shape: str
    way: str
    length: int = 0

    @property
    def sampling(self) -> tuple[str, ...]:
        """How packer is told which samples to take."""
        return ("--samples", str(SAMPLES), "--max-length", str(self.length)) if self.length else ()

    @property
    def plainly(self) -> tuple[str, ...]:
        """The same for `bench.plain`."""
        return (str(SAMPLES), str(self.length)) if self.length else ()


TRIALS = {
    "8b": (Trial("fp8-dynamic", "8b", "oneshot"), Trial("int8-w8a8", "1b", "gptq", 512)),
    "tiny": (Trial("fp8-dynamic", "tiny", "oneshot"), Trial("int8-w8a8", "tiny", "gptq", 128)),
}


@dataclass(frozen=True)
class Ground:
    """Where it happens: a folder, the Python with everything, the device."""

    folder: Path
    python: Path
    device: str

    def run(self, trial: Trial) -> Iterator[Result]:
        """Both ways, of which the first is packer's."""
        model, target = self.folder / "model", self.folder / "out"
        size = str(_SHARD.get(trial.shape, 4 * 10**9))
        self._call("-m", "bench.llama", model, trial.shape, self.device, size)
        for by in ("packer", "llmcompressor"):
            cost = self._packer(trial, model, target) if by == "packer" else self._plain(trial, model, target)
            yield self._judged(trial, by, cost, model, target)
            shutil.rmtree(target)
        shutil.rmtree(model)

    def _packer(self, trial: Trial, model: Path, target: Path) -> Cost:
        return self._measured(
            "-c", _PACKER, "quantize", model, target, "--recipe", trial.recipe, *trial.sampling, "--json"
        )

    def _plain(self, trial: Trial, model: Path, target: Path) -> Cost:
        return self._measured("-m", "bench.plain", trial.way, model, target, *trial.plainly)

    def _judged(self, trial: Trial, by: str, cost: Cost, model: Path, target: Path) -> Result:
        steps = self._check("steps", model, target)["steps"] if trial.recipe.startswith("fp8") else None
        return Result(
            recipe=trial.recipe,
            model=f"{SHAPES[trial.shape].parameters / 1e9:.2f} billion parameters",
            gigabytes=sum(path.stat().st_size for path in model.glob("*.safetensors")) / 1e9,
            by=by,
            seconds=cost.seconds,
            host=cost.megabytes / 1000,
            device=_last(cost.said)["device"] / 1e9,
            steps=steps,
            **self._check("logits", model, target),
        )

    def _measured(self, *words: str | Path) -> Cost:
        return once_with_children([self.python, *words], self._environment)

    def _check(self, what: str, model: Path, target: Path) -> dict[str, Any]:
        return _last(self._call(Path(__file__).with_name("check.py"), what, model, target, self.device))

    def _call(self, *words: str | Path) -> str:
        environment = {**os.environ, **self._environment}
        done = subprocess.run([self.python, *words], env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return done.stdout.decode()

    @property
    def _environment(self) -> dict[str, str]:
        return {"HF_HUB_OFFLINE": "1", "PACKER_CACHE": str(self.folder / "cache"), "PYTHONWARNINGS": "ignore"}


def main() -> None:
    """Run the trials of a size, and tell."""
    words = argparse.ArgumentParser()
    words.add_argument("--parameters", choices=TRIALS, default="8b", help="of the largest model")
    words.add_argument("--recipe", choices=[trial.recipe for trial in TRIALS["8b"]], help="only this one")
    words.add_argument("--wheels", type=Path, default=ROOT / ".cache/wheels", help="default: .cache/wheels")
    words.add_argument("--place", type=Path, help="a folder for the models; default: /dev/shm if they fit")
    said = words.parse_args()
    trials = [trial for trial in TRIALS[said.parameters] if said.recipe in (None, trial.recipe)]
    with tempfile.TemporaryDirectory(dir=said.place or _place(trials), prefix="packer-gpu-") as folder:
        python = environment(Path(folder) / "environment", said.wheels)
        machine = _last(subprocess.run([python, "-c", _MACHINE], check=True, stdout=subprocess.PIPE).stdout.decode())
        if machine["torch"] == "cpu" and said.parameters != "tiny":
            sys.exit("there is no GPU that PyTorch can use; --parameters tiny runs on the processor")
        _tell({**machine, **_host(), "place": _named(Path(folder).parent)})
        ground = Ground(Path(folder), python, machine["torch"])
        results = []
        for trial in trials:
            for result in ground.run(trial):
                _tell(result.to_json())
                results.append(result)
    sys.stderr.write(table(results))
    if wrong := [problem for result in results if result.by == "packer" for problem in _problems(result)]:
        sys.exit("\n".join(wrong))


def _problems(result: Result) -> Iterator[str]:
    if result.steps is not None and not result.steps <= STEPS:
        yield f"{result.recipe}: a weight is off by {result.steps:.4f} half steps, at most {STEPS} are rounding"
    if not result.divergence <= DIVERGENCE:
        yield f"{result.recipe}: logits are off by {result.divergence:.4f} nats, expected at most {DIVERGENCE}"


def _place(trials: Sequence[Trial]) -> Path:
    """Memory, if the largest model, its result and what is written beside it fit there; else the temporary folder."""
    needed = max(SHAPES[trial.shape].parameters for trial in trials) * 5
    fits = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > needed
    return MEMORY if fits else Path(tempfile.gettempdir())


def _named(place: Path) -> str:
    return "in memory" if place.is_relative_to(MEMORY) else "on disk"


def _last(said: str) -> dict[str, Any]:
    """The object on the last line: libraries print before it."""
    told: dict[str, Any] = json.loads(said.strip().split("\n")[-1])
    return told


def _host() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {"date": datetime.now(UTC).date().isoformat(), "host": f"{os.cpu_count()} cores, {memory:.0f} GiB"}


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
