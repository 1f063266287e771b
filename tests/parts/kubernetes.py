"""Documents for clusters, judged: those of Kubernetes by its own schemas, those of KServe by ours of its CRDs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

NEWEST = 37
"""The newest minor version of Kubernetes 1 whose schemas are here."""

KSERVE = Path(__file__).with_name("kserve.yaml")


def judge(document: dict[str, Any], version: int) -> None:
    """Raise for whatever a cluster of that version, with KServe, would not take as it is: unknown names too."""
    if document["apiVersion"].startswith("serving.kserve.io/"):
        schema = _schema(f"{document['apiVersion']} {document['kind']}")
        jsonschema.validate(document, schema)
        for wrapped in _parts(document, schema):
            kubernetes_validate.validate(wrapped, f"1.{version}", strict=True)
    else:
        kubernetes_validate.validate(document, f"1.{version}", strict=True)


@functools.cache
def _schema(name: str) -> dict[str, Any]:
    schemas = yaml.safe_load(KSERVE.read_text())
    return {**schemas[name], "definitions": schemas["definitions"]}


def _parts(value: Any, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a document that are Kubernetes' own, each in a whole object."""
    match schema.get("kubernetes"):
        case "containers":
            yield _pod({"containers": [{**each, "image": each.get("image", "kserve/own:v1")} for each in value]})
        case "container":
            yield _pod({"containers": [value]})
        case "volumes":
            yield _pod({"containers": [{"name": "any"}], "volumes": value})
        case str(kind):
            yield {"apiVersion": "v1", "kind": kind, "metadata": {"name": "any"}, "spec": value}
    for name, inner in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            yield from _parts(value[name], inner)


def _pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}
