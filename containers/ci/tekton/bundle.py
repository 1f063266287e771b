"""A Tekton bundle: an image whose layers are one object each, which the bundles resolver fetches.

https://tekton.dev/docs/pipelines/tekton-bundle-contracts/; the annotation `apiVersion` holds the version alone, as
`tkn` writes it.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence

from containers.ci.tekton.plan import Document
from containers.tar import Member, TarLayer
from registry.blob import Blob, BytesBlob, read_all
from registry.descriptor import IMAGE_CONFIG, Descriptor, digest_of
from registry.manifest import Graph, encode, make_manifest

MAX_OBJECTS = 20
"""Layers that Tekton takes; versions before 1.0 took ten."""

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_MAX_TAR = 4 << 20
_NAMES = "dev.tekton.image."


def bundle(documents: Sequence[Document]) -> Graph:
    """The image; the same objects give the same digest."""
    assert len(documents) <= MAX_OBJECTS
    tars = [_tar(document) for document in documents]
    layers = [_layer(document, tar) for document, tar in zip(documents, tars, strict=True)]
    config = {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        "history": [{"created": "1970-01-01T00:00:00Z", "comment": "Tekton bundle"} for _ in tars],
    }
    settings = BytesBlob.of(IMAGE_CONFIG, encode(config))
    return Graph(make_manifest(settings.descriptor, [layer.descriptor for layer in layers], {}), (settings, *layers))


def _tar(document: Document) -> bytes:
    """One file that has the object's name, which only its owner may write: as JSON, which is YAML too."""
    data = encode(document)
    member = Member(document["metadata"]["name"], len(data), lambda: io.BytesIO(data), mode=0o600)
    return read_all(TarLayer((member,)), _MAX_TAR)


def _layer(document: Document, tar: bytes) -> Blob:
    data = gzip.compress(tar, mtime=0)
    said = {
        "name": document["metadata"]["name"],
        "kind": document["kind"].lower(),
        "apiVersion": document["apiVersion"].rpartition("/")[2],
    }
    annotations = {_NAMES + key: value for key, value in said.items()}
    return BytesBlob(Descriptor(LAYER, digest_of(data), len(data), annotations), data)
