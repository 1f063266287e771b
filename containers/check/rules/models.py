"""What clients that know models ask: modctl, KitOps, Docker Model Runner."""

from __future__ import annotations

from containers.check.media import KIT_CONFIG
from containers.check.verdicts import Outcome, Rule
from containers.layers import ROOT
from containers.modelpack import CONFIG

_MODCTL = "modctl: pkg/backend/pull.go, pkg/backend/extract.go, pkg/codec"
_KITOPS = "KitOps: pkg/lib/filesystem/unpack/core.go, GenerateKitfileForModelPack"
_RUNNER = "Docker Model Runner: pkg/distribution"
_FLAT = "give it the ModelPack manifest, which packer build publishes as TAG-modelpack"
_PLAIN = "pack without compression, as packer build does"
BESIDE = Rule(
    "beside-modelpack",
    Outcome.CONDITION,
    "it works with the ModelPack manifest beside the image",
    "One build publishes an image for runtimes, and a ModelPack manifest over the same layers, or with raw ones, for those that know models and take no indexes.",
    "packer: docs/adr/0003-layers.md",
    "give it this reference",
)
MODCTL_INDEX = Rule(
    "modctl-index",
    Outcome.EMPTY,
    "modctl pull succeeds, and there is no file",
    "modctl reads whatever the tag names as a manifest; an index has no layers.",
    _MODCTL,
    _FLAT,
)
MODCTL_DIGEST = Rule(
    "modctl-digest",
    Outcome.FAILS,
    "modctl pull ends with an error: it takes tags alone",
    "modctl splits a reference into a repository and a tag.",
    f"{_MODCTL}: ParseReference",
    "name a tag",
)
MODCTL_PACKED = Rule(
    "modctl-packed",
    Outcome.FAILS,
    "modctl pull ends with: unsupported codec type",
    "modctl goes by the end of the media type: .tar and .raw. It knows no compression.",
    f"{_MODCTL}: TypeFromMediaType",
    _PLAIN,
)
MODCTL_NAMELESS = Rule(
    "modctl-nameless",
    Outcome.FAILS,
    "modctl pull ends with: is a directory",
    "A raw layer is written to the folder joined with org.cncf.model.filepath (or cnai's).",
    f"{_MODCTL}: raw.go",
    "annotate each layer with org.cncf.model.filepath",
)
MODCTL_PATH = Rule(
    "modctl-path",
    Outcome.FAILS,
    "modctl pull writes outside of the folder that it is given",
    "modctl joins the path of a raw layer to the folder and checks nothing: do not pull this.",
    f"{_MODCTL}: raw.go",
    "do not use this artifact; ask whoever made it",
)
MODCTL_IMAGE = Rule(
    "modctl-image",
    Outcome.CONDITION,
    f"modctl pull unpacks the image's whole root filesystem; the model is in {ROOT}",
    "modctl looks at the media types of layers alone, and .tar is how those of images end.",
    f"{_MODCTL}: TypeFromMediaType",
    _FLAT,
)
KITOPS_INDEX = Rule(
    "kitops-index",
    Outcome.FAILS,
    "kit pull ends with: not a ModelKit",
    "KitOps takes manifests, and no indexes but those of its own type.",
    "KitOps: pkg/lib/repo",
    _FLAT,
)
KITOPS_KIND = Rule(
    "kitops-kind",
    Outcome.FAILS,
    "kit pull ends with: not a ModelKit",
    f"KitOps knows artifacts by their config: {CONFIG}, or {KIT_CONFIG}. It does not know the names of before 2025-07, cnai.",
    "KitOps: pkg/lib/constants/mediatype, ModelFormatForManifest",
    _FLAT,
)
KITOPS_LAYER = Rule(
    "kitops-layer",
    Outcome.FAILS,
    "kit unpack ends with: unrecognized media type",
    "Without a Kitfile, KitOps asks each layer of a ModelPack artifact for a type application/vnd.cncf.model.*.",
    _KITOPS,
    "type the layers as ModelPack 0.0.7 has them",
)
KITOPS_NAMELESS = Rule(
    "kitops-nameless",
    Outcome.FAILS,
    "kit unpack ends with: unknown file path for layer",
    "Without a Kitfile, KitOps asks each layer for org.cncf.model.filepath.",
    _KITOPS,
    "annotate each layer with org.cncf.model.filepath",
)
KITOPS_DIFF_IDS = Rule(
    "kitops-diff-ids",
    Outcome.FAILS,
    "kit unpack ends with: invalid ModelPack config",
    "modelfs.diffIds of the config has one digest for each layer. olot and AIKit write an empty config.",
    f"ModelPack 0.0.7, config.md; {_KITOPS}",
    "write a config as ModelPack 0.0.7 has it",
)
KITOPS_PATH = Rule(
    "kitops-path",
    Outcome.FAILS,
    "kit unpack ends with: illegal file path",
    "KitOps writes nothing outside of the folder that it is given.",
    _KITOPS,
    "name files by relative paths, without ..",
)
KITOPS_LINK = Rule(
    "kitops-link",
    Outcome.FAILS,
    "kit unpack ends with: unrecognized type in archive",
    "KitOps takes files and folders from a tar, and no links.",
    f"{_KITOPS}: extractTar",
    "pack files and no links",
)
KITOPS_PARENT = Rule(
    "kitops-parent",
    Outcome.FAILS,
    "kit unpack ends with: failed to create file",
    "KitOps makes no folder that a tar does not name before what is in it.",
    f"{_KITOPS}: extractTar",
    "name each folder in the tar, before its files",
)
KITOPS_RECENT = Rule(
    "kitops-recent",
    Outcome.CONDITION,
    "KitOps up to 1.10 ends with an error; later ones unpack it",
    "Raw layers and zstd came after KitOps 1.10.",
    "KitOps: release notes of 1.11",
    "use a later KitOps, or tar layers",
)
KITOPS_NOT_READ = Rule(
    "kitops-not-read",
    Outcome.CONDITION,
    "not known: not all members of the layers could be looked at",
    "KitOps stops at links and at folders that are not named; whether there are any shows only in the tar.",
    "a limit of packer",
    "pull it and look; uncompressed layers are looked at from afar",
)
RUNNER_INDEX = Rule(
    "runner-index",
    Outcome.FAILS,
    "docker model pull ends with an error",
    "Docker Model Runner takes manifests, and no indexes.",
    f"{_RUNNER}: oci/remote",
    _FLAT,
)
RUNNER_CONFIG = Rule(
    "runner-config",
    Outcome.FAILS,
    "docker model pull ends with: config type is not supported",
    "It takes application/vnd.docker.ai.model.config.v0.1+json and v0.2+json, and ModelPack's config, which it knows by "
    "paramSize, createdAt or modelfs in it.",
    f"{_RUNNER}: distribution/client.go, modelpack; Docker Model Runner issue 114",
    f"{_FLAT}, with --modelpack raw",
)
RUNNER_NO_WEIGHTS = Rule(
    "runner-no-weights",
    Outcome.FAILS,
    "docker model run ends with: no supported model weights found",
    "It takes weights from raw layers in GGUF, safetensors or DDUF, each with its path, and unpacks no tar. It knows the "
    "format by config.format, else by the end of the path.",
    f"{_RUNNER}: internal/bundle/unpack.go",
    "publish raw layers (--modelpack raw), in GGUF or safetensors",
)
RUNNER_SKIPPED = Rule(
    "runner-skipped-layer",
    Outcome.FAILS,
    "docker model pull succeeds, and files are missing",
    "A layer that is a tar, or has no org.cncf.model.filepath, or one that leads out of the folder, is left out.",
    f"{_RUNNER}: internal/bundle/unpack.go",
    "publish raw layers (--modelpack raw), each with its path",
)
RUNNER_FORMAT = Rule(
    "runner-format",
    Outcome.CONDITION,
    "the format is guessed from the names of the files",
    "It goes by config.format, and where there is none by the ends of the paths.",
    f"{_RUNNER}: modelpack/types.go, GetFormat",
    "write config.format",
)
