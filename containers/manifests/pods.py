"""The parts that all pods have in common: the server's container, and what it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from containers.manifests.memory import SHARED_MEMORY
from containers.manifests.model import Model
from containers.manifests.options import Kind, Options
from containers.manifests.quantity import GI, MI, quantity
from containers.manifests.serving import USER, Serving

Json = dict[str, Any]

CACHE = 10 * GI
"""Bytes that compiled kernels and other things in the server's home may take."""

SCRATCH = 1 * GI
"""Bytes of /tmp."""

HOME = "/home/server"
CORES = 4
"""Processors that a server asks for, for each GPU."""

REFERENCE = "packer.reference"
"""Annotation: how the model was called before its digest was looked up."""


@dataclass(frozen=True)
class Way:
    """How a mode brings the model into a pod: containers before the server, beside it, and volumes.

    `mounts` are the server's; `prefix` is a command before its own; `disk` the bytes of the node's disk that it takes;
    `path` where the model is, if it is not where it mostly is. `labels`, `pod` and `deployment` are added to the pod's
    labels, to its specification and to that of its Deployment.
    """

    volumes: Sequence[Json]
    mounts: Sequence[Json]
    before: Sequence[Json] = ()
    beside: Sequence[Json] = ()
    prefix: Sequence[str] = ()
    labels: Json = field(default_factory=dict)
    pod: Json = field(default_factory=dict)
    deployment: Json = field(default_factory=dict)
    disk: int = 0
    path: str = ""


def metadata(model: Model, options: Options, name: str, label: str = "", *, is_cluster_wide: bool = False) -> Json:
    """Name, namespace, labels, and the name by which the model was asked for."""
    namespace = {"namespace": options.namespace} if options.namespace and not is_cluster_wide else {}
    return {"name": name, **namespace, "labels": labels(label or name), "annotations": {REFERENCE: model.asked}}


def labels(name: str) -> Json:
    """The labels that Kubernetes recommends."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "packer"}


def selector(name: str) -> Json:
    """The labels by which a server's pods are found."""
    return {"app.kubernetes.io/name": name}


def workload(serving: Serving, way: Way) -> Json:
    """The Deployment, or the Pod, of a server."""
    options, model = serving.options, serving.model
    spec = pod_spec(serving, way)
    head = metadata(model, options, serving.name)
    own = {**labels(serving.name), **way.labels}
    if options.kind is Kind.POD:
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {**head, "labels": own}, "spec": spec}
    template = {"metadata": {"labels": own, "annotations": {REFERENCE: model.asked}}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": head,
        "spec": {
            "replicas": options.replicas,
            "progressDeadlineSeconds": 3600,
            **way.deployment,
            "selector": {"matchLabels": selector(serving.name)},
            "template": template,
        },
    }


def service(serving: Serving) -> Json:
    """The Service before the server's pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(serving.model, serving.options, serving.name),
        "spec": {
            "selector": selector(serving.name),
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


def pod_spec(serving: Serving, way: Way) -> Json:
    """The pod: what brings the model, and the server."""
    before = {"initContainers": list(way.before)} if way.before else {}
    return {
        **way.pod,
        **placement(serving.model, serving.options, serving.gpus),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": pod_security(is_any_user=serving.runtime.any_user),
        **before,
        "containers": [*way.beside, server(serving, way)],
        "volumes": [*way.volumes, *scratch(serving)],
    }


def placement(model: Model, options: Options, gpus: int) -> Json:
    """Where pods may run, and with which login images are pulled."""
    chosen = dict(options.node_selector)
    if len(model.architectures) == 1:
        chosen = {"kubernetes.io/arch": model.architectures[0], **chosen}
    secrets = {"imagePullSecrets": [{"name": options.pull_secret}]} if options.pull_secret else {}
    return {**secrets, **({"nodeSelector": chosen} if chosen else {}), **tolerations(options, gpus)}


def tolerations(options: Options, gpus: int) -> Json:
    """Nodes with GPUs are mostly closed to pods that need none."""
    tolerated = [{"key": options.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    return {"tolerations": tolerated} if gpus else {}


def pod_security(*, is_any_user: bool) -> Json:
    """Nobody's rights, for every container of a pod; volumes belong to its group."""
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    who = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
    }
    return {**who, **profile} if is_any_user else profile


def container_security(*, is_read_only: bool = True) -> Json:
    """No way to more rights, and no writing but to volumes."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        **({"readOnlyRootFilesystem": True} if is_read_only else {}),
    }


def server(serving: Serving, way: Way) -> Json:
    """The server's container."""
    return {
        "name": "server",
        "image": serving.image,
        "command": [*way.prefix, *serving.runtime.command],
        "args": serving.runtime.arguments(serving.server(way.path)),
        "env": environment(serving),
        "ports": [{"name": "http", "containerPort": serving.port}],
        **probes(serving),
        "resources": resources(serving, way.disk),
        "securityContext": container_security(is_read_only=serving.runtime.read_only),
        "volumeMounts": [*way.mounts, *scratch_mounts(serving)],
    }


def environment(serving: Serving) -> list[Json]:
    """The variables of the server: no network but its own port, a home that can be written, a name for its user."""
    offline = {"HF_HUB_OFFLINE": "1"} if serving.model.format == "safetensors" else {}
    variables = {"HOME": HOME, "USER": "server", **offline, **serving.runtime.environment(serving.server())}
    return [{"name": name, "value": value} for name, value in variables.items()]


def probes(serving: Serving) -> Json:
    """Whether it has started, takes requests, and lives; loading may take ten minutes and ten seconds for each GiB."""
    tries = 60 + -(-sum(serving.model.weights.values()) // GI)
    live, ready = (
        {"httpGet": {"path": path, "port": "http"}} for path in (serving.runtime.live, serving.runtime.ready)
    )
    return {
        "startupProbe": {**ready, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": tries},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**live, "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 4},
    }


def resources(serving: Serving, disk: int = 0) -> Json:
    """Memory by the estimate, as a limit half of it more or what there is; GPUs, processors, and room on the disk."""
    memory = serving.estimate.host
    most = (None if serving.gpus else serving.estimate.available) or memory * 3 // 2
    gpus = {serving.options.gpu_resource: serving.gpus} if serving.gpus else {}
    asked = {
        "cpu": str(CORES * max(serving.gpus, 1)),
        "memory": quantity(memory),
        "ephemeral-storage": quantity(disk + SCRATCH),
    }
    return {"requests": {**asked, **gpus}, "limits": {"memory": quantity(most), **gpus}}


def small(memory: int) -> Json:
    """The resources of a container that does next to nothing, with so many bytes of memory."""
    return {"requests": {"cpu": "10m", "memory": quantity(memory)}, "limits": {"memory": quantity(memory)}}


def scratch(serving: Serving) -> list[Json]:
    """The volumes that the server writes to."""
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(SHARED_MEMORY)}}
    return [
        {"name": "home", "emptyDir": {"sizeLimit": quantity(CACHE)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": quantity(SCRATCH)}},
        *([shared] if serving.gpus > 1 else []),
    ]


def scratch_mounts(serving: Serving) -> list[Json]:
    """Where it writes."""
    shared = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - a volume of the pod's own
    return [
        {"name": "home", "mountPath": HOME},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
        *([shared] if serving.gpus > 1 else []),
    ]


def room(size: int) -> int:
    """The bytes that a volume for files of `size` bytes needs: a tenth more, and 64 MiB."""
    return -(-(size * 11 // 10 + 64 * MI) // MI) * MI
