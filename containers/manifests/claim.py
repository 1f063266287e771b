"""A volume of the cluster's that a Job fills once for each release, and that servers mount read-only."""

from __future__ import annotations

from dataclasses import replace

from containers.manifests.document import Document, Manifests
from containers.manifests.fetching import DOCKER, environment, own_image, resources
from containers.manifests.pods import (
    Json,
    Way,
    container_security,
    metadata,
    placement,
    pod_security,
    room,
    service,
    small,
    workload,
)
from containers.manifests.quantity import GI, MI, quantity
from containers.manifests.serving import MODELS, Serving

CLAIM = "/data"
"""Where the Job has the volume."""


def claim(serving: Serving) -> Manifests:
    """The claim, the Job that pulls into it, and the server."""
    folder = f"{serving.release}{serving.below}"
    path = f"{MODELS}/{folder}"
    mount = {"name": "model", "mountPath": MODELS, "readOnly": True}
    wait = {
        "name": "await-model",
        "image": serving.options.packer_image,
        "command": ["sh", "-c", f"until [ -e {path}/.ready ]; do sleep 5; done"],
        "resources": small(32 * MI),
        "securityContext": container_security(),
        "volumeMounts": [mount],
    }
    volume = {"name": "model", "persistentVolumeClaim": {"claimName": serving.name}}
    way = Way([volume], [mount], [wait], path=path)
    many = _is_shared(serving)
    if not many:
        way = replace(
            way, labels=_label(serving), pod=_together(serving), deployment={"strategy": {"type": "Recreate"}}
        )
    documents = (
        Document(_claim(serving), _MANY if many else _ONE),
        Document(_job(serving, folder), _JOB_NOTES + ("" if many else _TIED)),
        Document(workload(serving, way), _SERVER_NOTES + ("" if many else _ALONE)),
        Document(service(serving)),
    )
    requires = ("Kubernetes 1.25, any container runtime", own_image(serving.options))
    return Manifests(documents, requires, 25)


_SIZE = "Two releases of this size fit. "
_ONE = _SIZE + "Nodes mount it one at a time; with --replicas 2 or more it is asked for by several."
_MANY = _SIZE + "Several nodes mount it: the storage class must offer ReadWriteMany."
_SERVER_NOTES = "Its pods wait for the Job of this release, and mount the volume read-only. "
_ALONE = "The server of another release ends before this one starts, so that no two nodes want the volume."

_JOB_NOTES = """
Pulls the release into a folder of its own, so that servers of an earlier one keep theirs. Every byte is verified; what
was killed goes on where it was; what is whole, and has its marker .ready, is not pulled again.
"""

_TIED = """
Its pod and the server's run on one node, whichever comes first, since one node at a time mounts the volume. It asks for
no processor and no memory, or it might find no room beside a server that waits for it, and uses nothing till then.
"""

VOLUME = "packer.volume"
"""Label: the claim that a pod mounts. It is no part of the selectors of Deployments and Services."""


def _is_shared(serving: Serving) -> bool:
    """Whether several nodes mount the volume."""
    return serving.options.replicas > 1


def _label(serving: Serving) -> Json:
    return {VOLUME: serving.name}


def _together(serving: Serving) -> Json:
    """Where another pod with the same volume runs, if there is one.

    A pod with the label that its own affinity asks for may be the first: the scheduler then takes any node.
    """
    term = {"labelSelector": {"matchLabels": _label(serving)}, "topologyKey": "kubernetes.io/hostname"}
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def _claim(serving: Serving) -> Json:
    model, options = serving.model, serving.options
    storage_class = {"storageClassName": options.storage_class} if options.storage_class else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(model, options, serving.name),
        "spec": {
            "accessModes": ["ReadWriteMany" if _is_shared(serving) else "ReadWriteOnce"],
            **storage_class,
            "resources": {"requests": {"storage": quantity(-(-2 * room(model.size) // GI) * GI)}},
        },
    }


def _job(serving: Serving, folder: str) -> Json:
    model, options = serving.model, serving.options
    login = [{"name": "login", "secret": _secret(options.pull_secret)}] if options.pull_secret else []
    pod = {
        "restartPolicy": "OnFailure",
        **({} if _is_shared(serving) else _together(serving)),
        **placement(model, options, serving.gpus),
        "automountServiceAccountToken": False,
        "securityContext": pod_security(is_any_user=True),
        "containers": [_puller(serving, folder)],
        "volumes": [
            {"name": "model", "persistentVolumeClaim": {"claimName": serving.name}},
            {"name": "tmp", "emptyDir": {"sizeLimit": quantity(GI)}},
            *login,
        ],
    }
    head = {} if _is_shared(serving) else {"metadata": {"labels": _label(serving)}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(model, options, f"{serving.name}-{serving.release}", serving.name),
        "spec": {"backoffLimit": 6, "template": {**head, "spec": pod}},
    }


def _puller(serving: Serving, folder: str) -> Json:
    options, target = serving.options, f"{CLAIM}/{folder}"
    plain = " --plain-http" if options.plain_http else ""
    login = [{"name": "login", "mountPath": DOCKER, "readOnly": True}] if options.pull_secret else []
    return {
        "name": "pull",
        "image": options.packer_image,
        "command": ["sh", "-c", _PULL.format(plain=plain), str(serving.model.reference), target],
        "env": environment(has_login=bool(login)),
        "resources": resources() if _is_shared(serving) else {**resources(), "requests": {"cpu": "0", "memory": "0"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "model", "mountPath": CLAIM},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            *login,
        ],
    }


_PULL = '[ -e "$1/.ready" ] || {{ packer pull "$0" "$1"{plain} && touch "$1/.ready"; }}'


def _secret(name: str) -> Json:
    """A pull secret, under the name that a login has in a file."""
    return {"secretName": name, "items": [{"key": ".dockerconfigjson", "path": "config.json"}]}
