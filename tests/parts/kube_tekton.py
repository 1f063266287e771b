"""What Tekton's controller does with PipelineRuns in `kube_api`: it gives them statuses, and TaskRuns beside them.

It stands for Tekton in a cluster, which no test machine has; statuses are as Tekton's documentation has them. A build
that it is told to run is a real one, of the files in the ConfigMap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parts.command import packer
from tests.parts.kube_api import Document, KubeApi

Work = Callable[["Tekton", str], None]
"""What is done with a run of that name, to its end."""


@dataclass(frozen=True)
class Task:
    """A task that has run: its exit code (None: its pod never started), results, and the variant it was for."""

    name: str
    code: int | None = 0
    results: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""
    reason: str = ""
    container_reason: str = ""

    def document(self, run: str) -> Document:
        """As a TaskRun that has ended."""
        is_good = self.code == 0
        reason = self.reason or ("Succeeded" if is_good else "Failed")
        name = "-".join(filter(None, (run, self.name, self.variant)))
        terminated = {"exitCode": self.code, "reason": self.container_reason or ("Completed" if is_good else "Error")}
        given = [{"name": "file", "value": "packer.yaml"}]
        return {
            "apiVersion": "tekton.dev/v1",
            "kind": "TaskRun",
            "metadata": {
                "name": name,
                "labels": {"tekton.dev/pipelineRun": run, "tekton.dev/pipelineTask": self.name},
            },
            "spec": {"params": [*given, {"name": "variant", "value": self.variant}] if self.variant else given},
            "status": {
                "conditions": [condition("True" if is_good else "False", reason, f"task {self.name} ended")],
                "steps": [] if self.code is None else [{"name": self.name, "terminated": terminated}],
                "results": [
                    {"name": key, "type": "object" if isinstance(value, dict) else "string", "value": value}
                    for key, value in self.results.items()
                ],
            },
        }


def condition(status: str, reason: str, message: str) -> Document:
    """The condition by which runs tell how they are."""
    return {"type": "Succeeded", "status": status, "reason": reason, "message": message}


class Tekton:
    """The controller: it begins each PipelineRun once, and `work` ends it. `started` are the names of those."""

    def __init__(self, api: KubeApi, work: Work) -> None:
        self.api, self.work = api, work
        self.started: list[str] = []
        self._over = False
        self._threads: list[threading.Thread] = []

    def running(self, name: str, tasks: Sequence[str], message: str) -> None:
        """Say how far a run is: these tasks have begun."""
        children = [
            {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "name": f"{name}-{task}", "pipelineTaskName": task}
            for task in tasks
        ]
        said = {"conditions": [condition("Unknown", "Running", message)], "childReferences": children}
        self.api.status("pipelineruns", name, said)

    def end(self, name: str, tasks: Sequence[Task], reason: str = "", message: str = "") -> None:
        """End a run with these tasks: well if all of them did, and `reason` says nothing else."""
        for task in tasks:
            self.api.put("taskruns", task.document(name))
        is_good = all(task.code == 0 for task in tasks) and not reason
        said = condition("True" if is_good else "False", reason or ("Succeeded" if is_good else "Failed"), message)
        children = [{"name": f"{name}-{task.name}", "pipelineTaskName": task.name} for task in tasks]
        self.api.status("pipelineruns", name, {"conditions": [said], "childReferences": children})

    @contextmanager
    def controlling(self) -> Iterator[Tekton]:
        """Look after runs in the block."""
        loop = threading.Thread(target=self._loop)
        loop.start()
        try:
            yield self
        finally:
            with self.api.changed:
                self._over = True
                self.api.changed.notify_all()
            loop.join()
            for thread in self._threads:
                thread.join()

    def _loop(self) -> None:
        while not self._over:
            with self.api.changed:
                new = [one["metadata"]["name"] for one in self.api.all("pipelineruns") if "status" not in one]
                new = [name for name in new if name not in self.started]
                if not new:
                    self.api.changed.wait(timeout=5)
            for name in new:
                self.started.append(name)
                self._threads.append(threading.Thread(target=self.work, args=(self, name)))
                self._threads[-1].start()


def build(folder: Path) -> Work:
    """Work that builds for real, of the ConfigMap's files in a folder."""

    def work(tekton: Tekton, name: str) -> None:
        (run,) = (one for one in tekton.api.all("pipelineruns") if one["metadata"]["name"] == name)
        spaces = {space["name"]: space for space in run["spec"]["workspaces"]}
        place, results = folder / name, folder / name / "results"
        place.mkdir()
        for key, text in tekton.api.config_map(spaces["build"]["configMap"]["name"])["data"].items():
            (place / key).write_text(text)
        tekton.running(name, ["fetch"], "Tasks Completed: 0 (Failed: 0, Cancelled 0), Incomplete: 2, Skipped: 0")
        done = packer("build", place / "packer.yaml", "--result-dir", results, check=False)
        values = {path.name: path.read_text() for path in results.iterdir() if path.is_file()}
        hint = {"uri": values["MODELPACK_URL"], "digest": values["MODELPACK_DIGEST"], "isBuildArtifact": "true"}
        told = {name: values[name] for name in ("IMAGE_URL", "IMAGE_DIGEST", "CHANGED")}
        fetched = {"SOURCE_REVISION": values["SOURCE_REVISION"]}
        ended = Task("publish", done.returncode, {**told, "modelpack_ARTIFACT_OUTPUTS": hint})
        tekton.end(name, [Task("fetch", 0, fetched), ended])

    return work
