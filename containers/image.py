"""The model image: for each platform a base and the model's layers, which all platforms share.

Image specification 1.1, `config.md`. It mounts as an image volume, runs as a KServe modelcar and copies itself as an
init container; `docs/adr/0003-layers.md` says which rule serves which reader. It has no entrypoint (KServe gives
`args`), no `artifactType` (CRI-O would mount the tars themselves), and a `diff_id` and a history entry for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from containers.base import Base, BaseImage
from containers.layers import FILEPATH, ModelLayer
from registry.blob import BytesBlob, TypedBlob
from registry.descriptor import IMAGE_CONFIG, IMAGE_LAYER
from registry.manifest import Graph, encode, make_index, make_manifest

EPOCH = "1970-01-01T00:00:00Z"
"""The one time that is written anywhere: a real one would make every build another image."""


def image_index(base: Base, layers: Sequence[ModelLayer], annotations: Mapping[str, str]) -> Graph:
    """An index with an image for each platform of the base."""
    images = tuple(_image(image, layers, annotations) for image in base.images)
    entries = [
        replace(graph.root.descriptor, platform=image.platform)
        for graph, image in zip(images, base.images, strict=True)
    ]
    return Graph(make_index(entries, annotations), children=images)


def _image(base: BaseImage, layers: Sequence[ModelLayer], annotations: Mapping[str, str]) -> Graph:
    model = [TypedBlob.of(layer.tar, IMAGE_LAYER, {FILEPATH: layer.path}) for layer in layers]
    diff_ids = [*base.diff_ids, *(blob.descriptor.digest for blob in model)]
    history = [*("base" for _ in base.diff_ids), *(layer.path for layer in layers)]
    config = {
        "created": EPOCH,
        **base.platform.to_json(),
        "config": {"Env": list(base.environment)} if base.environment else {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": EPOCH, "created_by": "packer", "comment": comment} for comment in history],
    }
    blobs = (BytesBlob.of(IMAGE_CONFIG, encode(config)), *base.layers, *model)
    descriptors = [blob.descriptor for blob in blobs]
    return Graph(make_manifest(descriptors[0], descriptors[1:], annotations), blobs)
