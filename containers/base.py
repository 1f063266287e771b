"""Base images: the shell below the model, for the ways of consuming that run one.

`busybox` is made here from static binaries, so that nothing need be fetched; any image in a registry or a layout
serves too; `none` leaves the model alone in its image.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from containers.tar import Member, TarLayer, folder
from registry.blob import Blob, FileBlob, read_all
from registry.descriptor import IMAGE_LAYER, Descriptor, Digest, Platform, digest_of, parse_digest
from registry.errors import ContentError, UsageError
from registry.manifest import MAX_MANIFEST, Index, Manifest, encode, parse_json_object
from registry.store import Source

APPLETS = (
    *("[", "awk", "basename", "cat", "chmod", "cmp", "cp", "cut", "date", "dd", "df", "diff", "dirname", "du", "echo"),
    *("env", "expr", "false", "find", "grep", "gunzip", "gzip", "head", "hostname", "id", "kill", "less", "ln", "ls"),
    *("md5sum", "mkdir", "mktemp", "mount", "mv", "nc", "printf", "ps", "pwd", "readlink", "realpath", "rm", "rmdir"),
    *("sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "tar", "tee", "test", "touch", "tr"),
    *("true", "uname", "uniq", "unzip", "vi", "wc", "wget", "which", "whoami", "xargs", "yes"),
)
"""Names that busybox answers to in our base: what KServe's commands need, and what a person at a shell reaches for."""

NO_BASE_PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))
"""What an image without a base claims to run on: the model is the same bytes everywhere."""

_MACHINES = {62: "amd64", 183: "arm64", 243: "riscv64", 21: "ppc64le", 22: "s390x"}
_PT_INTERP = 3
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


@dataclass(frozen=True)
class BaseImage:
    """The layers below the model on one platform; `diff_ids` are the digests of the layers uncompressed."""

    platform: Platform
    layers: tuple[Blob, ...] = ()
    diff_ids: tuple[Digest, ...] = ()
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class Base:
    """A base on all its platforms. `digest` is recorded in what is published; `name` is for people."""

    name: str
    images: tuple[BaseImage, ...]
    digest: Digest | None = None


def no_base(platforms: Sequence[Platform] = ()) -> Base:
    """The base of an image that holds the model alone, which no shell can be started in."""
    return Base("none", tuple(BaseImage(platform) for platform in platforms or NO_BASE_PLATFORMS))


def busybox_base(binaries: Mapping[Platform, Path]) -> Base:
    """A base around one static busybox binary for each platform; `UsageError` if a binary is not that."""
    images = []
    for platform, path in sorted(binaries.items()):
        _check_binary(path, platform)
        binary = FileBlob.at(path)
        links = [Member(f"bin/{name}", target="busybox", mode=0o777) for name in APPLETS]
        program = Member("bin/busybox", binary.size, binary.open, mode=0o755)
        members = (folder("bin"), *sorted([program, *links], key=lambda member: member.name), folder("tmp", 0o1777))
        layer = TarLayer(members)
        images.append(BaseImage(platform, (layer,), (layer.descriptor.digest,), ("PATH=/bin",)))
    together = encode([[str(image.platform), *image.diff_ids] for image in images])
    return Base("busybox", tuple(images), digest_of(together))


def base_from(source: Source, name: str, label: str, platforms: Sequence[Platform] = ()) -> Base:
    """The image that `name` selects in `source`, on all its platforms or on those given."""
    root = source.resolve(name)
    images = [image for manifest in _manifests(root, source) for image in _image(manifest, source)]
    chosen = [image for image in images if not platforms or image.platform in platforms]
    missing = set(platforms) - {image.platform for image in chosen}
    if missing or not chosen:
        raise UsageError(
            "the base is not there for every platform",
            subject=label,
            expected=", ".join(map(str, sorted(platforms))) or "at least one image",
            found=", ".join(str(image.platform) for image in images) or "no image",
            hint="choose among these with --platform, or another base",
        )
    return Base(label, tuple(sorted(chosen, key=lambda image: image.platform)), root.descriptor.digest)


def _manifests(root: Manifest | Index, source: Source) -> list[Manifest]:
    if isinstance(root, Manifest):
        return [root]
    children = [
        source.resolve(child.digest)
        for child in root.manifests
        if not (child.platform and child.platform.os == "unknown")
    ]
    return [child for child in children if isinstance(child, Manifest)]


def _image(manifest: Manifest, source: Source) -> list[BaseImage]:
    """The base image of a manifest; none for artifacts, which have no root file system."""
    config = parse_json_object(read_all(source.blob(manifest.config), MAX_MANIFEST), manifest.config.digest)
    try:
        diff_ids = tuple(map(parse_digest, (config.get("rootfs") or {}).get("diff_ids") or ()))
        environment = tuple(map(str, (config.get("config") or {}).get("Env") or ()))
    except (AttributeError, TypeError, UsageError) as error:
        raise ContentError(f"the config of the base is malformed ({error})", subject=manifest.config.digest) from error
    if len(diff_ids) != len(manifest.layers):
        return []
    layers = tuple(_layer(source, layer) for layer in manifest.layers)
    return [BaseImage(Platform.from_json(config), layers, diff_ids, environment)]


def _layer(source: Source, layer: Descriptor) -> Blob:
    """A layer of the base under its OCI name; Docker's and OCI's media types name the same bytes."""
    media_type = layer.media_type
    if media_type.startswith(_DOCKER_LAYER):
        media_type = IMAGE_LAYER + media_type.removeprefix(_DOCKER_LAYER).replace(".", "+")
    return source.blob(replace(layer, media_type=media_type, annotations={}))


def _check_binary(path: Path, platform: Platform) -> None:
    """ELF specification: the machine stands in the header, and a dynamic program names its interpreter."""
    try:
        architecture, interpreter = _read_elf(path)
    except FileNotFoundError as error:
        raise UsageError(
            "there is no busybox",
            subject=str(path),
            hint="install Debian's busybox-static, name a file with --busybox PLATFORM=FILE, or choose another --base",
        ) from error
    if architecture != platform.architecture or interpreter:
        raise UsageError(
            "this file cannot be the busybox of the base",
            subject=str(path),
            expected=f"a static 64-bit ELF program for {platform}",
            found=("a dynamic" if interpreter else "a static") + f" program for {architecture or 'no known machine'}",
            hint="take the binary of Debian's busybox-static for that architecture",
        )


def _read_elf(path: Path) -> tuple[str, bool]:
    """The architecture of a 64-bit ELF file in Go's words (empty if it is none), and whether it is dynamic."""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02" or head[5] not in (1, 2):
            return "", False
        order = "<" if head[5] == 1 else ">"
        machine, table, entry, count = (
            struct.unpack_from(order + code, head, at)[0] for code, at in (("H", 18), ("Q", 32), ("H", 54), ("H", 56))
        )
        if table >= 1 << 62:
            return "", False
        file.seek(table)
        segments = file.read(entry * count)
    kinds = {struct.unpack_from(order + "I", segments, at)[0] for at in range(0, len(segments) - 3, max(entry, 4))}
    return _MACHINES.get(machine, ""), _PT_INTERP in kinds
