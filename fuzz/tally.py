"""What became of the mutants of a format, added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("crash", "lost", "slow", "memory", "disagreement")
"""The ways in which a reader fails."""


@dataclass(frozen=True)
class Failure:
    """A mutant on which a reader failed, and what to run to see it again."""

    format: str
    seed: int
    number: int
    kind: str
    made: str
    said: str

    def __str__(self) -> str:
        again = f"python -m fuzz.run {self.format} --seed {self.seed} --only {self.number}"
        return f"{self.kind}: {self.made}\n    {self.said}\n    {again}"


@dataclass
class Tally:
    """Counts of one format. `stricter` are rules that refused what the reference library takes."""

    mutants: int = 0
    accepted: int = 0
    refused: int = 0
    unasked: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    stricter: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)
    failures: list[Failure] = field(default_factory=list)

    def count(self, number: int, said: Mapping[str, Any]) -> None:
        """Count what was said of one mutant."""
        self.mutants += 1
        self.accepted += bool(said.get("accepted"))
        self.refused += not said.get("accepted")
        self.rules.update(said.get("rules", ()))
        self.slowest = max(self.slowest, (said.get("seconds", 0.0), number))
        self.largest = max(self.largest, (said.get("memory", 0), number))

    def add(self, other: Tally) -> None:
        """Count another's mutants in."""
        self.mutants += other.mutants
        self.accepted += other.accepted
        self.refused += other.refused
        self.unasked += other.unasked
        self.rules += other.rules
        self.stricter += other.stricter
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        self.failures += other.failures

    def lines(self, name: str, shown: int) -> list[str]:
        """The summary in words, with at most `shown` failures."""
        found = Counter(failure.kind for failure in self.failures)
        lines = [
            f"{name}: {self.mutants} mutants, {self.accepted} accepted, {self.refused} refused",
            f"  slowest {self.slowest[0]:.3f} s (mutant {self.slowest[1]})",
            f"  largest {self.largest[0] / 1024:.1f} MiB above idle (mutant {self.largest[1]})",
            "  "
            + ", ".join(f"{found[kind]} {kind}" for kind in KINDS)
            + f", {self.unasked} without a reference's word",
        ]
        if self.rules:
            lines.append("  rules: " + ", ".join(f"{rule} {count}" for rule, count in self.rules.most_common()))
        if self.stricter:
            lines.append("  stricter: " + ", ".join(f"{rule} {count}" for rule, count in self.stricter.most_common()))
        return lines + [f"  {failure}" for failure in self.failures[:shown]]
