"""What KServe asks: of a modelcar, of a native image volume, of what its initializer fetches."""

from __future__ import annotations

from containers.check.verdicts import Outcome, Rule
from containers.layers import ROOT

_MODELCAR = "KServe 0.20: pkg/utils/storage.go, ConfigureModelcarToContainer"
_NATIVE = "KServe 0.20: pkg/utils/storage.go, oci+native"
_FETCH = "KServe: python/storage, _download_oci"
_NAMED = f"put the files under {ROOT}/, as packer build does"
_BUILD = "pack the model as an image, as packer build does"
NODE_TWICE = Rule(
    "kserve-twice",
    Outcome.CONDITION,
    "nodes with CRI-O, such as OpenShift's, end the pull with: duplicates of file paths not supported; with containerd it works",
    "CRI-O keeps the headers of each layer, and refuses one in which a path stands twice. containerd takes the last.",
    "containers/storage: vbatts/tar-split; run: podman 4.3 and 5.4",
    "name each member once, and all in the same way",
)
CAR_ARTIFACT = Rule(
    "modelcar-artifact",
    Outcome.FAILS,
    "the containers modelcar-init and modelcar do not start: there is no program to run",
    "A modelcar is a container: KServe starts a shell in the model's image. An artifact has no root filesystem.",
    f"{_MODELCAR}; run: podman",
    f"{_BUILD}, on a base with a shell",
)
CAR_NO_SHELL = Rule(
    "modelcar-no-shell",
    Outcome.FAILS,
    'the containers modelcar-init and modelcar end with: exec: "sh": executable file not found',
    "KServe runs sh, ln, sleep, ls and mkdir in the model's image: it links the folder and sleeps.",
    f"{_MODELCAR}; run: podman",
    "build on a base with a shell (--base busybox), or use oci+native://",
)
CAR_ENTRYPOINT = Rule(
    "modelcar-entrypoint",
    Outcome.FAILS,
    "the containers modelcar-init and modelcar run the image's entrypoint with a shell script for arguments, and end",
    "KServe sets args and no command, so that an entrypoint of the image swallows them.",
    f"{_MODELCAR}; run: podman",
    "build the image without an entrypoint; packer drops that of a base",
)
CAR_NO_MODELS = Rule(
    "modelcar-no-models",
    Outcome.FAILS,
    f"the container modelcar-init ends with 1: /{ROOT} is not there or empty",
    f"KServe links /{ROOT} of the image into the server's container, and looks whether there is anything first.",
    f"{_MODELCAR}; run: podman",
    _NAMED,
)
CAR_MODES = Rule(
    "modelcar-modes",
    Outcome.FAILS,
    "the server ends with: permission denied",
    "KServe runs the modelcar and the server as one user, by default 1010, which owns none of the files.",
    "KServe issue 4995; interoperability: uidModelcar; run: podman",
    "pack with modes 0755 and 0644, or set uidModelcar to the owner",
)
NATIVE_ARTIFACT = Rule(
    "native-artifact",
    Outcome.FAILS,
    f"the pod does not start: with containerd the volume is empty and has no {ROOT} in it",
    f"oci+native:// is a Kubernetes image volume with subPath: {ROOT}. containerd mounts an artifact empty; "
    f"CRI-O looks for files named {ROOT}/... among the layers.",
    f"{_NATIVE}; containerd: image subPath; CRI-O: artifact subPath",
    _BUILD,
)
NATIVE_NO_MODELS = Rule(
    "native-no-models",
    Outcome.FAILS,
    f"the pod does not start: there is no {ROOT} in the image",
    f"oci+native:// mounts the folder {ROOT} of the image, and a subPath that is not there is an error.",
    f"{_NATIVE}; Kubernetes: image volumes, subPath",
    _NAMED,
)
NATIVE_MODES = Rule(
    "native-modes",
    Outcome.CONDITION,
    "the server ends with: permission denied, unless it runs as the owner of the files",
    "An image volume is mounted as it is: no fsGroup, no chown.",
    "Kubernetes: image volumes; KServe issue 4995",
    "pack with modes 0755 and 0644, or set runAsUser to the owner",
)
FETCH_ZSTD = Rule(
    "fetch-zstd",
    Outcome.FAILS,
    "the storage initializer ends with: zstd-compressed, which this storage handler cannot decompress",
    "The initializer runs on a Python without Zstandard and refuses the image for any such layer, of the base too.",
    f"{_FETCH}; run: kserve-storage 0.21",
    "pack with tar or tar+gzip; on a base without zstd",
)
FETCH_INDEX = Rule(
    "fetch-untyped-index",
    Outcome.FAILS,
    f"the storage initializer ends with: no /{ROOT}/ directory",
    "The initializer knows an index by its member mediaType, which OCI leaves optional; an index without it has no layers "
    "for it.",
    f"{_FETCH}; run: kserve-storage 0.21",
    "write mediaType into the index",
)
FETCH_NOTHING = Rule(
    "fetch-no-models",
    Outcome.FAILS,
    f"the storage initializer ends with: no /{ROOT}/ directory",
    f"The initializer reads tar layers of three types (OCI tar and tar+gzip, Docker tar.gzip), and takes members whose "
    f"names begin with {ROOT}/ alone: not ./{ROOT}/, not /{ROOT}/. It passes over ModelPack layers.",
    f"{_FETCH}; run: kserve-storage 0.21",
    f"name members {ROOT}/..., in layers of type application/vnd.oci.image.layer.v1.tar",
)
FETCH_SKIPPED = Rule(
    "fetch-skipped-layer",
    Outcome.FAILS,
    "the storage initializer succeeds, and files of the model are missing",
    "Layers of other types than OCI tar, tar+gzip and Docker tar.gzip are passed over without a word, and so are members "
    f"of a layer that are named ./{ROOT}/... beside those that are not.",
    f"{_FETCH}; run: kserve-storage 0.21",
    f"name members {ROOT}/..., in layers of type application/vnd.oci.image.layer.v1.tar",
)
FETCH_LINK = Rule(
    "fetch-link",
    Outcome.FAILS,
    "the storage initializer ends with: LinkOutsideDestinationError, AbsoluteLinkError or KeyError",
    "Members are extracted under shorter names, by Python's data filter: hard links do not find their targets, and "
    "symbolic links must not be absolute or lead out of the model.",
    f"{_FETCH}; Python: tarfile.data_filter; run: kserve-storage 0.21",
    "pack files and no links",
)
FETCH_WHITEOUT = Rule(
    "fetch-whiteout",
    Outcome.CONDITION,
    "a file that a later layer removes is there all the same",
    "The initializer extracts layer after layer and knows no whiteouts; the mark itself becomes a file.",
    f"{_FETCH}; run: kserve-storage 0.21",
    "build the image anew without the file",
)
