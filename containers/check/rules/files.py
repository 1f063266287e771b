"""What clients ask of an artifact of which each layer is a file: CRI-O, podman, ORAS."""

from __future__ import annotations

from containers.check.layers import UNPACK
from containers.check.verdicts import Outcome, Rule
from containers.layers import ROOT

_CRIO = "CRI-O 1.33: internal/ociartifact, server/container_create_linux.go"
_PODMAN = "container-libs: common/pkg/libartifact/store.go"
_ORAS = "ORAS: cmd/oras/root/pull.go; oras-go: content/file"
_RAW = "publish raw layers (--modelpack raw), or use the image"
CRIO_NAMELESS = Rule(
    "crio-nameless",
    Outcome.EMPTY,
    "the pod starts, and its volume is empty; CRI-O logs a warning for each layer",
    "CRI-O calls the file of a layer by org.opencontainers.image.title, else org.cncf.model.filepath, and leaves out a layer "
    "that has neither.",
    f"{_CRIO}, artifactName; CRI-O issue 9127",
    "annotate each layer with org.cncf.model.filepath",
)
CRIO_SOME_NAMELESS = Rule(
    "crio-some-nameless",
    Outcome.FAILS,
    "the pod starts, and files are missing from its volume; CRI-O logs a warning for each",
    "CRI-O leaves out a layer that has neither org.opencontainers.image.title nor org.cncf.model.filepath.",
    f"{_CRIO}, artifactName",
    "annotate each layer with org.cncf.model.filepath",
)
CRIO_TAR = Rule(
    "crio-tar",
    Outcome.FAILS,
    "the pod starts, and the files in its volume are tars; the server finds no model, or a damaged one",
    "CRI-O mounts the blob of each layer of an artifact as it is. Nothing is unpacked.",
    _CRIO,
    _RAW,
)
CRIO_PATH = Rule(
    "crio-path",
    Outcome.FAILS,
    "the pod does not start",
    "CRI-O joins the name of a layer to the folder of the mount, and lets none lead out of it.",
    _CRIO,
    "name files by relative paths, without ..",
)
CRIO_TWICE = Rule(
    "crio-twice",
    Outcome.FAILS,
    "the pod does not start, or one file hides the other",
    "Each layer is mounted at its name; there is one place for two.",
    _CRIO,
    "name each file once, with its folder",
)
CRIO_SUBPATH = Rule(
    "crio-subpath",
    Outcome.CONDITION,
    f"a volume with subPath: {ROOT} does not start; without it the files are there",
    f"Of an artifact CRI-O mounts with subPath: {ROOT} the layers whose names begin with {ROOT}/, and ends with an error if "
    "there are none.",
    f"{_CRIO}, subPath",
    "mount it without subPath",
)
CRIO_TYPED_IMAGE = Rule(
    "crio-typed-image",
    Outcome.CONDITION,
    "an image with artifactType may be mounted as an artifact: its layers as tars",
    "CRI-O tries to store an image first, and takes for an artifact what has artifactType when that fails.",
    f"{_CRIO}; internal/storage/image.go",
    "leave artifactType away from images",
)
PODMAN_ARTIFACT = Rule(
    "podman-artifact",
    Outcome.CONDITION,
    "podman pull refuses it; podman artifact pull takes it, and --mount type=artifact mounts it",
    "podman keeps images and artifacts apart. Artifacts came with 5.4 (preview), their mounts with 5.5. Of an index it takes the entry for its platform. An artifact of one layer is mounted as a file, in place of the folder, unless there is one.",
    f"podman: RELEASE_NOTES.md; {_PODMAN}; run: podman 4.3 and 5.8",
    "podman 5.5: podman artifact pull REF; podman run --mount type=artifact,src=REF,dst=/models",
)
PODMAN_SLASH = Rule(
    "podman-artifact-path",
    Outcome.FAILS,
    "the container does not start: artifact blob title invalid, it cannot contain /",
    "podman calls the file of a layer by org.opencontainers.image.title, and refuses one with a folder in it.",
    f"{_PODMAN}, generateArtifactBlobName; run: podman 5.8",
    "use the image; a model without folders works as an artifact too",
)
PODMAN_NAMELESS = Rule(
    "podman-artifact-nameless",
    Outcome.FAILS,
    "the container starts, and the files are called sha256-...; the server finds no config.json and no weights",
    "podman calls the file of a layer by org.opencontainers.image.title, else by its digest. It does not know "
    "org.cncf.model.filepath.",
    f"{_PODMAN}, generateArtifactBlobName; run: podman 5.8",
    "use the image, or annotate each layer with org.opencontainers.image.title",
)
PODMAN_TWICE = Rule(
    "podman-artifact-twice",
    Outcome.FAILS,
    "the container does not start: the title is used in multiple different layers",
    "podman refuses an artifact in which two files have one name.",
    f"{_PODMAN}; run: podman 5.8",
    "name each file once",
)
PODMAN_TAR = Rule(
    "podman-artifact-tar",
    Outcome.FAILS,
    "the container starts, and the files are tars; the server finds no model",
    "podman mounts the blob of each layer of an artifact as it is. Nothing is unpacked.",
    f"{_PODMAN}; run: podman 5.8",
    _RAW,
)
ORAS_NAMELESS = Rule(
    "oras-nameless",
    Outcome.EMPTY,
    "oras pull succeeds, and writes no file",
    "ORAS calls the file of a layer by org.opencontainers.image.title, and skips layers without. It does not know "
    "org.cncf.model.filepath, nor does it unpack images.",
    f"{_ORAS}; run: oras 1.2 (oras-py calls such files by their digests)",
    "packer pull, or publish raw layers (--modelpack raw), which have titles",
)
ORAS_SOME_NAMELESS = Rule(
    "oras-some-nameless",
    Outcome.FAILS,
    "oras pull succeeds, and files are missing",
    "ORAS skips layers without org.opencontainers.image.title.",
    f"{_ORAS}; run: oras 1.2",
    "annotate each layer with org.opencontainers.image.title",
)
ORAS_PATH = Rule(
    "oras-path",
    Outcome.FAILS,
    "oras pull ends with: path traversal disallowed",
    "ORAS writes nothing outside of the folder that it is given.",
    f"{_ORAS}; run: oras 1.2",
    "name files by relative paths, without ..",
)
ORAS_TWICE = Rule(
    "oras-twice",
    Outcome.FAILS,
    "oras pull ends with: duplicate name, or one file is lost",
    "Two layers with one title are one file.",
    f"{_ORAS}; run: oras 1.2",
    "name each file once, with its folder",
)
ORAS_TAR = Rule(
    "oras-tar",
    Outcome.CONDITION,
    "what oras pull writes are tars",
    f"ORAS unpacks a layer if its annotation {UNPACK} is true, and else writes it as it is.",
    f"{_ORAS}; run: oras 1.2",
    "unpack them with tar, or use packer pull",
)
