"""Programs in an image, looked for by the headers of its layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from containers.check.media import is_image_layer
from containers.check.members import list_layers, merged
from registry.descriptor import Descriptor
from registry.store import Source

FOLDERS = ("bin", "usr/bin", "sbin", "usr/sbin", "usr/local/bin")
"""Where programs are."""


def missing(programs: Iterable[str], paths: Collection[str]) -> list[str]:
    """The programs that none of `paths`, those of an image, is."""
    return [name for name in programs if not any(f"{folder}/{name}" in paths for folder in FOLDERS)]


def has_shell(layers: Iterable[Descriptor], source: Source) -> bool:
    """Whether the layers make an image with `sh`, or may: headers are read as far as `members` has it, and no further.

    `TransferError` if a layer cannot be had.
    """
    listings = list_layers(image := [layer for layer in layers if is_image_layer(layer.media_type)], source)
    ordered = [listings[layer.digest] for layer in image]
    return any(listing.gap for listing in ordered) or not missing(["sh"], merged(ordered))
