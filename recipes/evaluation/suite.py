"""Suites: on what models are measured, as data.

A suite is a YAML file. Those under `recipes/suites/` are known by their names; a user's own is named by its path, or
written into the build file, and is in no way different.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from formats.text import printable
from recipes.described import is_path, no_such, parse_map, read_bounded, validated
from registry.blob import FileBlob
from registry.descriptor import Digest, digest_of
from registry.errors import UsageError
from registry.manifest import encode

SHIPPED = Path(__file__).parents[1] / "suites"

MEASURES = ("perplexity", "accuracy", "agreement")
"""What a fidelity suite measures and may gate."""


class Kind(StrEnum):
    """What is measured: how far probabilities are from the baseline's, or answers to tasks of lm-eval."""

    FIDELITY = "fidelity"
    TASKS = "tasks"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)] = ""
    description: str = ""
    kind: Kind | None = None
    retain: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int = 0
    data: str | None = None
    passages: Annotated[int, Field(ge=1)] = 128
    window: Annotated[int, Field(ge=16, le=32768)] = 256
    gate: Annotated[tuple[str, ...], Field(min_length=1)] = ("perplexity",)
    tasks: tuple[str, ...] = ()
    include: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    fewshot: Annotated[int, Field(ge=0)] | None = None
    metrics: dict[str, str] = {}


_MEASURING = {Kind.FIDELITY: ("window",), Kind.TASKS: ("tasks", "fewshot", "metrics")}
"""What has a part in what is measured of a sample, besides the data."""

_OF_KIND = {
    Kind.FIDELITY: ("data", "passages", "window", "gate"),
    Kind.TASKS: ("tasks", "include", "limit", "fewshot", "metrics"),
}


@dataclass(frozen=True)
class Suite:
    """What models are measured on. `retain` is what it asks for where the user asks for nothing.

    Fidelity: `data` is a file or folder of text, of which `passages` are used before an evaluation is extended, each
    cut to `window` tokens; `gate` are the measures that count. Tasks: `tasks` are names that lm-eval knows, or that are
    defined in the folder `include`; of each the first `limit` documents are used, all if None; `metrics` names the one
    that counts for a task. `digest` is that of all this, and of the files that belong to it; `measures` is that of what
    has a part in what is measured of a sample: neither names nor thresholds, and not how many samples are used.
    """

    name: str
    description: str
    kind: Kind
    digest: Digest
    measures: Digest
    retain: float | None
    seed: int
    data: Path | None
    passages: int
    window: int
    gate: tuple[str, ...]
    tasks: tuple[str, ...]
    include: Path | None
    limit: int | None
    fewshot: int | None
    metrics: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, with what is of its kind alone."""
        own = {key: getattr(self, key) for key in _OF_KIND[self.kind]}
        paths = {key: str(value) if isinstance(value, Path) else value for key, value in own.items()}
        known = {"name": self.name, "description": self.description, "kind": self.kind.value, "digest": self.digest}
        return {**known, "retain": self.retain, "seed": self.seed, **paths}


@cache
def shipped() -> tuple[Suite, ...]:
    """The suites that come with packer, by name."""
    return tuple(read_suite(path) for path in sorted(SHIPPED.glob("*.yaml")))


def find_suite(said: str | Mapping[str, Any], folder: Path) -> Suite:
    """The suite of that name, in that file, or written out; what it names lies in `folder`.

    `UsageError` if there is none.
    """
    if not isinstance(said, str):
        return _made({"name": "custom", **said}, folder, "suite")
    if is_path(said):
        return read_suite(folder / said)
    known = {suite.name: suite for suite in shipped()}
    if said in known:
        return known[said]
    raise no_such("suite", said, known, f"name one of them, a file (.yaml), or {{tasks: [{said}]}}")


def read_suite(path: Path) -> Suite:
    """The suite in a file; `UsageError` if it is none."""
    document = parse_map(read_bounded(path, "suite"), "suite", _Document, str(path))
    return _made({"name": path.stem, **document}, path.parent, str(path))


def _made(document: Mapping[Any, Any], folder: Path, origin: str) -> Suite:
    said = validated(document, "suite", _Document, origin)
    kind = said.kind or (Kind.TASKS if said.tasks else Kind.FIDELITY)
    other = Kind.FIDELITY if kind is Kind.TASKS else Kind.TASKS
    if idle := sorted(said.model_fields_set & set(_OF_KIND[other])):
        raise UsageError(
            f"a suite of the kind {kind.value} has no {idle[0]}",
            subject=origin,
            expected=", ".join(_OF_KIND[kind]),
            hint="leave it out, or make two suites",
        )
    if kind is Kind.TASKS and not said.tasks:
        raise UsageError("this suite names no task", subject=origin, hint="tasks: [arc_easy], such as lm-eval knows")
    if unknown := sorted(set(said.gate) - set(MEASURES)):
        raise UsageError(
            "this is nothing that is measured",
            subject=origin,
            expected=", ".join(MEASURES),
            found=printable(unknown[0]),
        )
    data, include = ((folder / each) if each else None for each in (said.data, said.include))
    known = {**said.model_dump(mode="json", exclude={"data", "include"}), "kind": kind.value}
    files = {"data": _digests(data, origin), "include": _digests(include, origin)}
    measuring = {key: known[key] for key in ("kind", *_MEASURING[kind])}
    return Suite(
        **{**said.model_dump(), "kind": kind, "data": data, "include": include},
        digest=digest_of(encode({**known, **files})),
        measures=digest_of(encode({**measuring, "include": files["include"]})),
    )


def _digests(path: Path | None, origin: str) -> dict[str, str]:
    """The digests of a file, or of all files of a folder, by name."""
    if path is None:
        return {}
    if not path.exists():
        raise UsageError("the suite names what is not there", subject=origin, found=str(path))
    there = (each for each in path.rglob("*") if each.is_file() and not is_aside(each.relative_to(path)))
    files = sorted(there) if path.is_dir() else [path]
    return {str(each.relative_to(path.parent)): FileBlob.at(each).descriptor.digest for each in files}


def is_aside(path: Path) -> bool:
    """Whether a file is hidden, or what Python has made of another."""
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
