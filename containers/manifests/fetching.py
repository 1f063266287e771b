"""packer's own image where models are fetched: in the init containers and the download jobs of KServe, and in Jobs."""

from __future__ import annotations

from enum import StrEnum

from containers.manifests.options import PACKER_IMAGE, Options
from containers.manifests.pods import Json
from containers.manifests.quantity import MI, quantity

PREFIX = "modelpack://"
"""The scheme of any artifact that `packer pull` reads, an image too."""

DOCKER = "/docker"
"""Where the login for the registry is mounted."""

PULLING = 512 * MI
"""Bytes of memory that `packer pull` takes, beside pages that the disk has not yet."""


class Workload(StrEnum):
    """Who starts a storage container."""

    POD = "initContainer"
    CACHE = "localModelDownloadJob"


_NAMES = {Workload.POD: "packer-modelpack", Workload.CACHE: "packer-modelpack-cache"}

STORAGE_NOTES = """
One for the cluster and all models: KServe starts it with the URI and the folder to fill. It runs `packer pull`, which
verifies every byte. It has no login: of private registries use oci:// or oci+native://, pulled with the pod's secrets.
"""


def storage_container(options: Options, workload: Workload) -> Json:
    """The ClusterStorageContainer that has packer's own image fetch what begins with `modelpack://`."""
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterStorageContainer",
        "metadata": {"name": _NAMES[workload], "labels": {"app.kubernetes.io/managed-by": "packer"}},
        "spec": {
            "container": {
                "name": "storage-initializer",
                "image": options.packer_image,
                "command": ["packer", "pull", *(["--plain-http"] if options.plain_http else [])],
                "env": environment(has_login=False),
                "resources": resources(),
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            },
            "supportedUriFormats": [{"prefix": PREFIX}],
            "workloadType": workload.value,
        },
    }


def own_image(options: Options) -> str:
    """What is said of packer's own image among the things that documents need."""
    known = options.packer_image != PACKER_IMAGE
    return f"packer's own image, {options.packer_image if known else 'in a registry of yours: --packer-image'}"


def environment(*, has_login: bool) -> list[Json]:
    """The variables of `packer pull`: it has no home, and finds its login where docker has it."""
    login = {"DOCKER_CONFIG": DOCKER} if has_login else {}
    variables = {"HOME": "/tmp", "PACKER_CACHE": "/tmp/packer", **login}  # noqa: S108 - of a container
    return [{"name": name, "value": value} for name, value in variables.items()]


def resources() -> Json:
    """Those of `packer pull`."""
    return {"requests": {"cpu": "1", "memory": quantity(PULLING)}, "limits": {"memory": quantity(2 * PULLING)}}
