"""A process that examines models, kept warm, and watched: what it takes, and whether it comes back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fuzz.child import Child
from fuzz.mutant import Mutant, Seed

SECONDS, MEMORY = 2.0, 64 << 10
"""What one model may cost: seconds of work, and kilobytes above the idle process."""

HANG = 10.0
"""Seconds by the clock after which a process is given up."""

_GROWN = 8 << 10
"""Kilobytes by which a process may have grown before it is started anew."""

_WARM = 24
"""Seeds that a process examines before its idle size is taken."""


class Examiner:
    """Examines models, one at a time; a context manager, since it has a process and a folder."""

    def __init__(self, seeds: Sequence[Seed]) -> None:
        self._seeds = sorted(seeds, key=lambda known: -known.weight)[:_WARM]
        self._subject = Child("fuzz.subject")
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._subject.close()
        shutil.rmtree(self._folder)

    def written(self, mutant: Mutant) -> Path:
        """A fresh folder with the model, good until the next one."""
        folder = self._folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        mutant.write(folder)
        return folder

    def examine(self, mutant: Mutant) -> tuple[Path, dict[str, Any]]:
        """The folder of the model, and what the process says of it.

        It is asked a second time where it took too long, to know that it was not the machine.
        """
        for _ in range(2):
            if not self._subject.running:
                self._warm()
            folder = self.written(mutant)
            said = self._subject.ask(str(folder), HANG)
            if "lost" not in said and said["seconds"] <= SECONDS:
                break
        if said.get("grown", 0) > _GROWN:
            self._subject.close()
        return folder, said

    def _warm(self) -> None:
        for seed in self._seeds:
            files = {name or "model.bin": content for name, content in seed.files.items()}
            self._subject.ask(f"warm {self.written(Mutant(files, ''))}", 4 * HANG)


def faults(said: dict[str, Any]) -> list[tuple[str, str]]:
    """How a reader failed, as a kind and in words; none if it only refused."""
    if "lost" in said:
        return [("lost", said["lost"])]
    found = []
    if "crash" in said:
        found.append(("crash", said["crash"]))
    if said["seconds"] > SECONDS:
        found.append(("slow", f"{said['seconds']:.2f} s"))
    if said.get("memory", 0) > MEMORY:
        found.append(("memory", f"{said['memory'] / 1024:.1f} MiB"))
    return found
