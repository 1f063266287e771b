"""Verdicts: what a client makes of an artifact, as values.

A `Rule` is one thing that a client holds artifacts to; a `Finding` is that rule met in one artifact, at all places
together. `docs/check.md` is made of the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from formats.text import printable

MAX_PLACES = 20
"""Places that a finding keeps; the rest are counted."""

MAX_SHOWN = 200
"""Characters of a text out of an artifact that are kept."""


class Outcome(StrEnum):
    """What the user of a client will see; of several the last counts."""

    WORKS = "works"
    CONDITION = "condition"
    EMPTY = "empty"
    FAILS = "fails"

    @property
    def is_bad(self) -> bool:
        """Whether the user does not get the model."""
        return self in (Outcome.EMPTY, Outcome.FAILS)

    @property
    def weight(self) -> int:
        """Its place in the order."""
        return list(Outcome).index(self)


@dataclass(frozen=True)
class Rule:
    """One thing that a client holds artifacts to.

    `look` says how it looks to the user where an artifact breaks it, as a sentence without its stop; `why` and `source`
    (a program, a specification, a measurement) are for `docs/check.md`; `advice` is the next step.
    """

    id: str
    outcome: Outcome
    look: str
    why: str
    source: str
    advice: str

    def finding(self, places: Iterable[object] = (), found: object = "", advice: str = "") -> Finding:
        """This rule met at `places`."""
        every = [shown(place) for place in places]
        return Finding(self, tuple(every[:MAX_PLACES]), len(every), shown(found), advice or self.advice)

    def at(self, places: Sequence[object], found: object = "") -> tuple[Finding, ...]:
        """A finding if there is any place, else none."""
        return (self.finding(places, found),) if places else ()


@dataclass(frozen=True)
class Finding:
    """A rule met in an artifact: in `count` places (layers, members, annotations), of which it has `MAX_PLACES`."""

    rule: Rule
    places: tuple[str, ...]
    count: int
    found: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """The finding as `packer check --json` prints it."""
        return {
            "rule": self.rule.id,
            "outcome": self.rule.outcome.value,
            "look": self.rule.look,
            "places": list(self.places),
            "count": self.count,
            "found": self.found,
            "advice": self.advice,
            "source": self.rule.source,
        }


@dataclass(frozen=True)
class Verdict:
    """What one client makes of an artifact. `instead` is the reference that it must be given in place of the other."""

    client: str
    findings: tuple[Finding, ...] = ()
    instead: str = ""
    outcome: Outcome = field(init=False)

    def __post_init__(self) -> None:
        worst = max((finding.rule.outcome for finding in self.findings), key=lambda each: each.weight, default=None)
        object.__setattr__(self, "outcome", worst or Outcome.WORKS)

    def to_json(self) -> dict[str, Any]:
        """The verdict as `packer check --json` prints it."""
        return {
            "client": self.client,
            "outcome": self.outcome.value,
            "instead": self.instead or None,
            "findings": [finding.to_json() for finding in self.findings],
        }


def shown(value: object) -> str:
    """The value as bounded text on one line."""
    text = str(value)
    return printable(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "\u2026")


def gathered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings with those of one rule made one, the worst first."""
    by_rule: dict[str, Finding] = {}
    for each in findings:
        known = by_rule.get(each.rule.id)
        by_rule[each.rule.id] = _together(known, each) if known and known.places != each.places else each
    return tuple(sorted(by_rule.values(), key=lambda each: -each.rule.outcome.weight))


def _together(first: Finding, second: Finding) -> Finding:
    """What two manifests of an index have in common counts once, as far as it is shown."""
    places = tuple(dict.fromkeys((*first.places, *second.places)))
    return replace(first, places=places[:MAX_PLACES], count=max(first.count, second.count, len(places)))
