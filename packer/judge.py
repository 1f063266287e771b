"""`packer validate`: one model judged, and the judgement for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any

from formats.examine import FORMATS, Report, examine, graphs_of
from formats.findings import Finding, RejectedError, errors
from formats.rules import model as rules
from formats.scale_values import check_scale_values, judge_all
from formats.text import printable
from formats.values import TensorValues, measure
from packer.inspect import describe_graphs
from packer.look import is_far, look
from packer.progress import human, plural
from registry.access import Access
from registry.errors import ModelError, PackerError, UsageError

SHOWN = 5
"""Findings of one rule in one file that are shown to people; programs get all."""


@dataclass(frozen=True)
class Judgement:
    """Whether what `path` names is a good model. `report` is absent if it could not be looked at; `error` says why."""

    path: str
    report: Report | None = None
    findings: tuple[Finding, ...] = ()
    values: tuple[TensorValues, ...] = ()
    error: PackerError | None = field(default=None, compare=False)

    @classmethod
    def failed(cls, path: str, error: PackerError) -> Judgement:
        """What is said of a path that could not be read; a model that cannot be a model is a finding."""
        if isinstance(error, RejectedError):
            return cls(path, findings=error.findings)
        if isinstance(error, ModelError):
            found = ": ".join(part for part in (error.what, str(error.found or "")) if part)
            finding = rules.UNREADABLE.finding(error.subject, expected=error.expected or "", found=found)
            return cls(path, findings=(finding,))
        return cls(path, error=error)

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.error and not errors(self.findings)

    @property
    def exit_code(self) -> int:
        """0, 3 for a model that is refused, or the code of the error."""
        return self.error.exit_code if self.error else 0 if self.ok else ModelError.exit_code

    @property
    def format(self) -> str | None:
        """The weight format, or that which the names of the files claim."""
        if not self.report:
            return None
        if self.report.card:
            return self.report.card.format
        claimed = {FORMATS[file.suffix] for file in self.report.snapshot.files if file.suffix in FORMATS}
        return next((name for name in FORMATS.values() if name in claimed), None)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; `model`, `graphs`, `values` and `error` only where there are any."""
        document: dict[str, Any] = {
            "path": self.path,
            "ok": self.ok,
            "format": self.format,
            "findings": [finding.to_json() for finding in self.findings],
        }
        if self.report and self.report.card:
            document["model"] = _model(self.report)
        if graphs := self.report and graphs_of(self.report.read):
            document["graphs"] = graphs
        if self.values:
            document["values"] = [value.to_json() for value in self.values]
        if self.error:
            document["error"] = self.error.to_json()
        return document

    def render(self) -> str:
        """The judgement for people."""
        return "\n".join(map(printable, self._lines()))

    def _lines(self) -> Iterator[str]:
        if self.error:
            yield f"{self.path}: could not be judged"
            yield from (f"  {line}" for line in str(self.error).split("\n"))
            return
        refusing, every = len(errors(self.findings)), len(self.findings)
        counts = f"{plural(refusing, 'error')}, {plural(every - refusing, 'warning')}" if every else "nothing found"
        yield f"{self.path}: {'ok' if self.ok else 'REFUSED'}, {counts}"
        if self.report and self.report.card:
            yield f"  {_summary(self.report)}"
        yield from describe_graphs(graphs_of(self.report.read) if self.report else {})
        if self.values:
            yield f"  {_measured(self.values, self.report)}"
        yield from _listed(self.findings)


def judge(text: str, include: Sequence[str], access: Access, *, deep: bool, allow_code: bool) -> Judgement:
    """The judgement about what `text` names: a path, hf://ORG/NAME or a reference."""
    if deep and is_far(text):
        raise UsageError(
            "--deep reads every value, and these are not on this machine",
            subject=text,
            hint=f"fetch it first (packer pull {text} DIR), then validate the folder",
        )
    report = examine(look(text, include, access), allow_code=allow_code)
    values = tuple(measure(report)) if deep else ()
    found = judge_all(values, report) if deep else check_scale_values(report)
    return Judgement(text, report, (*report.findings, *found), values)


def _model(report: Report) -> dict[str, Any]:
    """What a model is, as `packer inspect --json` tells it, and how much of it there is."""
    assert report.card
    return {
        **report.card.to_json(),
        "tensor_count": len(report.tensors),
        "files": len(report.snapshot.files),
        "bytes": report.snapshot.size,
    }


def _summary(report: Report) -> str:
    card, snapshot = report.card, report.snapshot
    assert card
    parts = [card.format, card.architecture or "unknown architecture", plural(len(report.tensors), "tensor")]
    parts += [f"{plural(card.parameters, 'parameter')} ({', '.join(card.dtypes)})"]
    parts += [plural(len(snapshot.files), "file"), human(snapshot.size)]
    if card.adapts:
        parts.insert(1, f"adapter for {card.adapts}")
    return ", ".join(parts)


def _measured(values: Sequence[TensorValues], report: Report | None) -> str:
    """What was read; more than there are parameters, where a model has variants, other formats or subgraphs."""
    known = [value.moments for value in values]
    nan, inf, count = (sum(map(attrgetter(name), known)) for name in ("nan", "inf", "seen"))
    zero = sum(1 for one in known if one.seen and one.zeros == one.seen)
    parameters = report.card.parameters if report and report.card else count
    every = ", copies and other formats included" if count > parameters else ""
    zeros = f"{plural(zero, 'tensor')} of nothing but zeros"
    return f"{plural(count, 'value')} read{every}: {nan:,} NaN, {inf:,} Inf, {zeros}"


def _listed(findings: Sequence[Finding]) -> Iterator[str]:
    ordered = sorted(findings, key=lambda finding: (not finding.refuses, finding.file, finding.rule.id))
    for _, group in groupby(ordered, key=lambda finding: (finding.file, finding.rule.id)):
        alike = list(group)
        for finding in alike[:SHOWN]:
            where = f"{finding.file}: " if finding.file else ""
            yield f"  {finding.severity:<7}  {where}{finding.sentence}  [{finding.rule.id}]"
            details = (("expected:", finding.expected), ("found:", finding.found))
            yield from (f"    {key:<9} {text}" for key, text in details if text)
        if len(alike) > SHOWN:
            yield f"    and {len(alike) - SHOWN:,} more like it; --json has them"
        yield f"    {'next:':<9} {alike[0].rule.advice}"
