"""A DaemonSet that has the model's image pulled on every node that matches, before anybody needs it there."""

from __future__ import annotations

from containers.layers import ROOT
from containers.manifests.document import Document, Manifests
from containers.manifests.model import Model
from containers.manifests.options import Options
from containers.manifests.pods import Json, container_security, metadata, placement, pod_security, selector, small
from containers.manifests.pods import labels as labels_of
from containers.manifests.quantity import MI
from containers.manifests.serving import name_of

PAUSE = "registry.k8s.io/pause:3.10"
"""Kubernetes' own image that does nothing, for model images that have no shell to do so."""


def prefetch(model: Model, options: Options) -> Manifests:
    """A pod on each node holds the image: it is pulled, and stays while the DaemonSet does."""
    name = f"{name_of(model, options)}-prefetch"
    container, volumes = (_holder(model), []) if model.has_shell else _mounter(model)
    gpus = 1 if options.gpu is None else options.gpu
    pod = {
        **placement(model, options, gpus),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": pod_security(is_any_user=True),
        "containers": [container],
        **({"volumes": volumes} if volumes else {}),
    }
    body = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata(model, options, name),
        "spec": {
            "selector": {"matchLabels": selector(name)},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"metadata": {"labels": labels_of(name)}, "spec": pod},
        },
    }
    if model.has_shell:
        return Manifests((Document(body, _NOTES),), ("Kubernetes 1.25, any container runtime",), 25)
    return Manifests(
        (Document(body, _NOTES),),
        ("Kubernetes 1.35, or 1.33 with the gate ImageVolume; containerd 2.2 or CRI-O 1.33",),
        33,
    )


_NOTES = """
On every node that --node-selector chooses, those with GPUs among them. While its pods run, no node's garbage
collection takes the image away.
"""


def _holder(model: Model) -> Json:
    return {
        "name": "hold",
        "image": str(model.reference),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "resources": small(16 * MI),
        "securityContext": container_security(),
    }


def _mounter(model: Model) -> tuple[Json, list[Json]]:
    volume = {"name": "model", "image": {"reference": str(model.reference), "pullPolicy": "IfNotPresent"}}
    mount = {"name": "model", "mountPath": f"/{ROOT}", "subPath": ROOT, "readOnly": True}
    container = {
        "name": "hold",
        "image": PAUSE,
        "resources": small(16 * MI),
        "securityContext": container_security(),
        "volumeMounts": [mount],
    }
    return container, [volume]
