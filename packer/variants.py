"""What became of the variants of a build file: each by its name, however it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from packer.results import Places, Stages, Write, values
from packer.scorecards import plain, table
from recipes.evaluation.report import words
from recipes.evaluation.report.verdict import headline
from recipes.evaluation.scorecard import Scorecard

WAITING = "none"
"""In place of an event: a variant that has not been built, or whose build was interrupted."""


@dataclass
class Variants:
    """The outcomes of the variants of these names so far, and where they go, all in one document."""

    names: Sequence[str]
    places: Places
    ended: dict[str, tuple[Mapping[str, Any], Stages]] = field(default_factory=dict)

    def of(self, name: str) -> Write:
        """What takes the outcome of a variant."""
        return partial(self._keep, name)

    def _keep(self, name: str, document: Mapping[str, Any], stages: Stages) -> None:
        self.ended[name] = document, stages
        self.places.take_all(list(map(self._outcome, self.names)))

    def _outcome(self, name: str) -> tuple[Mapping[str, Any], Stages]:
        return self.ended.get(name, ({"event": WAITING, "variant": name}, {}))

    def to_json(self) -> dict[str, Any]:
        """A row for each: how it ended, its verdict and what is retained, where it is, or why it is not there."""
        return {"event": "variants", "variants": [self._row(name) for name in self.names]}

    def _row(self, name: str) -> dict[str, Any]:
        document, stages = self._outcome(name)
        found, card = values(stages), _scorecard(stages)
        return {
            "variant": name,
            "event": document["event"],
            "verdict": card.verdict.value if card else None,
            "retention": card.worst.retention.estimate if card and card.worst else None,
            "to": found["IMAGE_URL"] or None,
            "image": document.get("image") if document["event"] == "release" else None,
            "modelpack": document.get("modelpack") if document["event"] == "release" else None,
            "why": _why(document, card) or None,
        }

    def render(self) -> str:
        """For people: a line for each."""
        return plain(table([["variant", "verdict", "retained", "where"], *map(self._cells, self.names)]))

    def _cells(self, name: str) -> list[str]:
        row, card = self._row(name), _scorecard(self._outcome(name)[1])
        where = row["why"] or row["to"] or ""
        return [name, row["verdict"] or "-", _retained(card), where]


def _scorecard(stages: Stages) -> Scorecard | None:
    return Scorecard.from_json(stages["evaluate"], "the evaluation") if "evaluate" in stages else None


def _retained(card: Scorecard | None) -> str:
    if not card or not card.worst:
        return "-"
    retention = card.worst.retention
    return words.percent(retention.estimate, words.digits(retention, card.gate.retain))


def _why(document: Mapping[str, Any], card: Scorecard | None) -> str:
    """Why a variant is nowhere; empty if it was published."""
    match document["event"]:
        case "release":
            return ""
        case "scorecard":
            return f"nothing was published: {headline(card)}" if card else "nothing was published"
        case "stopped":
            return f"nothing was published: it was to stop after {document['after']}"
        case "error":
            return f"failed: {'; '.join(_told(document))}"
    return "not built"


def _told(document: Mapping[str, Any]) -> Iterator[str]:
    subject = f"{document['subject']}: " if document.get("subject") else ""
    yield f"{subject}{document['what']}"
    yield from (str(document[key]) for key in ("hint",) if document.get(key))
