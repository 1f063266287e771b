"""Clients that know models: modctl, KitOps, Docker Model Runner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from containers.check.artifact import Artifact, Entry
from containers.check.layers import OLD_FILEPATH, Layer, is_safe
from containers.check.media import KIT_CONFIG, is_modelpack_layer
from containers.check.members import clean
from containers.check.rules import models as rules
from containers.check.verdicts import Finding, shown
from containers.modelpack import ARTIFACT, CONFIG
from containers.tar import Kind

DOCKER_AI = ("application/vnd.docker.ai.model.config.v0.1+json", "application/vnd.docker.ai.model.config.v0.2+json")
_DOCKER_WEIGHTS = tuple(f"application/vnd.docker.ai.{name}" for name in ("gguf", "safetensors", "dduf"))
_RUNNABLE = ("gguf", "safetensors", "dduf", "diffusers")
_WEIGHT = "application/vnd.cncf.model.weight.v1."
_DEPTH = 64


def modctl(artifact: Artifact) -> Iterator[Finding]:
    """`modctl pull --extract-dir`."""
    if artifact.is_index:
        yield rules.MODCTL_INDEX.finding([artifact.root.media_type])
        return
    if artifact.is_pinned:
        yield rules.MODCTL_DIGEST.finding(found=artifact.reference)
    for entry in artifact.entries:
        raw = {layer: _any_path(layer) for layer in entry.layers if layer.media_type.endswith(".raw")}
        packed = [layer for layer in entry.layers if not layer.media_type.endswith((".tar", ".raw"))]
        yield from rules.MODCTL_PACKED.at(packed, entry.types)
        yield from rules.MODCTL_NAMELESS.at([layer for layer, path in raw.items() if not path])
        yield from rules.MODCTL_PATH.at([layer for layer, path in raw.items() if path and not is_safe(path)])
        yield from rules.MODCTL_IMAGE.at(entry.image_layers[:1], entry.types)


def _any_path(layer: Layer) -> str:
    return layer.path or layer.descriptor.annotations.get(OLD_FILEPATH, "")


def kitops(artifact: Artifact) -> Iterator[Finding]:
    """`kit pull` and `kit unpack`."""
    if artifact.is_index:
        yield rules.KITOPS_INDEX.finding([artifact.root.media_type])
        return
    for entry in artifact.entries:
        kind = entry.manifest.config.media_type
        if kind == CONFIG:
            yield from _kitops_modelpack(entry)
            yield from _kitops_tars([layer for layer in entry.layers if layer.is_tar])
        elif kind != KIT_CONFIG:
            yield rules.KITOPS_KIND.finding([f"config {entry.manifest.config.digest[7:19]}"], kind)


def _kitops_modelpack(entry: Entry) -> Iterator[Finding]:
    layers, diff_ids = entry.layers, entry.digests("modelfs", "diffIds")
    foreign = [layer for layer in layers if not is_modelpack_layer(layer.media_type)]
    yield from rules.KITOPS_LAYER.at([f"{layer}: {layer.media_type}" for layer in foreign])
    yield from rules.KITOPS_NAMELESS.at([layer for layer in layers if not layer.path])
    yield from rules.KITOPS_PATH.at([layer for layer in layers if layer.path and not is_safe(layer.path)])
    if len(diff_ids) != len(layers):
        found = f"{len(diff_ids)} diffIds, {len(layers)} layers"
        yield rules.KITOPS_DIFF_IDS.finding([f"config {entry.manifest.config.digest[7:19]}"], found)
    yield from rules.KITOPS_RECENT.at([layer for layer in layers if not layer.is_tar or layer.compression == "zstd"])


def _kitops_tars(tars: Sequence[Layer]) -> Iterator[Finding]:
    links, orphans, known = list[str](), list[str](), {""}
    for member in (member for layer in tars for member in layer.listing.members):
        path = clean(member.name)
        if member.kind is Kind.FOLDER:
            known.update(_with_parents(path))
        elif member.kind is not Kind.FILE:
            links.append(shown(member.name))
        elif path.rpartition("/")[0] not in known:
            orphans.append(shown(member.name))
    yield from rules.KITOPS_LINK.at(links)
    yield from rules.KITOPS_PARENT.at(orphans)
    yield from rules.KITOPS_NOT_READ.at([f"{layer}: {layer.listing.gap}" for layer in tars if layer.listing.gap])


def _with_parents(path: str) -> Iterator[str]:
    """The folder and those above it, which are made with it; as deep as folders are in earnest."""
    for _ in range(_DEPTH):
        yield path
        path = path.rpartition("/")[0]


def docker_model_runner(artifact: Artifact) -> Iterator[Finding]:
    """`docker model pull` and `docker model run`."""
    if artifact.is_index:
        yield rules.RUNNER_INDEX.finding([artifact.root.media_type])
        return
    for entry in artifact.entries:
        kind = entry.manifest.config.media_type
        if kind in DOCKER_AI:
            if not any(layer.media_type.startswith(_DOCKER_WEIGHTS) for layer in entry.layers):
                yield rules.RUNNER_NO_WEIGHTS.finding(entry.layers, entry.types)
        elif CONFIG not in (kind,) and entry.manifest.artifact_type != ARTIFACT:
            yield rules.RUNNER_CONFIG.finding([f"config {entry.manifest.config.digest[7:19]}"], kind)
        elif not _is_modelpack_config(entry):
            yield rules.RUNNER_CONFIG.finding([f"config {entry.manifest.config.digest[7:19]}"], list(entry.config)[:5])
        else:
            yield from _runner_layers(entry)


def _is_modelpack_config(entry: Entry) -> bool:
    told = (entry.said("config", "paramSize"), entry.said("descriptor", "createdAt"), entry.config.get("modelfs"))
    return any(each is not None for each in told)


def _runner_layers(entry: Entry) -> Iterator[Finding]:
    taken = [layer for layer in entry.layers if not layer.is_tar and layer.path and is_safe(layer.path)]
    named = str(entry.said("config", "format") or "").lower()
    if not any(layer.media_type.startswith(_WEIGHT) and _is_runnable(layer, named) for layer in taken):
        yield rules.RUNNER_NO_WEIGHTS.finding(entry.layers, named or entry.types)
        return
    yield from rules.RUNNER_SKIPPED.at([layer for layer in entry.layers if layer not in taken])
    yield from rules.RUNNER_FORMAT.at([] if named else ["config.format"])


def _is_runnable(layer: Layer, named: str) -> bool:
    return (named or layer.path.rpartition(".")[2].lower()) in _RUNNABLE
