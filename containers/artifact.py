"""`package`: from a checkpoint to what is published, still lazy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from containers.base import Base
from containers.image import image_index
from containers.layers import model_layers
from containers.modelpack import ModelPack, modelpack_manifest
from formats.checkpoint import Checkpoint
from registry.blob import Blob
from registry.manifest import Graph, encode, unique_blobs

CARD = "packer.model+json"
"""Annotation on every manifest: the model's card, so that a reader of manifests alone knows what is inside."""


@dataclass(frozen=True)
class Artifact:
    """Manifests and blobs of one model: the image index, and the ModelPack manifest over the same layers."""

    image: Graph
    modelpack: Graph | None

    def blobs(self) -> Iterator[Blob]:
        """Every blob, each digest once."""
        return unique_blobs(graph for graph in (self.image, self.modelpack) if graph)


def package(checkpoint: Checkpoint, base: Base, form: ModelPack) -> Artifact:
    """The artifact of a checkpoint on a base. Every layer is read once, for its digest; nothing is written."""
    layers = model_layers(checkpoint)
    annotations = _annotations(checkpoint, base)
    image = image_index(base, layers, annotations)
    if form is ModelPack.NONE:
        return Artifact(image, None)
    return Artifact(image, modelpack_manifest(checkpoint, layers, form, annotations))


def _annotations(checkpoint: Checkpoint, base: Base) -> dict[str, str]:
    """Only what follows from the model and the base: no path, no host, no time."""
    card, origin = checkpoint.card, checkpoint.snapshot.origin
    annotations = {
        "org.opencontainers.image.title": card.name,
        "org.opencontainers.image.licenses": card.licence,
        "org.opencontainers.image.source": origin.name and f"hf://{origin.name}",
        "org.opencontainers.image.revision": origin.revision,
        "org.opencontainers.image.base.digest": base.digest or "",
        CARD: encode(card.to_json()).decode(),
    }
    return {key: value for key, value in annotations.items() if value}
