"""From what a user wrote to a build with everything resolved, so that a mistake costs a second and not a download."""

from __future__ import annotations

import platform as host
from collections.abc import Mapping, Sequence
from pathlib import Path

from containers.base import Base, base_from, busybox_base, no_base
from packer.buildfile import BuildFile
from packer.pipeline import Build
from packer.sources import parse_source
from registry.descriptor import Platform
from registry.errors import UsageError
from registry.reference import parse_reference
from registry.store import open_store

HOST_BUSYBOX = Path("/bin/busybox")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def resolve(file: BuildFile) -> Build:
    """The build that a build file and flags describe. Reads the base's manifests; nothing of the model."""
    publish = file.publish
    if not publish.to:
        raise UsageError(
            "nothing says where the result goes", hint="add --to HOST/REPO:TAG, or --to oci:./out for a folder"
        )
    source = parse_source(file.source, file.include)
    to = parse_reference(publish.to)
    if to.digest:
        raise UsageError("a build is published under a tag, not a digest", found=publish.to)
    base = find_base(publish.base, publish.platforms, publish.busybox, plain_http=publish.plain_http)
    return Build(source, base, publish.modelpack, to, open_store(to, plain_http=publish.plain_http))


def find_base(text: str, platforms: Sequence[Platform], binaries: Mapping[Platform, Path], *, plain_http: bool) -> Base:
    """The base that `text` names: `busybox`, `none`, or a reference."""
    if text == "none":
        return no_base(platforms)
    if text == "busybox":
        return busybox_base(_binaries(platforms, binaries))
    reference = parse_reference(text)
    return base_from(open_store(reference, plain_http=plain_http), reference.name, str(reference), platforms)


def _binaries(platforms: Sequence[Platform], given: Mapping[Platform, Path]) -> Mapping[Platform, Path]:
    here = Platform("linux", _ARCHITECTURES.get(host.machine(), host.machine()))
    known = {here: HOST_BUSYBOX, **given}
    if missing := [str(platform) for platform in platforms if platform not in known]:
        raise UsageError(
            f"no busybox is at hand for {', '.join(missing)}",
            found=f"one for {', '.join(map(str, known))}",
            hint=f"name one with --busybox {missing[0]}=FILE, or choose a --base from a registry",
        )
    return {platform: known[platform] for platform in platforms} if platforms else known
