"""`package`: from a checkpoint to what is published, still lazy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from containers.base import Base
from containers.evidence import Evidence, referrers, require
from containers.image import image_index
from containers.layers import model_layers
from containers.modelpack import ModelPack, modelpack_manifest
from formats.checkpoint import Checkpoint
from registry.blob import Blob
from registry.manifest import Graph, encode, unique_blobs
from registry.memory import Memory

CARD = "packer.model+json"
"""Annotation on every manifest: the model's card, so that a reader of manifests alone knows what is inside."""


@dataclass(frozen=True)
class Artifact:
    """Manifests and blobs of one model: the image index, and the ModelPack manifest over the same layers.

    `referrers` hold the evidence about them, that about the image index first.
    """

    image: Graph
    modelpack: Graph | None
    referrers: tuple[Graph, ...] = ()

    def blobs(self) -> Iterator[Blob]:
        """Every blob, each digest once."""
        return unique_blobs(graph for graph in (self.image, self.modelpack, *self.referrers) if graph)


def package(
    checkpoint: Checkpoint,
    base: Base,
    form: ModelPack,
    memory: Memory | None = None,
    evidence: Evidence | None = None,
) -> Artifact:
    """The artifact of a checkpoint on a base. Nothing is written; every layer is read once, for its digest.

    `memory` knows the digests of layers whose files have not changed; these are not read at all. `evidence` goes along;
    `ModelError` if it is about another checkpoint, or says no.
    """
    memory = memory or Memory()
    if evidence:
        require(evidence, checkpoint, memory)
    layers = model_layers(checkpoint, memory)
    annotations = {**_annotations(checkpoint, base), **(evidence.annotations if evidence else {})}
    image = image_index(base, layers, annotations)
    is_wanted = form is not ModelPack.NONE
    modelpack = modelpack_manifest(checkpoint, layers, form, annotations, memory) if is_wanted else None
    return Artifact(image, modelpack, referrers(evidence, image, modelpack) if evidence else ())


def _annotations(checkpoint: Checkpoint, base: Base) -> dict[str, str]:
    """Only what follows from the model and the base: no path, no host, no time."""
    card, origin = checkpoint.card, checkpoint.snapshot.origin
    annotations = {
        "org.opencontainers.image.title": card.name,
        "org.opencontainers.image.licenses": card.licence,
        "org.opencontainers.image.source": origin.url,
        "org.opencontainers.image.revision": origin.revision,
        "org.opencontainers.image.base.digest": base.digest or "",
        CARD: encode(card.to_json()).decode(),
    }
    return {key: value for key, value in annotations.items() if value}
