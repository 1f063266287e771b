"""A lane: mutants made one after the other, examined in one process and shown to the reference library in another."""

from __future__ import annotations

from random import Random
from types import TracebackType
from typing import Any, Self

from fuzz import documents, gguf, onnx, pickle, safetensors
from fuzz.child import Child
from fuzz.examiner import HANG, Examiner, faults
from fuzz.mutant import Mutant, Seed
from fuzz.tally import Failure, Tally

FORMATS = {module.__name__.rpartition(".")[2]: module for module in (safetensors, gguf, onnx, pickle, documents)}


class Lane:
    """Judges mutants of one format; a context manager, since it has processes."""

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._seeds: list[Seed] = FORMATS[name].seeds()
        self._weights = [known.weight for known in self._seeds]
        self._examiner, self._oracle = Examiner(self._seeds), Child("fuzz.oracles", name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._oracle.close()
        self._examiner.__exit__(kind, error, at)

    def mutant(self, number: int) -> Mutant:
        """Mutant `number` of this seed, the same in every run."""
        rng = Random(f"{self._name}:{self._seed}:{number}")
        mutant: Mutant = FORMATS[self._name].mutate(rng, rng.choices(self._seeds, self._weights)[0])
        return mutant

    def run(self, numbers: range) -> Tally:
        """Judge these mutants."""
        tally = Tally()
        for number in numbers:
            self._judge(tally, number, self.mutant(number))
        return tally

    def _judge(self, tally: Tally, number: int, mutant: Mutant) -> None:
        folder, said = self._examiner.examine(mutant)
        found = faults(said)
        reference = self._oracle.ask(str(folder), HANG)
        if "lost" in reference:
            tally.unasked += 1
        elif words := _disagreement(said, reference):
            found.append(("disagreement", words))
        elif not said.get("accepted") and not reference["refused"]:
            tally.stricter.update(said.get("rules", ()))
        tally.count(number, said)
        tally.failures += [Failure(self._name, self._seed, number, kind, mutant.made, words) for kind, words in found]


def _disagreement(said: dict[str, Any], reference: dict[str, Any]) -> str:
    """What we take and the reference library does not, or reads as something else."""
    if not said.get("accepted"):
        return ""
    if reference["refused"]:
        return f"the reference library refuses it: {reference['refused']}"
    theirs = reference["tensors"]
    return "" if theirs is None or theirs == said["tensors"] else f"tensors differ: {said['tensors']} / {theirs}"[:500]
