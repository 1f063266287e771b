"""The Pipeline, and a PipelineRun to start it with.

https://tekton.dev/docs/pipelines/pipelines/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from containers.ci.tekton.plan import USER, Document, Plan
from containers.ci.tekton.tasks import MEANINGS, parameters, task_results, tasks, workspaces
from registry.descriptor import digest_of

_KEY, _NO_KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]{1,253}"), re.compile(r"[^-._a-zA-Z0-9]")

RETRIES = 2
"""How often a task is tried again: what it has made stays."""

TIMEOUTS = {"fetch": "4h0m0s", "quantize": "8h0m0s", "evaluate": "4h0m0s", "publish": "4h0m0s"}
"""What one try of each task may take. Tekton's own would be an hour."""


def pipeline(plan: Plan, *, is_whole: bool = False) -> Document:
    """The Pipeline: the stages one after another, each for all variants side by side.

    One that `is_whole` holds its Tasks instead of naming them, so that its digest says all.
    """
    matrix = {"matrix": {"params": [{"name": "variant", "value": list(plan.variants)}]}} if plan.variants else {}
    inner = {document["metadata"]["name"]: document["spec"] for document in tasks(plan)} if is_whole else {}
    return {
        "apiVersion": "tekton.dev/v1",
        "kind": "Pipeline",
        "metadata": plan.meta(plan.name),
        "spec": {
            "description": f"Build {plan.file}, and publish what is good enough.",
            "params": parameters(replace(plan, variants=())),
            "workspaces": [_outer(space) for space in workspaces()],
            "tasks": [
                {
                    "name": stage,
                    **_reference(plan.named(stage), inner),
                    "params": [{"name": "file", "value": "$(params.file)"}],
                    **matrix,
                    "workspaces": [{"name": space["name"], "workspace": space["name"]} for space in workspaces()],
                    **({"runAfter": [plan.stages[at - 1]]} if at else {}),
                    "retries": RETRIES,
                    "timeout": TIMEOUTS[stage],
                }
                for at, stage in enumerate(plan.stages)
            ],
            **({} if plan.variants else {"results": list(map(_result, _results(plan)))}),
        },
    }


def pipeline_run(plan: Plan, bundle: str = "", **more: Any) -> Document:
    """A PipelineRun of it; `bundle` is the bundle that the Pipeline is taken from, if it is not in the namespace."""
    labels = {"kueue.x-k8s.io/queue-name": plan.claim.queue} if plan.claim.queue else {}
    meta = plan.meta("")
    del meta["name"]
    return {
        "apiVersion": "tekton.dev/v1",
        "kind": "PipelineRun",
        "metadata": {"generateName": f"{plan.name}-", **meta, "labels": {**meta["labels"], **labels}, **more},
        "spec": {
            "pipelineRef": _bundled(plan.name, bundle) if bundle else {"name": plan.name},
            "taskRunTemplate": {"serviceAccountName": plan.named("build"), "podTemplate": _pod(plan)},
            # each task has a timeout of its own
            "timeouts": {"pipeline": "0"},
            "workspaces": [
                {"name": "build", "configMap": _folder(plan)},
                {"name": "cache", "persistentVolumeClaim": {"claimName": plan.named("cache")}},
                {"name": "dockerconfig", "secret": _logins(plan)},
            ],
        },
    }


def _outer(space: Document) -> Document:
    """A workspace of the Pipeline: whether it is only read is for its tasks to say."""
    return {key: value for key, value in space.items() if key != "readOnly"}


def _reference(name: str, inner: Mapping[str, Document]) -> Document:
    return {"taskSpec": inner[name]} if inner else {"taskRef": {"name": name, "kind": "Task"}}


def _results(plan: Plan) -> list[str]:
    """Those of the last task that are texts. Variants have theirs in their TaskRuns alone."""
    return [name for name in task_results(plan, "publish") if name.isupper()]


def _result(name: str) -> Document:
    value = f"$(tasks.publish.results.{name})"
    return {"name": name, "description": MEANINGS[name], "type": "string", "value": value}


def _bundled(name: str, bundle: str) -> Document:
    """The Pipeline in a bundle, which the bundles resolver fetches."""
    given = {"bundle": bundle, "name": name, "kind": "pipeline"}
    return {"resolver": "bundles", "params": [{"name": key, "value": value} for key, value in given.items()]}


def _pod(plan: Plan) -> Document:
    security = {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"}
    pod: Document = {"securityContext": security}
    # on the run and not on a task: pods that share a volume are placed where the first one is
    if plan.nodes:
        pod["nodeSelector"] = dict(plan.nodes)
    if plan.uses_gpus:
        pod["tolerations"] = [{"key": plan.claim.gpu, "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _folder(plan: Plan) -> Document:
    """The build file's folder: keys of a ConfigMap are no paths."""
    found: Document = {"name": plan.named("build")}
    keys = {key_of(path): path for path in plan.texts}
    if any(key != path for key, path in keys.items()):
        found["items"] = [{"key": key, "path": path} for key, path in keys.items()]
    return found


def key_of(path: str) -> str:
    """The key of a file in a ConfigMap: its path if that is one, else what is left of it, with a digest in front.

    https://kubernetes.io/docs/concepts/configuration/configmap/#configmap-object
    """
    if _KEY.fullmatch(path):
        return path
    return f"{digest_of(path.encode()).partition(':')[2][:12]}-{_NO_KEY.sub('_', path)[-200:]}"


def _logins(plan: Plan) -> Document:
    items = [{"key": ".dockerconfigjson", "path": "config.json"}]
    return {"secretName": plan.named("registry"), "optional": True, "items": items}
