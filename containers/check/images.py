"""Clients that take images: containerd, and what CRI-O, podman and KServe do with an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from containers.check.artifact import Artifact, Entry
from containers.check.members import clean
from containers.check.rules import images as rules
from containers.check.verdicts import Finding, shown
from containers.layers import ROOT
from containers.tar import Kind, Walked
from registry.manifest import Index


def _for_nodes(artifact: Artifact, *, nameless: bool = True) -> tuple[Entry, ...]:
    """The manifests that nodes with Linux get; with `nameless`, those without a platform where there are no others."""
    if not artifact.is_index:
        return artifact.entries
    known = tuple(entry for entry in artifact.entries if entry.platform and entry.platform.os == "linux")
    if known or not nameless:
        return known
    return tuple(entry for entry in artifact.entries if entry.platform is None)


def on_nodes(
    artifact: Artifact, judge: Callable[[Entry], Iterator[Finding]], *, nameless: bool = True
) -> Iterator[Finding]:
    """What is said of each of these manifests, or that there are none."""
    entries = _for_nodes(artifact, nameless=nameless)
    if not entries:
        yield _no_platform(artifact)
    for entry in entries:
        yield from judge(entry)


def _no_platform(artifact: Artifact) -> Finding:
    """That no entry of an index is for Linux."""
    children = artifact.root.manifests if isinstance(artifact.root, Index) else ()
    listed = sorted({str(child.platform or "no platform") for child in children})
    return rules.NO_PLATFORM.finding(found=", ".join(listed[:8]) or "an empty index")


def containerd(artifact: Artifact) -> Iterator[Finding]:
    """containerd's image volumes: `ctr images mount`, and the kubelet's on it."""
    yield from on_nodes(artifact, _in_containerd)


def _in_containerd(entry: Entry) -> Iterator[Finding]:
    if entry.unpacks_to_nothing:
        yield rules.NOT_AN_IMAGE.finding(found=entry.types)
        return
    yield from as_image(entry)
    yield from mounted(entry)


def as_image(entry: Entry) -> Iterator[Finding]:
    """What containerd asks of an image before it unpacks it."""
    layers, diff_ids = entry.image_layers, entry.digests("rootfs", "diff_ids")
    if len(diff_ids) != len(layers):
        found = f"{len(diff_ids)} diff_ids, {len(layers)} image layers"
        yield rules.DIFF_IDS.finding([f"config {entry.manifest.config.digest[7:19]}"], found)
        return
    plain = [(layer, diff_id) for layer, diff_id in zip(layers, diff_ids, strict=True) if not layer.compression]
    yield from rules.DIFF_ID.at([layer for layer, diff_id in plain if diff_id != layer.descriptor.digest])
    yield from rules.NOT_A_TAR.at([layer for layer in layers if not layer.is_tar])
    yield from rules.FOREIGN_LAYER.at([layer for layer in entry.layers if not layer.is_image], entry.types)


def as_stored(entry: Entry) -> Iterator[Finding]:
    """What podman and CRI-O, whose storage is the same, ask of it. They make do without any diff_ids."""
    yield from as_image(entry) if entry.digests("rootfs", "diff_ids") else ()
    yield from rules.TWICE.at(twice(entry))


def twice(entry: Entry) -> list[str]:
    """The paths that a layer has more than once."""
    found = list[str]()
    for layer in entry.image_layers:
        counts = Counter(clean(member.name) for member in layer.listing.members)
        found += [f"{layer}: {shown(path) or '/'}" for path, count in counts.items() if count > 1]
    return found


def mounted(entry: Entry) -> Iterator[Finding]:
    """What one sees in the mount of an image, however it came there."""
    if not has_models(entry):
        yield from not_read(entry) or rules.NO_MODELS.at([f"/{ROOT}"], tops(entry))
    yield from rules.UNREADABLE.at(closed(entry))


def has_models(entry: Entry) -> bool:
    """Whether the image has something in `models/`."""
    return any(path.startswith(f"{ROOT}/") for path in entry.tree)


def tops(entry: Entry) -> str:
    """The names at the top of an image."""
    names = sorted({path.partition("/")[0] for path in entry.tree} - {""})
    return ", ".join(names[:10]) or "an empty image"


def not_read(entry: Entry) -> tuple[Finding, ...]:
    """That layers were not read to their ends, if any was not."""
    return rules.NOT_READ.at(
        [f"{layer}: {layer.listing.gap}" for layer in entry.image_layers if layer.listing.gap and layer.is_tar]
    )


def closed(entry: Entry) -> list[str]:
    """The files and folders of the model that not everybody may read."""
    model = {path: member for path, member in entry.tree.items() if path == ROOT or path.startswith(f"{ROOT}/")}
    shut = ((path, member) for path, member in sorted(model.items()) if _is_closed(member))
    return [f"{shown(path)} ({member.mode & 0o7777:04o})" for path, member in shut]


def _is_closed(member: Walked) -> bool:
    wanted = {Kind.FILE: 0o004, Kind.FOLDER: 0o005}.get(member.kind, 0)
    return member.mode & wanted != wanted
