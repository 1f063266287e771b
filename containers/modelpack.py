"""The ModelPack manifest: the same model for readers that know models and not images.

CNCF ModelPack specification 0.0.7, `docs/spec.md` and `schema/config-schema.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from containers.image import EPOCH
from containers.layers import FILEPATH, ModelLayer
from formats.checkpoint import Checkpoint
from formats.identity import is_document, is_vocabulary
from formats.snapshot import ModelFile
from registry.blob import Blob, BytesBlob, TypedBlob
from registry.descriptor import Descriptor
from registry.manifest import Graph, encode, make_manifest
from registry.memory import Memory, mark_of

ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
TITLE = "org.opencontainers.image.title"
METADATA = "org.cncf.model.file.metadata+json"


class ModelPack(StrEnum):
    """How the ModelPack manifest holds the model.

    `shared` uses the image's own tar layers, so not a byte more is stored; `raw` adds every file as it is, for readers
    that never untar (CRI-O artifact mounts, Docker Model Runner); `none` publishes no such manifest.
    """

    SHARED = "shared"
    RAW = "raw"
    NONE = "none"


def modelpack_manifest(
    checkpoint: Checkpoint,
    layers: Sequence[ModelLayer],
    form: ModelPack,
    annotations: Mapping[str, str],
    memory: Memory,
) -> Graph:
    """The flat manifest: indexes are not understood by the readers it is for."""
    blobs = _raw(checkpoint, memory) if form is ModelPack.RAW else _shared(layers)
    config = BytesBlob.of(CONFIG, encode(model_config(checkpoint, blobs)))
    descriptors = [blob.descriptor for blob in blobs]
    return Graph(make_manifest(config.descriptor, descriptors, annotations, ARTIFACT), (config, *blobs))


def model_config(checkpoint: Checkpoint, layers: Sequence[Blob]) -> dict[str, Any]:
    """The ModelPack config over uncompressed layers, filled from what the model says of itself."""
    card, origin = checkpoint.card, checkpoint.snapshot.origin
    descriptor = {
        "family": card.family,
        "name": card.name,
        "sourceURL": origin.url,
        "revision": origin.revision,
        "licenses": [card.licence] if card.licence else [],
    }
    config = {
        "architecture": card.architecture,
        "format": card.format,
        "paramSize": card.param_size,
        "precision": card.precision,
        "quantization": card.quantization,
    }
    return {
        "descriptor": {key: value for key, value in descriptor.items() if value},
        "config": {key: value for key, value in config.items() if value},
        "modelfs": {"type": "layers", "diffIds": [layer.descriptor.digest for layer in layers]},
    }


def _shared(layers: Sequence[ModelLayer]) -> tuple[Blob, ...]:
    return tuple(
        TypedBlob.of(
            layer.tar, _media_type("weight" if layer.is_weight else "weight.config", "tar"), {FILEPATH: layer.path}
        )
        for layer in layers
    )


def _raw(checkpoint: Checkpoint, memory: Memory) -> tuple[Blob, ...]:
    return tuple(_raw_layer(file, _kind(file, checkpoint), memory) for file in checkpoint.snapshot.files)


def _raw_layer(file: ModelFile, kind: str, memory: Memory) -> Blob:
    digest = memory.digest(mark_of(file.blob), lambda: file.blob.descriptor.digest)
    return TypedBlob(file.blob, Descriptor(_media_type(kind, "raw"), digest, file.size, _file_annotations(file)))


def _media_type(kind: str, form: str) -> str:
    return f"application/vnd.cncf.model.{kind}.v1.{form}"


def _kind(file: ModelFile, checkpoint: Checkpoint) -> str:
    if file.name in checkpoint.weights:
        return "weight"
    if file.suffix == ".py":
        return "code"
    is_text = file.suffix == ".txt" and not is_vocabulary(file)
    return "doc" if is_text or is_document(file) else "weight.config"


def _file_annotations(file: ModelFile) -> dict[str, str]:
    """Title and path always agree: CRI-O prefers the one, ModelPack readers know only the other."""
    metadata = {"name": file.name.rpartition("/")[2], "mode": 0o644, "uid": 0, "gid": 0, "size": file.size}
    return {
        FILEPATH: file.name,
        TITLE: file.name,
        METADATA: encode({**metadata, "mtime": EPOCH, "typeflag": 0}).decode(),
    }
