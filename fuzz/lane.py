"""A lane: mutants made one after the other, examined in one process and shown to the reference library in another."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from fuzz import documents, gguf, onnx, pickle, safetensors
from fuzz.child import Child
from fuzz.mutant import Mutant, Seed
from fuzz.tally import Failure, Tally

FORMATS = {module.__name__.rpartition(".")[2]: module for module in (safetensors, gguf, onnx, pickle, documents)}

SECONDS, MEMORY = 2.0, 64 << 10
"""What one mutant may cost: seconds, and kilobytes above the idle process."""

_HANG = 5.0
_GROWN = 8 << 10
"""Kilobytes by which a process may have grown before it is started anew."""

_WARM = 24
"""Seeds that a process examines before its idle size is taken."""


class Lane:
    """Examines mutants of one format; a context manager, since it has processes and a folder."""

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._mutate = FORMATS[name].mutate
        self._seeds: list[Seed] = FORMATS[name].seeds()
        self._weights = [known.weight for known in self._seeds]
        self._subject, self._oracle = Child("fuzz.subject"), Child("fuzz.oracles", name)
        shared = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if shared.is_dir() else None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._subject.close()
        self._oracle.close()
        shutil.rmtree(self._folder)

    def mutant(self, number: int) -> Mutant:
        """Mutant `number` of this seed, the same in every run."""
        rng = Random(f"{self._name}:{self._seed}:{number}")
        mutant: Mutant = self._mutate(rng, rng.choices(self._seeds, self._weights)[0])
        return mutant

    def run(self, numbers: range) -> Tally:
        """Examine these mutants."""
        tally = Tally()
        for number in numbers:
            self._judge(tally, number, self.mutant(number))
        return tally

    def _judge(self, tally: Tally, number: int, mutant: Mutant) -> None:
        folder = self._written(mutant)
        said = self._examined(folder)
        for kind, words in _faults(said):
            tally.failures.append(Failure(self._name, self._seed, number, kind, mutant.made, words))
        tally.mutants += 1
        accepted = bool(said.get("accepted"))
        tally.accepted += accepted
        tally.refused += not accepted
        tally.rules.update(said.get("rules", ()))
        tally.slowest = max(tally.slowest, (said.get("seconds", _HANG), number))
        tally.largest = max(tally.largest, (said.get("memory", 0), number))
        reference = self._oracle.ask(str(folder), _HANG)
        if "lost" in reference:
            tally.unasked += 1
        elif words := _disagreement(said, reference):
            tally.failures.append(Failure(self._name, self._seed, number, "disagreement", mutant.made, words))
        elif not accepted and not reference["refused"]:
            tally.stricter.update(said.get("rules", ()))

    def _examined(self, folder: Path) -> dict[str, Any]:
        """The subject's answer, asked a second time where it took too long: other work on the machine counts too."""
        if not self._subject.running:
            self._warm()
        said = self._subject.ask(str(folder), _HANG)
        if "lost" in said or said["seconds"] > SECONDS:
            if not self._subject.running:
                self._warm()
            said = self._subject.ask(str(folder), _HANG)
        if said.get("grown", 0) > _GROWN:
            self._subject.close()
        return said

    def _warm(self) -> None:
        for seed in sorted(self._seeds, key=lambda known: -known.weight)[:_WARM]:
            name = next(iter(seed.files))
            files = seed.files if name else {"model.bin": seed.files[name]}
            self._subject.ask(f"warm {self._written(Mutant(files, ''))}", 4 * _HANG)

    def _written(self, mutant: Mutant) -> Path:
        """A fresh folder with the mutant."""
        folder = self._folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        mutant.write(folder)
        return folder


def _faults(said: dict[str, Any]) -> list[tuple[str, str]]:
    if "lost" in said:
        return [("lost", said["lost"])]
    faults = []
    if "crash" in said:
        faults.append(("crash", said["crash"]))
    if said["seconds"] > SECONDS:
        faults.append(("slow", f"{said['seconds']:.2f} s"))
    if said["memory"] > MEMORY:
        faults.append(("memory", f"{said['memory'] / 1024:.1f} MiB"))
    return faults


def _disagreement(said: dict[str, Any], reference: dict[str, Any]) -> str:
    """What we take and the reference library does not, or reads as something else."""
    if not said.get("accepted"):
        return ""
    if reference["refused"]:
        return f"the reference library refuses it: {reference['refused']}"
    theirs = reference["tensors"]
    return "" if theirs is None or theirs == said["tensors"] else f"tensors differ: {said['tensors']} / {theirs}"[:500]
