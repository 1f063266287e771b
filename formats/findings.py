"""Findings: what is wrong with a model, as values.

A `Rule` says what must hold and why; a `Finding` is one place where it does not. A reader that cannot go on raises
`RejectedError` with its finding; whatever can go on collects them. `docs/rules.md` is made of the rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NoReturn

from formats.text import printable
from registry.errors import ModelError

MAX_SHOWN = 300
"""Characters of what was expected or found that a finding keeps."""


class Severity(StrEnum):
    """`ERROR` refuses a model, `WARNING` is told and lets it pass."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Rule:
    """One thing that must hold.

    `what` says how it is broken, as the middle of a message; `why` and `source` (a place in a specification, or the
    program that breaks) are for `docs/rules.md`; `advice` is the next step.
    """

    id: str
    what: str
    why: str
    source: str
    advice: str
    severity: Severity = Severity.ERROR

    def finding(self, file: str, *, expected: object = "", found: object = "", tensor: str = "") -> Finding:
        """This rule broken in `file`, at `tensor` if one is named."""
        return Finding(self, file, tensor, _shown(expected), _shown(found), self.severity)

    def reject(self, file: str, *, expected: object = "", found: object = "", tensor: str = "") -> NoReturn:
        """Raise the finding, for a reader that cannot go on."""
        raise RejectedError(self.finding(file, expected=expected, found=found, tensor=tensor))


@dataclass(frozen=True)
class Finding:
    """A rule broken in one place; empty members say nothing. `severity` is the rule's unless the user allowed it."""

    rule: Rule
    file: str
    tensor: str
    expected: str
    found: str
    severity: Severity

    @property
    def refuses(self) -> bool:
        """Whether the model may not pass."""
        return self.severity is Severity.ERROR

    def allowed(self) -> Finding:
        """The same, no longer in the way."""
        return replace(self, severity=Severity.WARNING)

    @property
    def sentence(self) -> str:
        """What is wrong, on one line."""
        return printable(f"tensor {self.tensor!r}: {self.rule.what}" if self.tensor else self.rule.what)

    def to_json(self) -> dict[str, Any]:
        """The finding as `packer validate --json` prints it."""
        return {
            "rule": self.rule.id,
            "severity": self.severity.value,
            "file": self.file,
            "tensor": self.tensor,
            "expected": self.expected,
            "found": self.found,
            "advice": self.rule.advice,
        }


class RejectedError(ModelError):
    """A model, or one file of it, that breaks a rule; `findings` holds what was found, the first one first."""

    def __init__(self, *findings: Finding) -> None:
        first = findings[0]
        more = f" ({len(findings) - 1} more: packer validate lists them)" if len(findings) > 1 else ""
        super().__init__(
            first.sentence + more,
            subject=first.file,
            expected=first.expected or None,
            found=first.found or None,
            hint=f"{first.rule.advice}  [{first.rule.id}]",
        )
        self.findings = findings


def errors(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that refuse."""
    return tuple(finding for finding in findings if finding.refuses)


def _shown(value: object) -> str:
    """The value as bounded text on one line."""
    text = value if isinstance(value, str) else repr(value)[: 2 * MAX_SHOWN]
    return printable(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "\u2026")
