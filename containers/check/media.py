"""Media types of configs and layers, and what follows from them."""

from __future__ import annotations

import re

from registry.descriptor import IMAGE_CONFIG

IMAGE_CONFIGS = (IMAGE_CONFIG, "application/vnd.docker.container.image.v1+json")
"""Configs by which runtimes know an image."""

KIT_CONFIG = "application/vnd.kitops.modelkit.config.v1+json"

_IMAGE_LAYER = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)"
    r"(?:[.+](?:gzip|zstd))?"
)
_MODELPACK_LAYER = re.compile(
    r"application/vnd\.cncf\.model\.(?:weight|weight\.config|doc|code|dataset)\.v1\.(?:raw|tar(?:\+gzip|\+zstd)?)"
)
_TAIL = re.compile(r"(?P<tar>[./]tar)?(?:[.+](?P<packed>gzip|gzip-fastest|zstd))?$")


def is_image_layer(media_type: str) -> bool:
    """Whether runtimes unpack a layer of this type."""
    return bool(_IMAGE_LAYER.fullmatch(media_type))


def is_modelpack_layer(media_type: str) -> bool:
    """Whether it is one of those that ModelPack 0.0.7 names."""
    return bool(_MODELPACK_LAYER.fullmatch(media_type))


def is_tar(media_type: str) -> bool:
    """Whether it is a tar, compressed or not."""
    tail = _TAIL.search(media_type)
    return bool(tail and tail["tar"])


def compression(media_type: str) -> str:
    """`gzip`, `gzip-fastest`, `zstd` or nothing."""
    tail = _TAIL.search(media_type)
    return (tail["packed"] or "") if tail else ""
