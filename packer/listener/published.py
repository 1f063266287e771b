"""What lies in a registry of a release that something else has made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packer.evidence import VERDICT
from packer.lock import Entry, Layer, Outputs, model_layers
from packer.scorecards import find_scorecard
from packer.stages import MODELPACK_SUFFIX
from registry.access import Access
from registry.descriptor import Digest
from registry.errors import ContentError, NotFoundError, UsageError
from registry.manifest import Index, Manifest
from registry.reference import Reference, parse_reference
from registry.store import Store, open_store

REVISION, BASE = "org.opencontainers.image.revision", "org.opencontainers.image.base.digest"


@dataclass(frozen=True)
class Published:
    """A release: its outputs as a lock has them, and the source's revision and the base that its manifest names."""

    outputs: Outputs
    revision: str
    base: str

    def other_than(self, inputs: Mapping[str, Entry]) -> str:
        """Which input it was made of is not as it was found, in words; empty if none is known to differ."""
        source, base = inputs["source"], inputs["base"]
        if self.revision != source.revision:
            return f"it was made of the source at {self.revision or '?'}, not at {source.revision or '?'}"
        if self.base != base.value:
            return f"it was made on the base {self.base or 'none'}, not on {base.value or 'none'}"
        return ""


def published(place: str, digest: str, modelpack: str, access: Access) -> Published:
    """What was published as `digest` under the tag that `place` names, with a ModelPack manifest of that digest, if it
    is not empty.

    `TransferError` if the image is not there.
    """
    reference = _in_a_registry(place)
    store = open_store(reference, access)
    root = store.resolve(Digest(digest))
    scorecard = find_scorecard(root, store) if VERDICT in root.annotations else None
    return Published(
        Outputs(
            image=str(reference.at(root.descriptor.digest)),
            modelpack=str(reference.at(Digest(modelpack))) if modelpack else None,
            scorecard=str(reference.at(scorecard.digest)) if scorecard else None,
            tags=(reference.tag, *([reference.tag + MODELPACK_SUFFIX] if modelpack else [])),
            layers=_layers(root, store),
        ),
        revision=root.annotations.get(REVISION, ""),
        base=root.annotations.get(BASE, ""),
    )


def names(place: str, digest: str, access: Access) -> bool:
    """Whether a tag names a digest now."""
    reference = _in_a_registry(place)
    try:
        return open_store(reference, access).resolve(reference.tag).descriptor.digest == digest
    except (NotFoundError, ContentError):
        return False


def _in_a_registry(place: str) -> Reference:
    reference = parse_reference(place)
    if not isinstance(reference, Reference):
        raise UsageError("a cluster publishes to a registry", found=place)
    return reference


def _layers(root: Manifest | Index, store: Store) -> tuple[Layer, ...]:
    """The model's layers, which all platforms share."""
    image = store.resolve(root.manifests[0].digest) if isinstance(root, Index) else root
    return model_layers(image.layers if isinstance(image, Manifest) else ())
