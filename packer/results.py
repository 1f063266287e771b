"""The outcome of a build for the jobs that run it: as a JSON object, as a file for each value, as lines of NAME=VALUE.

Tekton reads results from a folder, a file for each, 4096 bytes in all; GitHub reads lines from the file that
`$GITHUB_OUTPUT` names. `IMAGE_URL` and `IMAGE_DIGEST` are the names by which Tekton Chains knows what was built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats.text import printable
from packer.failures import FINAL, REFUSED
from packer.watch import Listener
from recipes.task import whole_file

NAMES = (
    "IMAGE_URL",
    "IMAGE_DIGEST",
    "MODELPACK_URL",
    "MODELPACK_DIGEST",
    "SOURCE_URL",
    "SOURCE_REVISION",
    "VERDICT",
    "RETENTION",
    "CHANGED",
)
"""The values, each a line of text; empty where a build has none."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

Stages = Mapping[str, Mapping[str, Any]]
"""What each stage told of its result, as `Recorded` keeps it."""

Write = Callable[[Mapping[str, Any], Stages], None]
"""Takes the outcome of a build, and what its stages told."""

LONGEST = 400
"""Characters of a value: all of them fit into what Tekton takes."""


@dataclass(frozen=True)
class Refusal:
    """What a try was refused for: its exit code, and its outcome as `Places.write` takes it."""

    exit_code: int
    document: Mapping[str, Any]
    values: Mapping[str, str]

    @property
    def why(self) -> str:
        """In a few words."""
        return str(self.document.get("what") or self.document.get("verdict"))


@dataclass(frozen=True)
class Places:
    """Where the outcome goes: `file` gets the object with the values in it, `folder` a file for each value, `lines` has
    them appended.

    `refusal` gets it only if another try would be refused too.
    """

    file: Path | None = None
    folder: Path | None = None
    lines: Path | None = None
    refusal: Path | None = None

    @property
    def holds_one(self) -> bool:
        """Whether there is no room for the outcomes of several variants."""
        return bool(self.folder or self.lines or self.refusal)

    def ready(self) -> None:
        """Say that there is no outcome yet; what cannot be written is known before anything is done."""
        self._write({"event": "started"})
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.lines:
            self.lines.open("a").close()

    def refused(self) -> Refusal | None:
        """What a try before this one was refused for, if it was."""
        if not (self.refusal and self.refusal.exists()):
            return None
        return Refusal(**json.loads(self.refusal.read_bytes()))

    def write(self, document: Mapping[str, Any], values: Mapping[str, str]) -> None:
        """Write the outcome to each place."""
        code = REFUSED if document["event"] == "scorecard" else document.get("exit_code", 0)
        if self.refusal and code in FINAL:
            with whole_file(self.refusal) as scratch:
                scratch.write_text(json.dumps(vars(Refusal(code, document, values)), ensure_ascii=False) + "\n")
        self._write({**document, **values})
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, value in {**values, **hints(values)}.items():
                (self.folder / name).write_text(value, encoding="utf-8")
        if self.lines:
            with self.lines.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{name}={value}\n" for name, value in values.items())

    def take(self, document: Mapping[str, Any], stages: Stages) -> None:
        """Write the outcome, with what is in it for jobs, to each place."""
        self.write(document, values(stages))

    def take_all(self, outcomes: Sequence[tuple[Mapping[str, Any], Stages]]) -> None:
        """Write the outcomes of several variants to the file."""
        known = [{**document, **values(stages)} for document, stages in outcomes]
        self._write({"event": "variants", "variants": known})

    def _write(self, document: Mapping[str, Any]) -> None:
        if self.file:
            with whole_file(self.file) as scratch:
                scratch.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Recorded:
    """A listener that keeps what is told of the result of each stage, and tells another."""

    inner: Listener
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def started(self, stage: str, size: int | None) -> None:
        """The inner one's."""
        self.inner.started(stage, size)

    def expected(self, size: int) -> None:
        """The inner one's."""
        self.inner.expected(size)

    def advanced(self, count: int) -> None:
        """The inner one's."""
        self.inner.advanced(count)

    def noted(self, text: str) -> None:
        """The inner one's."""
        self.inner.noted(text)

    def finished(self, stage: str, facts: dict[str, Any]) -> None:
        """Keep the facts; a stage that runs twice, as for a baseline, counts the first time."""
        self.stages.setdefault(stage, facts)
        self.inner.finished(stage, facts)


def values(stages: Stages) -> dict[str, str]:
    """What jobs read, of what each stage told."""
    origin = stages.get("fetch", {}).get("origin", {})
    scorecard, release = stages.get("evaluate", {}), stages.get("publish", {})
    gated = [metric["retention"] for metric in scorecard.get("metrics", ()) if metric["is_gated"]]
    worst = min(gated, key=lambda retention: retention["low"], default=None)  # as in the annotations
    known = {
        **_published("IMAGE", release.get("image"), release.get("tags", ())[:1]),
        **_published("MODELPACK", release.get("modelpack"), release.get("tags", ())[1:]),
        "SOURCE_URL": "{kind}://{name}".format_map(origin) if origin.get("name") else None,
        "SOURCE_REVISION": origin.get("revision"),
        "VERDICT": scorecard.get("verdict"),
        "RETENTION": f"{worst['estimate']:.4f}" if worst else None,
        "CHANGED": str(release["changed"]).lower() if release else None,
    }
    return {name: printable(known[name] or "")[:LONGEST] for name in NAMES}


def hints(values: Mapping[str, str]) -> dict[str, str]:
    """What Tekton Chains reads of these values besides, JSON objects: the source with its digest, and the ModelPack
    manifest, which is built too. https://tekton.dev/docs/chains/slsa-provenance/
    """
    revision, digest = values["SOURCE_REVISION"], values["MODELPACK_DIGEST"]
    source = revision if ":" in revision else f"sha1:{revision}" if _COMMIT.fullmatch(revision) else ""
    found = {}
    if source:
        found["source_ARTIFACT_INPUTS"] = json.dumps({"uri": values["SOURCE_URL"], "digest": source})
    if digest:
        built = {"uri": values["MODELPACK_URL"], "digest": digest, "isBuildArtifact": "true"}
        found["modelpack_ARTIFACT_OUTPUTS"] = json.dumps(built)
    return found


def _published(name: str, reference: str | None, tags: Sequence[str]) -> dict[str, str | None]:
    """The place and the digest of what was published under a tag."""
    if not reference:
        return {f"{name}_URL": None, f"{name}_DIGEST": None}
    place, _, digest = reference.rpartition("@")
    return {f"{name}_URL": f"{place}:{tags[0]}", f"{name}_DIGEST": digest}
