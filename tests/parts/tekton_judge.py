"""Documents for Tekton, judged: its kinds by schemas of ours, what is Kubernetes' own by Kubernetes' schemas."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = ("1.29", "1.37")
"""The oldest and the newest Kubernetes: older ones are nobody's any more, newer ones have no schemas here."""

SCHEMAS = Path(__file__).with_name("tekton.yaml")


def judge(document: dict[str, Any]) -> None:
    """Raise for whatever a cluster would not take as it is: unknown names too."""
    if "tekton.dev" in document["apiVersion"]:
        jsonschema.validate(document, schema(f"{document['apiVersion']} {document['kind']}"))
        own = _OWN.get(document["kind"], lambda _: iter(()))
        parts = list(own(document["spec"]))
    else:
        parts = [document]
    for part in parts:
        for version in VERSIONS:
            kubernetes_validate.validate(part, version, strict=True)


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The schema of a kind, such as `tekton.dev/v1 Task`."""
    schemas = yaml.safe_load(SCHEMAS.read_text())
    return {**schemas[name], "definitions": schemas["definitions"]}


def _task(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A Task as the pod that it becomes."""
    containers = [
        {("resources" if key == "computeResources" else key): value for key, value in step.items()}
        for step in spec["steps"]
    ]
    yield _pod({"containers": containers, "volumes": spec.get("volumes", [])})


def _pipeline(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for task in spec["tasks"]:
        if "taskSpec" in task:
            yield from _task(task["taskSpec"])


def _run(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod template, and workspaces as volumes."""
    template = spec.get("taskRunTemplate", {}).get("podTemplate", {})
    yield _pod({"containers": [{"name": "any"}], "volumes": spec["workspaces"], **template})


def _template(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for run in spec["resourcetemplates"]:
        yield from _run(run["spec"])


_OWN = {"Task": _task, "Pipeline": _pipeline, "PipelineRun": _run, "TriggerTemplate": _template}


def _pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}
