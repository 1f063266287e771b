"""KServe's three ways to a model in an image: modelcar, native image volume, fetch."""

from __future__ import annotations

from collections.abc import Iterator

from containers.check.artifact import Artifact, Entry
from containers.check.images import as_image, closed, has_models, not_read, on_nodes, tops, twice
from containers.check.layers import Layer
from containers.check.members import clean, is_whiteout
from containers.check.programs import FOLDERS, missing
from containers.check.rules import kserve as rules
from containers.check.rules.images import NOT_A_TAR, NOT_READ
from containers.check.verdicts import Finding, shown
from containers.layers import ROOT
from containers.tar import Kind, Walked
from registry.manifest import parse_json_object

PROGRAMS = ("sh", "ln", "sleep", "ls", "mkdir")
"""What the two containers of a modelcar run."""

FETCHED = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)
"""The layers that the storage initializer reads."""


def modelcar(artifact: Artifact) -> Iterator[Finding]:
    """`oci://` in its default mode: the model's image runs as a sidecar."""
    yield from on_nodes(artifact, _as_car)


def _as_car(entry: Entry) -> Iterator[Finding]:
    if not entry.is_image:
        yield rules.CAR_ARTIFACT.finding(found=entry.types)
        return
    yield from _pulled(entry)
    if entrypoint := entry.said("config", "Entrypoint"):
        yield rules.CAR_ENTRYPOINT.finding(["config.Entrypoint"], entrypoint)
    yield from _in_the_car(entry)


def _pulled(entry: Entry) -> Iterator[Finding]:
    """What the nodes ask of an image, whichever runtime they have."""
    yield from as_image(entry)
    yield from rules.NODE_TWICE.at(twice(entry))


def _in_the_car(entry: Entry) -> Iterator[Finding]:
    lacking = [
        *rules.CAR_NO_SHELL.at(missing(PROGRAMS, entry.tree), f"nothing of that name in {', '.join(FOLDERS)}"),
        *(rules.CAR_NO_MODELS.at([f"/{ROOT}"], tops(entry)) if not has_models(entry) else ()),
    ]
    yield from (not_read(entry) or lacking) if lacking else ()
    yield from rules.CAR_MODES.at(closed(entry))


def native(artifact: Artifact) -> Iterator[Finding]:
    """`oci+native://`: an image volume with subPath."""
    yield from on_nodes(artifact, _as_volume)


def _as_volume(entry: Entry) -> Iterator[Finding]:
    if entry.unpacks_to_nothing:
        yield rules.NATIVE_ARTIFACT.finding(found=entry.types)
        return
    yield from _pulled(entry)
    if not has_models(entry):
        yield from not_read(entry) or rules.NATIVE_NO_MODELS.at([f"/{ROOT}"], tops(entry))
    yield from rules.NATIVE_MODES.at(closed(entry))


def fetch(artifact: Artifact) -> Iterator[Finding]:
    """`oci+fetch://`: the storage initializer downloads and extracts."""
    if artifact.is_index and not parse_json_object(artifact.root.raw, artifact.reference).get("mediaType"):
        yield rules.FETCH_INDEX.finding([artifact.root.descriptor.digest])
        return
    yield from on_nodes(artifact, _fetched, nameless=False)


def _fetched(entry: Entry) -> Iterator[Finding]:
    if zstd := [layer for layer in entry.layers if layer.media_type.endswith("+zstd")]:
        yield from rules.FETCH_ZSTD.at(zstd)
        return
    read = [layer for layer in entry.layers if layer.media_type in FETCHED]
    yield from NOT_A_TAR.at([layer for layer in read if not layer.is_tar])
    taken = [member for layer in read for member in layer.listing.members if _is_taken(member)]
    missed = [place for layer in entry.layers for place in _missed(layer)]
    if taken:
        yield from rules.FETCH_SKIPPED.at(missed)
        yield from rules.FETCH_LINK.at([shown(member.name) for member in taken if _is_bad_link(member)])
        yield from rules.FETCH_WHITEOUT.at([shown(member.name) for member in taken if is_whiteout(member.name)])
    else:
        gaps = NOT_READ.at([f"{layer}: {layer.listing.gap}" for layer in read if layer.listing.gap and layer.is_tar])
        yield from gaps or [rules.FETCH_NOTHING.finding(missed, entry.types)]


def _is_taken(member: Walked) -> bool:
    return member.name.rstrip("/").startswith(f"{ROOT}/")


def _missed(layer: Layer) -> Iterator[str]:
    """What is of the model and is passed over: members by their names, or a layer as a whole."""
    is_read = layer.media_type in FETCHED
    if not is_read and not layer.is_image:
        yield f"{layer}: {layer.media_type}"
        return
    for member in layer.listing.members:
        is_ours = member.kind is not Kind.FOLDER and clean(member.name).startswith(f"{ROOT}/")
        if is_ours and not (is_read and _is_taken(member)):
            yield f"{layer}: {shown(member.name)}"


def _is_bad_link(member: Walked) -> bool:
    if member.kind is not Kind.SYMLINK:
        return member.kind is Kind.HARDLINK
    depth = clean(member.name).count("/") - 1
    for part in member.target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return True
    return member.target.startswith("/")
