"""What is known of an artifact before anybody judges it: manifests, configs, and the members of its tars.

Reading is bounded: indexes of 100 manifests, `MAX_DOCUMENTS` bytes of these, and headers as `members` has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from containers.check.layers import Layer
from containers.check.media import IMAGE_CONFIGS
from containers.check.members import Listing, list_layers, merged
from containers.modelpack import ARTIFACT
from containers.tar import Walked
from registry.blob import read_all
from registry.descriptor import Descriptor, Digest, Platform
from registry.errors import ContentError
from registry.manifest import MAX_MANIFEST, Index, Manifest, parse_json_object
from registry.store import Source

MAX_DOCUMENTS = 8 << 20
"""Bytes of the manifests of an index, and of their configs, that are read."""

UNKNOWN = Platform("unknown", "unknown")
"""What builders call the platform of an attestation; nobody asks for it."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A manifest as a client meets it: by itself, or in an index for a platform (None where none is said)."""

    manifest: Manifest
    config: Mapping[str, Any]
    platform: Platform | None
    layers: tuple[Layer, ...]

    @property
    def is_image(self) -> bool:
        """Whether runtimes take it for an image."""
        return self.manifest.config.media_type in IMAGE_CONFIGS

    @property
    def image_layers(self) -> list[Layer]:
        """The layers that runtimes unpack."""
        return [layer for layer in self.layers if layer.is_image]

    def said(self, part: str, key: str) -> Any:
        """A member of a member of the config; None if there is none."""
        found = self.config.get(part)
        return found.get(key) if isinstance(found, dict) else None

    def digests(self, part: str, key: str) -> list[object]:
        """The list of digests there."""
        found = self.said(part, key)
        return found if isinstance(found, list) else []

    @property
    def unpacks_to_nothing(self) -> bool:
        """Whether containerd finds nothing in it to unpack, and nothing amiss in that."""
        return not self.image_layers and not self.digests("rootfs", "diff_ids")

    @cached_property
    def tree(self) -> dict[str, Walked]:
        """What the image layers make, by paths."""
        return merged([layer.listing for layer in self.image_layers])

    @property
    def types(self) -> str:
        """The media types of config and layers, in short."""
        parts = (self.manifest.config, *self.manifest.layers[:50])
        return ", ".join(dict.fromkeys(part.media_type.removeprefix("application/vnd.") for part in parts))


@dataclass(frozen=True)
class Artifact:
    """What a reference names: `entries` are the one manifest, or those of the index that were read.

    `unread` are the entries of an index that are no manifests, or were too many.
    """

    reference: str
    root: Manifest | Index
    entries: tuple[Entry, ...]
    unread: tuple[Descriptor, ...] = ()
    is_pinned: bool = False

    @property
    def is_index(self) -> bool:
        """Whether there is an index at the top."""
        return isinstance(self.root, Index)

    @property
    def platforms(self) -> list[Platform]:
        """The platforms that an index has something for."""
        found = (entry.platform for entry in self.entries)
        return sorted({platform for platform in found if platform and platform != UNKNOWN})

    @property
    def kind(self) -> str:
        """In a word or two."""
        first = self.entries[0] if self.entries else None
        what = "nothing" if first is None else "image" if first.is_image else _artifact(first.manifest)
        return f"index of {what}s" if self.is_index and first else what


def _artifact(manifest: Manifest) -> str:
    return "ModelPack artifact" if manifest.artifact_type == ARTIFACT else "artifact"


def read_artifact(reference: str, root: Manifest | Index, source: Source, *, is_pinned: bool = False) -> Artifact:
    """What `root` is, with all that rules ask for. `TransferError` if something of it cannot be had."""
    found = _manifests(root, source)
    listings = list_layers([layer for manifest, _ in found for layer in manifest.layers], source)
    configs = _configs([manifest for manifest, _ in found], source)
    entries = tuple(
        Entry(manifest, configs.get(manifest.config.digest, {}), platform, _layers(manifest, listings))
        for manifest, platform in found
    )
    read = {entry.manifest.descriptor.digest for entry in entries}
    unread = tuple(child for child in root.manifests if child.digest not in read) if isinstance(root, Index) else ()
    return Artifact(reference, root, entries, unread, is_pinned)


def _layers(manifest: Manifest, listings: Mapping[Digest, Listing]) -> tuple[Layer, ...]:
    none = Listing()
    return tuple(Layer(layer, at, listings.get(layer.digest, none)) for at, layer in enumerate(manifest.layers, 1))


def _manifests(root: Manifest | Index, source: Source) -> Sequence[tuple[Manifest, Platform | None]]:
    if isinstance(root, Manifest):
        return [(root, None)]
    found, left = list[tuple[Manifest, Platform | None]](), MAX_DOCUMENTS
    for child in root.manifests:
        left -= child.size
        if left < 0:
            break
        manifest = source.resolve(child.digest)
        if isinstance(manifest, Manifest):
            found.append((manifest, child.platform))
    return found


def _configs(manifests: Sequence[Manifest], source: Source) -> dict[Digest, Mapping[str, Any]]:
    """The configs that are JSON objects, by digest."""
    found, left = dict[Digest, Mapping[str, Any]](), MAX_DOCUMENTS
    for config in {manifest.config.digest: manifest.config for manifest in manifests}.values():
        left -= config.size
        if left < 0 or config.size > MAX_MANIFEST:
            continue
        raw = read_all(source.blob(config), MAX_MANIFEST)
        with suppress(ContentError):
            found[config.digest] = parse_json_object(raw, config.digest)
    return found
