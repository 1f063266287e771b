"""The Kubernetes API, as far as the listener needs it: pipelines that run, their tasks, and a ConfigMap by its name.

https://kubernetes.io/docs/reference/using-api/api-concepts/ (watches, resource versions, errors). Needs no more rights
than the Role in `deploy/kubernetes/listener.yaml` gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaml import YAMLError

from formats.text import printable
from registry.errors import ResponseError, TransferError, UsageError

GROUP, VERSION = "tekton.dev", "v1"
ROLE = "deploy/kubernetes/listener.yaml"

_PATIENCE = (5, 10)
"""Seconds to connect, and to wait for the next bytes."""

Document = dict[str, Any]


class ClusterError(ResponseError):
    """The API server answered with an error, whose HTTP status is `status`."""

    def __init__(self, what: str, status: int, *, subject: str, found: str = "", hint: str = "") -> None:
        super().__init__(what, subject=subject, found=found or None, hint=hint)
        self.status = status


@dataclass(frozen=True)
class Cluster:
    """A namespace of a cluster. `client` is the official one's `ApiClient`."""

    client: Any
    namespace: str

    @property
    def host(self) -> str:
        """The URL of the API server."""
        return str(self.client.configuration.host)

    def runs(self, labels: str) -> list[Document]:
        """The PipelineRuns with these labels, the oldest first."""
        found, _ = self._list("pipelineruns", label_selector=labels)
        return sorted(found, key=lambda run: (run["metadata"].get("creationTimestamp", ""), run["metadata"]["name"]))

    def run(self, name: str) -> tuple[Document | None, str]:
        """A PipelineRun, None if it is not there, and the version of the list it was in, to watch it from."""
        found, version = self._list("pipelineruns", field_selector=f"metadata.name={name}")
        return next(iter(found), None), version

    def task_runs(self, run: str) -> list[Document]:
        """The TaskRuns of a PipelineRun."""
        return self._list("taskruns", label_selector=f"tekton.dev/pipelineRun={run}")[0]

    def create(self, run: Document) -> Document:
        """Create a PipelineRun; `ClusterError` 409 if there is one of that name."""
        with self._asking("create", "pipelineruns"):
            api = self._objects()
            made: Document = api.create_namespaced_custom_object(
                GROUP, VERSION, self.namespace, "pipelineruns", run, _request_timeout=_PATIENCE
            )
        return made

    def watch(self, name: str, version: str, seconds: int) -> Iterator[Document]:
        """What happens to a PipelineRun after a version, for that many seconds: events with `type` and `object`.

        `ClusterError` 410 if the server does not know that version any more.
        """
        from kubernetes.watch import Watch

        with self._asking("watch", "pipelineruns"):
            events = Watch().stream(
                self._objects().list_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                "pipelineruns",
                field_selector=f"metadata.name={name}",
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=seconds,
                _request_timeout=_PATIENCE,
            )
            for event in events:
                if event:  # what is no JSON is nothing
                    yield {"type": event["type"], "object": event["raw_object"]}

    def texts(self, config_map: str) -> Mapping[str, str]:
        """What a ConfigMap holds."""
        from kubernetes.client import CoreV1Api

        with self._asking("get", "configmaps", config_map):
            found = CoreV1Api(self.client).read_namespaced_config_map(
                config_map, self.namespace, _request_timeout=_PATIENCE
            )
        return dict(found.data or {})

    def _objects(self) -> Any:
        from kubernetes.client import CustomObjectsApi

        return CustomObjectsApi(self.client)

    def _list(self, plural: str, **selected: str) -> tuple[list[Document], str]:
        with self._asking("list", plural):
            answer = self._objects().list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, plural, _request_timeout=_PATIENCE, **selected
            )
        return answer["items"], answer["metadata"]["resourceVersion"]

    @contextmanager
    def _asking(self, verb: str, plural: str, name: str = "") -> Iterator[None]:
        """Errors of the block, as ours."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            raise self._refused(error, verb, plural, name) if error.status else self._away(error) from error
        except (HTTPError, OSError) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> TransferError:
        found = printable(" ".join(str(error).split()))[:200]
        what = "the API server of the cluster cannot be reached, or broke off"
        return TransferError(what, subject=self.host, found=found).passing()

    def _refused(self, error: Any, verb: str, plural: str, name: str) -> ClusterError:
        what, hint = f"the API server answered {error.status} to {verb} {plural}", ""
        place = f"{plural}/{name} in {self.namespace}" if name else f"{plural} in {self.namespace}"
        if error.status == 403:
            what, hint = f"this account may not {verb} {place}", f"give it the Role in {ROLE}"
        elif error.status == 401:
            what, hint = "the API server does not know this account", "look at its token, or at the kubeconfig"
        elif error.status == 404:
            what = f"there is no {place}"
            hint = "apply what packer ci tekton wrote" if name else "is Tekton Pipelines installed?"
        refused = ClusterError(what, error.status, subject=self.host, found=_message(error), hint=hint)
        return refused.passing() if error.status == 429 or error.status >= 500 else refused


def _message(error: Any) -> str:
    """What the server said, on one line."""
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = error.reason
    return printable(" ".join(str(said).split()))[:300]


def connect(kubeconfig: Path | None, context: str | None, namespace: str) -> Cluster:
    """The cluster that a kubeconfig names, or the one that this process is in; `UsageError` if there is none."""
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        hint = "pip install 'packer[kubernetes]'"
        raise UsageError("the client of Kubernetes is not here", found=f"no module {error.name}", hint=hint) from error
    settings = client.Configuration()
    settings.retries = 0  # who asks knows better when to ask again
    try:
        if kubeconfig:
            config.load_kube_config(str(kubeconfig), context, settings, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=settings)
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        subject = str(kubeconfig) if kubeconfig else "the pod that the listener runs in"
        hint = "tekton: {kubeconfig: FILE} names a cluster; without it the listener runs in one"
        found = printable(" ".join(str(error).split()))[:200]
        raise UsageError("this leads to no cluster", subject=subject, found=found, hint=hint) from error
    return Cluster(client.ApiClient(settings), namespace)
