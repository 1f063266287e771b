"""What Tekton does with a PipelineRun, as far as our documents go: each step runs in podman, in packer's image.

It stands for a cluster, which no test machine has. What is here follows Tekton's documentation: parameters and their
defaults, workspaces, results of texts and objects and how long all of a task may be, a matrix side by side, the order
of tasks, and retries, which run a whole task again on the same volumes. What is not understood of a document is an
error. A volume belongs to the pod's fsGroup; a step has the user, the rights and the root that its document says.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import yaml

from tests.parts.command import packer
from tests.parts.image import Packer
from tests.parts.tekton_judge import judge

MAX_MESSAGE = 4096
"""Bytes of the termination message, which holds all results of a task."""

_VARIABLE = re.compile(r"\$\(([^()]*)\)")
Document = dict[str, Any]
Meanwhile = Callable[[str, str, Event], None]
"""What is done beside a try of a task: its name, its container's, and what says that it has ended."""


@dataclass
class TaskRun:
    """A task that has run: how often, what it said each time, and its results."""

    task: str
    params: Mapping[str, str]
    codes: list[int] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def has_succeeded(self) -> bool:
        """Whether its last try did."""
        return bool(self.codes) and self.codes[-1] == 0


@dataclass
class PipelineRun:
    """A run to its end: tasks in the order in which they ended."""

    tasks: list[TaskRun] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def has_succeeded(self) -> bool:
        """Whether all tasks did."""
        return all(task.has_succeeded for task in self.tasks)

    def of(self, task: str) -> list[TaskRun]:
        """The runs of one of the Pipeline's tasks."""
        return [run for run in self.tasks if run.task == task]


class Cluster:
    """Documents that were applied, and volumes in a folder. `flags` are podman's, for every step."""

    def __init__(self, packer: Packer, folder: Path, *flags: str) -> None:
        self._packer, self._folder, self._flags = packer, folder, flags
        self._objects: dict[tuple[str, str], Document] = {}
        self.secrets: dict[str, dict[str, str]] = {}

    def apply(self, *files: Path) -> None:
        """Take documents, each of which a cluster would take."""
        for path in files:
            for document in yaml.safe_load_all(path.read_text()):
                judge(document)
                self._objects[document["kind"], document["metadata"]["name"]] = document

    def volume(self, claim: str) -> Path:
        """The folder of a PersistentVolumeClaim."""
        assert ("PersistentVolumeClaim", claim) in self._objects
        return self._folder / "volumes" / claim

    def create(self, path: Path, meanwhile: Meanwhile = lambda task, container, ended: None) -> PipelineRun:
        """Run a PipelineRun to its end. `meanwhile` is called beside each try, with the task and its container."""
        (document,) = yaml.safe_load_all(path.read_text())
        judge(document)
        spec = document["spec"]
        assert ("ServiceAccount", spec["taskRunTemplate"]["serviceAccountName"]) in self._objects
        pipeline = self._objects["Pipeline", spec["pipelineRef"]["name"]]["spec"]
        params = _filled(pipeline.get("params", []), spec.get("params", []))
        bound = {each["name"]: self._bound(each, spec) for each in spec["workspaces"]}
        assert {each["name"] for each in pipeline["workspaces"] if not each.get("optional")} <= bound.keys()
        done, runs = set[str](), PipelineRun()
        for task in _ordered(pipeline["tasks"]):
            assert set(task.get("runAfter", ())) <= done
            known = {f"params.{name}": value for name, value in params.items()}
            known |= {
                f"tasks.{each.task}.results.{key}": value for each in runs.tasks for key, value in each.results.items()
            }
            runs.tasks += self._fan(task, known, bound, spec["taskRunTemplate"]["podTemplate"], meanwhile)
            if not runs.has_succeeded:
                return runs
            done.add(task["name"])
        known |= {
            f"tasks.{each.task}.results.{key}": value for each in runs.tasks for key, value in each.results.items()
        }
        runs.results = {each["name"]: replaced(each["value"], known) for each in pipeline.get("results", ())}
        return runs

    def _fan(
        self, task: Document, known: Mapping[str, Any], bound: Mapping[str, Path], pod: Document, meanwhile: Meanwhile
    ) -> list[TaskRun]:
        """A task for each combination of its matrix, side by side."""
        assert task.keys() <= {"name", "taskRef", "params", "matrix", "workspaces", "runAfter", "retries", "timeout"}
        spec = self._objects["Task", task["taskRef"]["name"]]["spec"]
        fixed = {each["name"]: replaced(each["value"], known) for each in task.get("params", ())}
        axes = [[(each["name"], value) for value in each["value"]] for each in task.get("matrix", {}).get("params", ())]
        assert not fixed.keys() & {name for axis in axes for name, _ in axis}
        spaces = {each["name"]: bound.get(each["workspace"]) for each in task["workspaces"]}
        runs = [TaskRun(task["name"], {**fixed, **dict(chosen)}) for chosen in itertools.product(*axes)]
        with ThreadPoolExecutor(len(runs)) as pool:
            started = [pool.submit(self._try, each, spec, spaces, pod, task["retries"], meanwhile) for each in runs]
            for future in started:
                future.result()
        return runs

    def _try(
        self,
        task: TaskRun,
        spec: Document,
        spaces: Mapping[str, Path | None],
        pod: Document,
        retries: int,
        meanwhile: Meanwhile,
    ) -> None:
        """Run a task until it succeeds, or was tried often enough."""
        given = [{"name": name, "value": value} for name, value in task.params.items()]
        params = _filled(spec["params"], given)
        assert {each["name"] for each in spec["workspaces"] if not each.get("optional")} <= spaces.keys()
        known: dict[str, Any] = {f"params.{name}": value for name, value in params.items()}
        known["context.taskRun.uid"] = str(uuid4())  # one for all tries
        for each in spec["workspaces"]:
            path = spaces.get(each["name"])
            known[f"workspaces.{each['name']}.path"] = f"/workspace/{each['name']}" if path else ""
        writes = {each["name"] for each in spec["workspaces"] if not each.get("readOnly")}
        mounts = [
            f"--volume={path}:/workspace/{name}{'' if name in writes else ':ro'}"
            for name, path in spaces.items()
            if path
        ]
        while len(task.codes) <= retries and not task.has_succeeded:
            self._once(task, spec, known, mounts, pod, meanwhile)

    def _once(
        self,
        task: TaskRun,
        spec: Document,
        known: Mapping[str, Any],
        mounts: list[str],
        pod: Document,
        meanwhile: Meanwhile,
    ) -> None:
        """One try: the steps one after another, and at the end the results."""
        number = len(task.codes)
        name = "-".join([task.task, *(value for key, value in task.params.items() if key != "file"), str(number)])
        place = self._folder / "pods" / name
        results = _writable(place / "results", pod)
        mounts = [*mounts, f"--volume={results}:/tekton/results"]
        scratch = {each["name"]: _writable(place / each["name"], pod) for each in spec["volumes"]}
        for step in spec["steps"]:
            inner = [f"--volume={scratch[each['name']]}:{each['mountPath']}" for each in step["volumeMounts"]]
            ended = Event()
            with ThreadPoolExecutor(1) as pool:
                beside = pool.submit(meanwhile, task.task, name, ended)
                code, log = self._step(step, known, [*mounts, *inner], pod, name)
                ended.set()
                beside.result()
            task.codes.append(code)
            task.logs.append(log)
            if code:
                return
        task.results = dict(_results(spec.get("results", ()), results))

    def _step(
        self, step: Document, known: Mapping[str, Any], mounts: list[str], pod: Document, name: str
    ) -> tuple[int, str]:
        words = [replaced(word, known) for word in (*step["command"], *step["args"])]
        env = [f"--env={each['name']}={replaced(each['value'], known)}" for each in step["env"] if "value" in each]
        assert all(each["valueFrom"]["secretKeyRef"]["optional"] for each in step["env"] if "value" not in each)
        flags = [*_jail(step["securityContext"], pod["securityContext"]), *mounts, *env, *self._flags]
        flags += ["--rm", "--no-healthcheck", f"--name={name}", f"--entrypoint={json.dumps(words[:1])}"]
        done = self._packer.podman.run("run", *flags, self._packer.id, *words[1:], check=False, timeout=3000)
        return done.returncode, done.stdout + done.stderr

    def _bound(self, space: Document, spec: Document) -> Path:
        """The folder of a workspace's volume."""
        pod = spec["taskRunTemplate"]["podTemplate"]
        if claim := space.get("persistentVolumeClaim"):
            return _writable(self.volume(claim["claimName"]), pod)
        source = space.get("configMap") or space["secret"]
        folder: Path = self._folder / "volumes" / (source.get("name") or source["secretName"])
        if "configMap" in space:
            data = self._objects["ConfigMap", source["name"]]["data"]
        else:
            assert source.get("optional") or source["secretName"] in self.secrets
            data = self.secrets.get(source["secretName"], {})
        items = source.get("items", [{"key": key, "path": key} for key in data])
        folder.mkdir(parents=True, exist_ok=True)
        for item in items if data else ():
            (folder / item["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / item["path"]).write_text(data[item["key"]])
        return folder


def applied(folder: Path, image: Packer, text: str, *flags: str) -> tuple[Cluster, Path]:
    """A cluster with the documents for a build file, and the PipelineRun to create."""
    (folder / "packer.yaml").write_text(text)
    out, name = folder / "out", "registry.example.com/tools/packer:v1"
    packer("ci", "tekton", folder / "packer.yaml", "--packer-image", f"{name}@sha256:{'1' * 64}", "--out", out)
    cluster = Cluster(image, folder / "cluster", *flags)
    cluster.apply(*sorted(out.glob("*.yaml")))
    return cluster, out / "run/run.yaml"


def replaced(text: str, known: Mapping[str, Any]) -> str:
    """A text with its variables replaced; `KeyError` for one that nobody knows."""
    return _VARIABLE.sub(lambda match: str(known[match[1]]), text)


def _filled(declared: list[Document], given: list[Document]) -> dict[str, Any]:
    """The parameters that were given, and the defaults of those that were not."""
    values = {each["name"]: each["value"] for each in given}
    assert values.keys() <= {each["name"] for each in declared}, values
    missing = [each["name"] for each in declared if each["name"] not in values and "default" not in each]
    assert not missing, missing
    return {each["name"]: values.get(each["name"], each.get("default")) for each in declared}


def _ordered(tasks: list[Document]) -> Iterator[Document]:
    """Tasks after those that they run after."""
    waiting, done = list(tasks), set[str]()
    while waiting:
        ready = next(task for task in waiting if set(task.get("runAfter", ())) <= done)
        waiting.remove(ready)
        done.add(ready["name"])
        yield ready


def _results(declared: list[Document], folder: Path) -> Iterator[tuple[str, Any]]:
    """What a task has written, of what it declares; all of it fits into a termination message."""
    texts = {each["name"]: (folder / each["name"]).read_text() for each in declared}
    message = json.dumps([{"key": key, "value": value, "type": 1} for key, value in texts.items()])
    assert len(message.encode()) <= MAX_MESSAGE
    for each in declared:
        if each["type"] == "object":
            value = json.loads(texts[each["name"]])
            assert value.keys() >= each["properties"].keys()
            yield each["name"], value
        else:
            yield each["name"], texts[each["name"]]


def _jail(step: Document, pod: Document) -> Iterator[str]:
    """The rights of a step. Without a group of its own, a user's is 0, besides the pod's."""
    assert step["runAsNonRoot"] and pod["runAsUser"] != 0
    yield from (f"--user={pod['runAsUser']}:0", f"--group-add={pod['fsGroup']}")
    yield from (f"--cap-drop={name}" for name in step["capabilities"]["drop"])
    if step["readOnlyRootFilesystem"]:
        yield from ("--read-only", "--read-only-tmpfs=false")
    if not step["allowPrivilegeEscalation"]:
        yield "--security-opt=no-new-privileges"


def _writable(folder: Path, pod: Document) -> Path:
    """A volume, which the kubelet gives to the pod's group."""
    if not folder.exists():
        folder.mkdir(parents=True)
        os.chown(folder, 0, pod["securityContext"]["fsGroup"])
        folder.chmod(0o2775)
    return folder
