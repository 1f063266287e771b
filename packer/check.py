"""`packer check`: which clients can use an artifact, for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from containers.check.artifact import Artifact, read_artifact
from containers.check.clients import CLIENTS, judge
from containers.check.verdicts import Finding, Outcome, Verdict
from formats.text import printable
from packer.look import artifact as artifact_named
from packer.progress import plural
from packer.stages import MODELPACK_SUFFIX
from registry.access import Access
from registry.errors import ModelError, NotFoundError, UsageError
from registry.reference import LayoutReference, Reference, is_tag
from registry.store import Source, open_store

SAID = {
    Outcome.WORKS: "works",
    Outcome.CONDITION: "works, conditionally",
    Outcome.EMPTY: "SILENTLY NOTHING",
    Outcome.FAILS: "FAILS",
}
"""The outcomes in the table."""

SHOWN = 3
"""Places of a finding that people are shown; programs get more."""


@dataclass(frozen=True)
class Answer:
    """The verdicts about what a reference names."""

    artifact: Artifact
    verdicts: tuple[Verdict, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 if any client does not get the model."""
        return ModelError.exit_code if any(verdict.outcome.is_bad for verdict in self.verdicts) else 0

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "event": "check",
            "reference": self.artifact.reference,
            "digest": self.artifact.root.descriptor.digest,
            "kind": self.artifact.kind,
            "platforms": [str(platform) for platform in self.artifact.platforms],
            "ok": not self.exit_code,
            "clients": [
                {**verdict.to_json(), "how": CLIENTS[verdict.client].how, "needs": CLIENTS[verdict.client].needs}
                for verdict in self.verdicts
            ],
        }


def check(text: str, clients: Sequence[str], access: Access) -> Answer:
    """What each of the clients makes of what `text` names, and of the ModelPack manifest beside it."""
    reference = artifact_named(text)
    if not reference:
        raise UsageError(
            "only what is published can be checked",
            subject=text,
            expected="a reference, or an OCI layout",
            hint="packer validate judges the files of a model",
        )
    source = open_store(reference, access)
    root = source.resolve(reference.name)
    artifact = read_artifact(str(reference), root, source, is_pinned=bool(reference.digest and not reference.tag))
    return Answer(artifact, judge(artifact, clients, _beside(reference, artifact, source)))


def _beside(reference: Reference | LayoutReference, artifact: Artifact, source: Source) -> Artifact | None:
    """The ModelPack manifest of the same build as an image of ours, or the other way round."""
    is_modelpack = not artifact.is_index and reference.tag.endswith(MODELPACK_SUFFIX)
    tag = reference.tag.removesuffix(MODELPACK_SUFFIX) if is_modelpack else reference.tag + MODELPACK_SUFFIX
    ours = artifact.root.annotations and (artifact.is_index or is_modelpack)
    if not ours or not reference.tag or not is_tag(tag):
        return None
    try:
        root = source.resolve(tag)
    except NotFoundError:
        return None
    if root.annotations != artifact.root.annotations:
        return None
    return read_artifact(str(replace(reference, tag=tag, digest=None)), root, source)


def clients_named(text: str) -> tuple[str, ...]:
    """The clients in a list with commas, each once; `UsageError` for one that is not known."""
    names = tuple(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))
    unknown = [name for name in names if name not in CLIENTS]
    if unknown or not names:
        raise UsageError(
            "this client is not known" if unknown else "no client is named",
            subject="--for",
            expected=", ".join(CLIENTS),
            found=", ".join(unknown) or text,
        )
    return names


def render(answer: Answer, width: int) -> str:
    """The verdicts for people, in lines of `width` characters."""
    return "\n".join(map(printable, _lines(answer, width)))


def _lines(answer: Answer, width: int) -> Iterator[str]:
    artifact = answer.artifact
    platforms = ", ".join(map(str, artifact.platforms))
    yield artifact.reference
    yield f"{artifact.kind}{' for ' + platforms if platforms else ''}, {artifact.root.descriptor.digest[:19]}"
    yield ""
    wide = max(len(verdict.client) for verdict in answer.verdicts)
    for verdict in answer.verdicts:
        rules = ", ".join(finding.rule.id for finding in verdict.findings)
        row = f"{verdict.client:<{wide}}  {SAID[verdict.outcome]:<{_STATE}}"
        yield from _wrapped(f"{row}  {rules}".rstrip(), width, rest=" " * min(wide + _STATE + 4, width // 2))
    for finding, clients in _told(answer.verdicts):
        yield ""
        yield from _explained(finding, clients, width)
    yield from _better(answer.verdicts, width)


def _better(verdicts: Sequence[Verdict], width: int) -> Iterator[str]:
    """Which clients are to be given another reference."""
    better = [verdict for verdict in verdicts if verdict.outcome.is_bad and verdict.instead]
    if better:
        names = ", ".join(verdict.client for verdict in better)
        yield ""
        yield from _wrapped(f"The image of the same build is {better[0].instead}: give that to {names}.", width)


_STATE = max(map(len, SAID.values()))


def _told(verdicts: Sequence[Verdict]) -> list[tuple[Finding, list[str]]]:
    """Each finding with the clients that it is about, the worst first."""
    told: dict[Finding, list[str]] = {}
    for verdict in verdicts:
        for finding in verdict.findings:
            told.setdefault(finding, []).append(verdict.client)
    return sorted(told.items(), key=lambda pair: -pair[0].rule.outcome.weight)


def _explained(finding: Finding, clients: Sequence[str], width: int) -> Iterator[str]:
    yield f"{finding.rule.id}: {', '.join(clients)}"
    more = plural(finding.count - SHOWN, "more place") if finding.count > SHOWN else ""
    rows = [("looks", finding.rule.look), *(("at", place) for place in finding.places[:SHOWN])]
    rows += [("and", more), ("found", finding.found), ("next", finding.advice)]
    for key, text in rows:
        if text:
            yield from _wrapped(text, width, first=f"  {key:<6} ", rest=" " * 9)


def _wrapped(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """Lines of that width, in which a reference is whole, so that it can be copied."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )
