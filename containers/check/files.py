"""Clients that take an artifact layer by layer, each a file: CRI-O's and podman's artifact mounts, ORAS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from containers.check.artifact import Artifact, Entry
from containers.check.images import as_stored, mounted, on_nodes
from containers.check.layers import UNPACK, Layer, is_safe
from containers.check.rules import files as rules
from containers.check.verdicts import Finding, Rule, shown
from containers.layers import ROOT


def crio(artifact: Artifact) -> Iterator[Finding]:
    """CRI-O's image volumes: images as images, and everything else as an artifact, a file for each layer."""
    yield from on_nodes(artifact, _in_crio)


def _in_crio(entry: Entry) -> Iterator[Finding]:
    if not entry.is_image:
        yield from _crio_artifact(entry)
        return
    if entry.manifest.artifact_type:
        yield rules.CRIO_TYPED_IMAGE.finding(["artifactType"], entry.manifest.artifact_type)
    yield from as_stored(entry)
    yield from mounted(entry)


def _crio_artifact(entry: Entry) -> Iterator[Finding]:
    names = {layer: layer.title or layer.path for layer in entry.layers}
    named = {layer: name for layer, name in names.items() if name}
    yield from _nameless(names, rules.CRIO_NAMELESS, rules.CRIO_SOME_NAMELESS)
    yield from rules.CRIO_PATH.at([layer for layer, name in named.items() if not is_safe(name)])
    yield from rules.CRIO_TWICE.at(_twice(names))
    yield from rules.CRIO_TAR.at([layer for layer in named if layer.is_tar])
    if not any(name.startswith(f"{ROOT}/") for name in named.values()):
        yield from rules.CRIO_SUBPATH.at(list(named)[:1])


def podman(artifact: Artifact) -> Iterator[Finding]:
    """podman's image mounts, and of what is no image its artifact mounts."""
    yield from on_nodes(artifact, _in_podman)


def _in_podman(entry: Entry) -> Iterator[Finding]:
    if entry.is_image:
        yield from as_stored(entry)
        yield from mounted(entry)
    else:
        yield from _podman_artifact(entry)


def _podman_artifact(entry: Entry) -> Iterator[Finding]:
    yield rules.PODMAN_ARTIFACT.finding(found=entry.types)
    yield from rules.PODMAN_NAMELESS.at([layer for layer in entry.layers if not layer.title])
    yield from rules.PODMAN_SLASH.at([layer for layer in entry.layers if "/" in layer.title])
    yield from rules.PODMAN_TWICE.at(_twice({layer: layer.title for layer in entry.layers}))
    yield from rules.PODMAN_TAR.at([layer for layer in entry.layers if layer.is_tar])


def oras(artifact: Artifact) -> Iterator[Finding]:
    """`oras pull`. It takes all files below an index that have titles; what has none at all is not meant for it."""
    titled = [entry for entry in artifact.entries if any(layer.title for layer in entry.layers)]
    entries = titled or artifact.entries
    unique = {layer.descriptor.digest: layer for entry in entries for layer in entry.layers}
    titles = {layer: layer.title for layer in unique.values()}
    named = {layer: title for layer, title in titles.items() if title}
    yield from _nameless(titles, rules.ORAS_NAMELESS, rules.ORAS_SOME_NAMELESS)
    yield from rules.ORAS_PATH.at([layer for layer, title in named.items() if not is_safe(title)])
    yield from rules.ORAS_TWICE.at(_twice(titles))
    packed = [layer for layer in named if layer.is_tar and layer.descriptor.annotations.get(UNPACK) != "true"]
    yield from rules.ORAS_TAR.at(packed)


def _nameless(names: Mapping[Layer, str], every: Rule, some: Rule) -> tuple[Finding, ...]:
    nameless = [layer for layer, name in names.items() if not name]
    if len(nameless) == len(names):
        return (every.finding(nameless, "no layer has a name" if names else "no layers"),)
    return some.at(nameless)


def _twice(names: Mapping[Layer, str]) -> list[str]:
    counts = Counter(filter(None, names.values()))
    return [shown(name) for name, count in counts.items() if count > 1]
