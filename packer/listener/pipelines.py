"""PipelineRuns as documents: what one is called, how far it is, and what came of it.

https://tekton.dev/docs/pipelines/pipelineruns/ and .../taskruns/ (status).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from formats.text import printable
from packer.failures import REFUSALS
from packer.listener.records import Outcome, RunState
from registry.errors import UsageError

NAME, MANAGER = "app.kubernetes.io/name", "app.kubernetes.io/managed-by"
BUILD, INPUTS = "packer/build", "packer/inputs"
"""Labels of a run: the build, by its name in the listener, and the digest of the inputs that it is to be made of."""

MAX_NAME = 63
"""Characters of a label's value, which the name of a PipelineRun becomes."""

_SHORT = 16
"""Characters of a digest in labels."""

_KILLED, _NO_MEMORY = 137, 6
_UNSTARTED = re.compile(
    r"Couldnt\w*|Invalid\w*|Parameter\w*|Required\w*|\w*ValidationFailed\w*|ResourceVerification\w*"
)
"""Reasons of a run that never began: what it is made of is wrong, or not in the cluster."""

_OBJECTS = {"modelpack_ARTIFACT_OUTPUTS": "MODELPACK_DIGEST"}
"""Results that are objects, by the names of what their digests are."""

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """The run that `packer ci tekton` wrote: `name` is that of the Pipeline's objects."""

    document: Document
    path: Path

    @property
    def name(self) -> str:
        """What the objects of the Pipeline are called, which all its runs have as a label."""
        return str(self.document["metadata"]["labels"][NAME])

    @property
    def namespace(self) -> str:
        """Where it belongs."""
        return str(self.document["metadata"].get("namespace") or "default")

    @property
    def selector(self) -> str:
        """The labels of all runs of the Pipeline, whoever started them."""
        return ",".join(f"{label}={self.document['metadata']['labels'][label]}" for label in (NAME, MANAGER))

    def run(self, build: str, inputs: str, attempt: int, number: int) -> dict[str, Any]:
        """The PipelineRun of a build: the same name for the same inputs, attempt and number."""
        meta = {key: value for key, value in self.document["metadata"].items() if key != "generateName"}
        labels = {**meta["labels"], BUILD: label_of(build), INPUTS: inputs[:_SHORT]}
        tail = f"{inputs[:10]}-{attempt}" + (f"-{number}" if number else "")
        name = f"{self.name[: MAX_NAME - len(tail) - 1].rstrip('-.')}-{tail}"
        return {**self.document, "metadata": {**meta, "name": name, "labels": labels}}

    @property
    def folder(self) -> tuple[str, Mapping[str, str]] | None:
        """The ConfigMap with the build file's folder, and its keys by paths (none: as they are); None without one."""
        spaces = self.document["spec"].get("workspaces", ())
        found = next(
            (space["configMap"] for space in spaces if space["name"] == "build" and "configMap" in space), None
        )
        return (found["name"], {item["path"]: item["key"] for item in found.get("items", ())}) if found else None


def read_template(path: Path) -> Template:
    """The run in a file; `UsageError` if it is none that `packer ci tekton` wrote."""
    hint = "packer ci tekton FILE --packer-image IMAGE --out tekton, beside the build file"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        labels = document["metadata"]["labels"]
        is_one = document["kind"] == "PipelineRun" and document["spec"] and labels[NAME] and labels[MANAGER]
    except OSError as error:
        what = f"this run cannot be read: {error.strerror}"
        raise UsageError(what, subject=str(path), hint=hint) from error
    except (ValueError, yaml.YAMLError, TypeError, KeyError) as error:
        raise UsageError("this is no run that packer ci tekton wrote", subject=str(path), hint=hint) from error
    if not is_one:
        raise UsageError("this is no run that packer ci tekton wrote", subject=str(path), hint=hint)
    return Template(document, path)


def label_of(text: str) -> str:
    """A name as the value of a label: one of other letters, or too long, ends with a digest of it."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", text):
        return text
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return f"{plain[-50:].strip('-._') or 'build'}-{sha256(text.encode()).hexdigest()[:8]}"


def is_of(run: Document, inputs: str) -> bool:
    """Whether a run was started for these inputs."""
    return bool(run["metadata"].get("labels", {}).get(INPUTS) == inputs[:_SHORT])


def ended(run: Document) -> bool:
    """Whether a run of a Pipeline or of a Task has come to an end."""
    return _condition(run).get("status") in ("True", "False")


def succeeded(run: Document) -> bool:
    """Whether it ended well."""
    return _condition(run).get("status") == "True"


def _condition(run: Document) -> Mapping[str, Any]:
    conditions = run.get("status", {}).get("conditions", ())
    return next((one for one in conditions if one.get("type") == "Succeeded"), {})


def step(run: Document) -> dict[str, Any]:
    """How far a run is: the task that began last, and what Tekton says of it all."""
    begun = [child.get("pipelineTaskName", "") for child in run.get("status", {}).get("childReferences", ())]
    said = _condition(run).get("message") or "waits to be started"
    return {"stage": begun[-1] if begun else "", "text": printable(f"{run['metadata']['name']}: {said}")[:300]}


@dataclass(frozen=True)
class Variant:
    """What the tasks of one variant said: their results, by name. `name` is empty where there are no variants."""

    name: str
    results: Mapping[str, str]

    @property
    def is_published(self) -> bool:
        """Whether there is an image of it."""
        return bool(self.results.get("IMAGE_URL") and self.results.get("IMAGE_DIGEST"))

    @property
    def retention(self) -> float | None:
        """The share that it retains, if it was measured."""
        said = self.results.get("RETENTION")
        return float(said) if said else None


def variants(tasks: Sequence[Document]) -> list[Variant]:
    """The variants, of the TaskRuns of a run."""
    found: dict[str, dict[str, str]] = {}
    for task in tasks:
        texts = dict(map(_text, task.get("status", {}).get("results", ())))
        found.setdefault(_variant(task), {}).update({name: text for name, text in texts.items() if text})
    return [Variant(name, results) for name, results in found.items()]


def _text(result: Document) -> tuple[str, str]:
    """A result as a name and a text: of an object, which is about an artifact, the digest."""
    name, value = str(result["name"]), result["value"]
    if isinstance(value, dict):
        return _OBJECTS.get(name, name), str(value.get("digest", ""))
    return name, str(value).strip()


def _variant(task: Document) -> str:
    given = task.get("spec", {}).get("params", ())
    return next((str(param["value"]) for param in given if param["name"] == "variant"), "")


def failure(run: Document, tasks: Sequence[Document]) -> Outcome:
    """How a run that failed did: as its task did that says the most, one that may pass before one that refused."""
    failed = sorted(map(_failed, filter(_has_failed, tasks)), key=lambda one: one[0] in REFUSALS)
    condition = _condition(run)
    if not failed:
        code = 2 if _UNSTARTED.fullmatch(condition.get("reason", "")) else 1
        said = f"{condition.get('reason')}: {condition.get('message', '')}"
        error = f"PipelineRun {run['metadata']['name']} failed: {said}"
        return Outcome(RunState.FAILED, code, error=printable(error)[:1000])
    code = failed[0][0]
    error = "; ".join(said for _, said in failed)
    state = RunState.REFUSED if code in REFUSALS else RunState.FAILED
    return Outcome(state, code, error=printable(error)[:1000])


def _has_failed(task: Document) -> bool:
    return ended(task) and not succeeded(task)


def _failed(task: Document) -> tuple[int, str]:
    """The exit code of a task that failed, and what it was."""
    name, variant = task["metadata"].get("labels", {}).get("tekton.dev/pipelineTask", "?"), _variant(task)
    what = f"task {name} of {variant}" if variant else f"task {name}"
    steps = [step["terminated"] for step in task["status"].get("steps", ()) if step.get("terminated")]
    last = next((one for one in steps if one.get("exitCode")), None)
    reason = _condition(task).get("reason", "")
    if not last or reason in ("TaskRunTimeout", "TaskRunCancelled"):
        message = " ".join(str(_condition(task).get("message", "")).split())[:200]
        return (5 if "Pull" in reason else 1), f"{what}: {reason}: {message}"
    code = last["exitCode"]
    if last.get("reason") == "OOMKilled" or code == _KILLED:
        return _NO_MEMORY, f"{what}: it was ended for want of memory ({last.get('reason') or code})"
    return code, f"{what}: {_SAID.get(code, f'exit {code}')} ({reason})"


_SAID = {
    2: "the build file or the command line is wrong, exit 2",
    3: "the model is not acceptable, exit 3",
    4: "it lost too much, exit 4",
    5: "a registry or the source failed, exit 5",
    6: "not enough disk or memory, exit 6",
}


def of_variant(said: Variant, outputs: Any | None) -> dict[str, Any]:
    """A variant as the outcome of a run has it; `outputs` are what was published of it."""
    return {
        "image": outputs.image if outputs else None,
        "modelpack": outputs.modelpack if outputs else None,
        "tags": list(outputs.tags) if outputs else [],
        "verdict": said.results.get("VERDICT"),
        "retention": said.retention,
        "bytes": 0 if said.results.get("CHANGED") == "false" else None,
        "report": False,
    }


def _each(texts: Mapping[str, str], keys: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, key in (keys or {key: key for key in texts}).items():
        yield path, texts.get(key, "")


def other_file(folder: Path, texts: Mapping[str, str], keys: Mapping[str, str]) -> str:
    """The first file of a ConfigMap that is not the one in a folder; empty if all are the same."""
    for path, text in _each(texts, keys):
        try:
            is_same = (folder / path).read_text(encoding="utf-8") == text
        except (OSError, ValueError):
            is_same = False
        if not is_same:
            return path
    return ""
