"""A layer as clients meet it: a descriptor, its place in the manifest, and of a tar its members."""

from __future__ import annotations

from dataclasses import dataclass

from containers.check.media import compression, is_image_layer, is_tar
from containers.check.members import Listing
from containers.layers import FILEPATH
from containers.modelpack import TITLE
from registry.descriptor import Descriptor
from registry.errors import ModelError
from registry.names import relative_path

OLD_FILEPATH = "org.cnai.model.filepath"
"""Annotation: what ModelPack called `FILEPATH` until 2025-07."""

UNPACK = "io.deis.oras.content.unpack"
"""Annotation: ORAS unpacks the layer."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer; `number` counts from one, and `listing` has the members of a tar."""

    descriptor: Descriptor
    number: int
    listing: Listing

    @property
    def media_type(self) -> str:
        """What its descriptor says that it is."""
        return self.descriptor.media_type

    @property
    def path(self) -> str:
        """Where ModelPack says that its file belongs."""
        return self.descriptor.annotations.get(FILEPATH, "")

    @property
    def title(self) -> str:
        """What OCI calls its file."""
        return self.descriptor.annotations.get(TITLE, "")

    @property
    def is_image(self) -> bool:
        """Whether runtimes unpack it."""
        return is_image_layer(self.media_type)

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, compressed or not. ORAS calls every file one."""
        return is_tar(self.media_type) and self.listing.is_tar

    @property
    def compression(self) -> str:
        """`gzip`, `gzip-fastest`, `zstd` or nothing."""
        return compression(self.media_type)

    def __str__(self) -> str:
        name = self.path or self.title
        return f"layer {self.number} {self.descriptor.digest[7:19]}" + (f" ({name})" if name else "")


def is_safe(path: str) -> bool:
    """Whether a path cannot leave the folder that it is written to."""
    try:
        relative_path(path, "")
    except ModelError:
        return False
    return True
