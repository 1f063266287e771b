"""What runtimes ask of an image: containerd, CRI-O, podman, and KServe on them."""

from __future__ import annotations

from containers.check.verdicts import Outcome, Rule
from containers.layers import ROOT

_CONTAINERD = "containerd: client/image.go, core/unpack, internal/cri/server/container_image_mount.go"
_BUILD = "pack the model as an image, as packer build does"
_NAMED = f"put the files under {ROOT}/, as packer build does"
NO_PLATFORM = Rule(
    "image-no-platform",
    Outcome.FAILS,
    "the pull ends with: no match for platform in manifest, or: no image found in image index",
    "Of an index a runtime takes the entry for its own platform. Entries for unknown/unknown, as attestations and olot's "
    "ModelPack entry have it, never match; those that name no platform are taken by containerd, CRI-O and podman alone.",
    "containerd: core/images; c/image: internal/manifest/oci_index.go; run: ctr, podman, KServe's initializer",
    "build for the platforms of your nodes (--platforms), or name another index",
)
NOT_AN_IMAGE = Rule(
    "containerd-artifact",
    Outcome.EMPTY,
    "the pull succeeds and the volume is an empty folder",
    "containerd mounts images only. An artifact without image layers has as many layers to unpack as its config has "
    "diff_ids: none. It is pulled whole, and its snapshot is empty. (containerd 1.6, which has no image volumes, counts all layers and refuses.)",
    f"{_CONTAINERD}; run: ctr images mount of 2.1",
    _BUILD,
)
DIFF_IDS = Rule(
    "image-diff-ids",
    Outcome.FAILS,
    "the pull or the mount ends with: number of layers and diffIDs don't match, or: mismatched image rootfs",
    "A config has one diff_id for each image layer, in order. ORAS and others that push image layers with an empty config have none. podman and CRI-O make do with none, not with too few.",
    f"image specification, config.md; {_CONTAINERD}; containerd issue 11907; run: ctr",
    "write the digests of the uncompressed layers into rootfs.diff_ids",
)
DIFF_ID = Rule(
    "image-diff-id",
    Outcome.FAILS,
    "the pull ends with: wrong diff id calculated on extraction, or: does not match config's DiffID",
    "The diff_id of a layer that nothing compresses is its digest. Runtimes compute it while they unpack; podman 4 does not compare.",
    "image specification, config.md; containerd: core/unpack; run: ctr",
    "write the digests of the uncompressed layers into rootfs.diff_ids, in the order of the layers",
)
FOREIGN_LAYER = Rule(
    "image-foreign-layer",
    Outcome.FAILS,
    "the mount lacks files, with containerd without a word; podman and CRI-O refuse the pull",
    "Runtimes unpack layers of OCI's and Docker's image types. containerd fetches others and leaves them out; podman and CRI-O take them for damaged tars.",
    f"image specification, layer.md; {_CONTAINERD}; run: ctr, podman",
    "type the layers application/vnd.oci.image.layer.v1.tar, or give the artifact a config of its own",
)
NOT_A_TAR = Rule(
    "image-not-a-tar",
    Outcome.FAILS,
    "the pull ends with: invalid tar header",
    "A layer of an image is a tar. ORAS pushes files as they are under the type of an image layer, unless another one is named.",
    "image specification, layer.md; run: ctr, podman, kserve-storage 0.21",
    "push files with a type of their own (oras push FILE:TYPE), and take them with oras pull; or pack a tar",
)
TWICE = Rule(
    "image-twice",
    Outcome.FAILS,
    "the pull ends with: duplicates of file paths not supported",
    "podman and CRI-O keep the headers of each layer (tar-split), and refuse one in which a path stands twice, such as models and ./models. containerd takes the last.",
    "containers/storage: vbatts/tar-split; run: podman 4.3 and 5.4",
    "name each member once, and all in the same way",
)
NO_MODELS = Rule(
    "image-no-models",
    Outcome.CONDITION,
    f"a volume with subPath: {ROOT} does not start; without it the whole image is mounted",
    f"What the documents of KServe and packer mount is the folder {ROOT} of an image.",
    "KServe: pkg/utils/storage.go; Kubernetes: image volumes, subPath",
    f"mount without subPath, or {_NAMED}",
)
UNREADABLE = Rule(
    "image-modes",
    Outcome.CONDITION,
    "the server ends with: permission denied, unless it runs as the owner of the files",
    "An image volume is mounted as it is: no fsGroup, no chown. Folders need 0755 and files 0644 for a server of any user.",
    "Kubernetes: image volumes; KServe issue 4995",
    "pack with modes 0755 and 0644, or set runAsUser to the owner",
)
NOT_READ = Rule(
    "image-not-read",
    Outcome.CONDITION,
    "not known: not all members of the layers could be looked at",
    "Members of a compressed layer are found by reading it, and what packer check reads is bounded.",
    "a limit of packer",
    "pull it and look; uncompressed layers are looked at from afar",
)
