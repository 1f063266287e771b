"""The three ways that need nothing but Kubernetes: an image volume, a modelcar, an init container that copies."""

from __future__ import annotations

from containers.layers import ROOT
from containers.manifests.document import Document, Manifests
from containers.manifests.options import Sidecar
from containers.manifests.pods import Json, Way, container_security, room, service, small, workload
from containers.manifests.quantity import MI, quantity
from containers.manifests.serving import Serving
from registry.errors import ModelError

SHELL = ("sh", "-c")


def image_volume(serving: Serving) -> Manifests:
    """The node mounts the model's image into the server; nothing is copied."""
    volume = {"name": "model", "image": {"reference": str(serving.model.reference), "pullPolicy": "IfNotPresent"}}
    mount = {"name": "model", "mountPath": serving.mount, "subPath": ROOT, "readOnly": True}
    requires = (
        "Kubernetes 1.35, or 1.33 and 1.34 with the feature gate ImageVolume on the API server and the kubelets",
        "containerd 2.2 (2.1 mounts images but knows no subPath) or CRI-O 1.33",
    )
    return _served(serving, Way([volume], [mount]), _VOLUME_NOTES, requires, 33)


_VOLUME_NOTES = """
The node pulls the model as it pulls an image, with the pod's pull secrets, and mounts it read-only. The folder models
of the image is what the server sees.
"""


def modelcar(serving: Serving) -> Manifests:
    """A container of the model's image runs beside the server, which reads the model through its root in /proc."""
    _require_shell(serving, "modelcar")
    parent, _, _ = serving.mount.rpartition("/")
    native = serving.options.sidecar is Sidecar.NATIVE
    car: Json = {
        "name": "modelcar",
        "image": str(serving.model.reference),
        "imagePullPolicy": "IfNotPresent",
        **({"restartPolicy": "Always"} if native else {}),
        "command": [*SHELL, f"{_LINK.format(mount=serving.mount)} && exec sleep infinity"],
        **({"startupProbe": _linked(serving.mount)} if native else {}),
        "resources": small(CAR),
        "securityContext": {**_same_user(serving), **container_security()},
        "volumeMounts": [{"name": "link", "mountPath": parent}],
    }
    way = Way(
        volumes=[{"name": "link", "emptyDir": {"sizeLimit": quantity(MI)}}],
        mounts=[{"name": "link", "mountPath": parent, "readOnly": True}],
        before=[car] if native else [],
        beside=[] if native else [car],
        prefix=[] if native else [*SHELL, f'{_WAIT.format(mount=serving.mount)}; exec "$0" "$@"'],
        pod={"shareProcessNamespace": True},
    )
    version = 29 if native else 25
    notes = _NATIVE if native else _PLAIN
    return _served(serving, way, notes + _CAR_NOTES, (f"Kubernetes 1.{version}, any container runtime",), version)


_NATIVE = """
The modelcar links its own root into a volume, as KServe's do. It is a native sidecar: its startup probe holds the
server back until the link is there, and it ends after the server.
"""

_PLAIN = """
The modelcar links its own root into a volume, as KServe's do. The server waits for the link, for which its image
needs a shell. With Kubernetes 1.29, --sidecar native does better.
"""

_CAR_NOTES = """
Security: the containers of this pod share their processes. Each sees what the others run, and, since both are one
user, reads their environment and their files through /proc. Put no secret into this pod that the model's image may
not know.

The link has the process id that the shell reads of itself. KServe writes $$, of which Kubernetes makes one $ unless
it is written four times.
"""

_LINK = "read -r pid _ </proc/self/stat && ln -sfn /proc/$pid/root/models {mount}"
"""A builtin's redirection is the shell's own: the process that it reads of is the shell, which becomes sleep."""

_WAIT = "until [ -e {mount}/. ]; do sleep 1; done"

CAR = 32 * MI
"""Bytes of memory that a shell and sleep may take."""


def _linked(mount: str) -> Json:
    return {"exec": {"command": [*SHELL, f"[ -e {mount}/. ]"]}, "periodSeconds": 1, "failureThreshold": 60}


def _same_user(serving: Serving) -> Json:
    """/proc/PID/root opens to the same user alone; where the server is root, so is the modelcar."""
    return {} if serving.runtime.any_user else {"runAsUser": 0}


def init_container(serving: Serving) -> Manifests:
    """A container of the model's image copies the model into a volume of the pod, and the server starts after it."""
    _require_shell(serving, "init-container")
    parent, _, _ = serving.mount.rpartition("/")
    size = room(serving.model.size)
    copy = {
        "name": "copy-model",
        "image": str(serving.model.reference),
        "imagePullPolicy": "IfNotPresent",
        "command": [*SHELL, _COPY.format(mount=serving.mount, parent=parent)],
        "resources": {**small(CAR), "limits": {"memory": quantity(COPYING)}},
        "securityContext": container_security(),
        "volumeMounts": [{"name": "model", "mountPath": parent}],
    }
    way = Way(
        volumes=[{"name": "model", "emptyDir": {"sizeLimit": quantity(size)}}],
        mounts=[{"name": "model", "mountPath": parent, "readOnly": True}],
        before=[copy],
        disk=size,
    )
    requires = ("Kubernetes 1.25, any container runtime", f"{quantity(size)} of the node's disk beside the image")
    return _served(serving, way, _COPY_NOTES, requires, 25)


_COPY_NOTES = """
The model is copied once for each pod. The volume has room for a tenth and 64 MiB more than the model's files.

The copy has a temporary name until it is whole and has its marker, .ready; a container that starts again does
nothing.
"""

_COPY = """\
set -e
[ ! -e {mount}/.ready ] || exit 0
rm -rf {parent}/.partial {mount}
cp -R /models {parent}/.partial
touch {parent}/.partial/.ready
mv {parent}/.partial {mount}
"""

COPYING = 256 * MI
"""Bytes of memory for cp; pages of files that were written count until the disk has them."""


def _require_shell(serving: Serving, mode: str) -> None:
    if not serving.model.has_shell:
        raise ModelError(
            f"{mode} runs commands in the model's image, and this one has no shell",
            subject=str(serving.model.reference),
            expected="an image with sh, such as packer's with a base",
            found="no sh in its layers",
            hint="use --mode image-volume, or publish it with --base busybox",
        )


def _served(serving: Serving, way: Way, notes: str, requires: tuple[str, ...], kubernetes: int) -> Manifests:
    documents = (Document(workload(serving, way), notes), Document(service(serving)))
    return Manifests(documents, requires, kubernetes)
