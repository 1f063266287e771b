"""Manifests and indexes: what points at blobs.

A manifest keeps the bytes it was read from; its digest is over those, never over a re-encoding.
Image specification 1.1, `manifest.md` and `image-index.md`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

from registry.blob import Blob
from registry.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST, Descriptor, digest_of
from registry.errors import ContentError, ModelError

MAX_MANIFEST = 4 << 20
"""Bytes: the size that every registry must accept and that none may exceed (distribution specification 1.1)."""

MAX_CHILDREN = 100
"""Manifests of an index: more than there are platforms, and few enough to be read one by one."""


@dataclass(frozen=True)
class _Document:
    media_type: str
    raw: bytes
    annotations: Mapping[str, str]
    artifact_type: str
    subject: Descriptor | None

    @cached_property
    def descriptor(self) -> Descriptor:
        """Digest and size of the bytes as they are."""
        return Descriptor(self.media_type, digest_of(self.raw), len(self.raw), artifact_type=self.artifact_type)

    def open(self) -> BinaryIO:
        """A stream over the bytes."""
        return io.BytesIO(self.raw)


@dataclass(frozen=True)
class Manifest(_Document):
    """An image or artifact: a config and layers in order."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Index(_Document):
    """A list of manifests, one for each platform."""

    manifests: tuple[Descriptor, ...]


def encode(document: object) -> bytes:
    """The one way this project writes JSON that gets a digest: UTF-8, no spaces, members in the given order."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def parse_json_object(raw: bytes, origin: str) -> dict[str, Any]:
    """A JSON object from outside; `ContentError` naming `origin` for anything else."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"this is not JSON ({error})", subject=origin) from error
    if not isinstance(document, dict):
        raise ContentError("this is not a JSON object", subject=origin, found=type(document).__name__)
    try:
        encode(document)
    except (ValueError, RecursionError) as error:
        raise ContentError("this JSON holds text or numbers that cannot be written again", subject=origin) from error
    return document


def decode(raw: bytes, origin: str, most: int = MAX_CHILDREN) -> Manifest | Index:
    """The manifest or index, of `most` manifests, in `raw`; `ContentError` naming `origin` if it is neither."""
    document = parse_json_object(raw, origin)
    annotations = document.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise ContentError("the annotations of this manifest are not strings", subject=origin)
    artifact_type = str(document.get("artifactType") or "")
    subject = Descriptor.from_json(document["subject"]) if document.get("subject") else None
    if isinstance(document.get("manifests"), list):
        if len(document["manifests"]) > most:
            raise ContentError("this index is too long", subject=origin, expected=f"at most {most} manifests")
        media_type = str(document.get("mediaType") or INDEX)
        children = tuple(map(Descriptor.from_json, document["manifests"]))
        if media_type in (INDEX, DOCKER_INDEX):
            return Index(media_type, raw, annotations, artifact_type, subject, children)
    elif isinstance(document.get("layers"), list):
        media_type = str(document.get("mediaType") or MANIFEST)
        config = Descriptor.from_json(document.get("config"))
        layers = tuple(map(Descriptor.from_json, document["layers"]))
        if media_type in (MANIFEST, DOCKER_MANIFEST):
            return Manifest(media_type, raw, annotations, artifact_type, subject, config, layers)
    raise ContentError(
        "this is neither an image manifest nor an index",
        subject=origin,
        expected=f"{MANIFEST} with layers, or {INDEX} with manifests",
        found=f"media type {document.get('mediaType')!r}, members {', '.join(sorted(map(str, document)))[:200]}",
    )


def _new(document: object) -> Manifest | Index:
    raw = encode(document)
    if len(raw) > MAX_MANIFEST:
        raise ModelError(
            "the manifest of this model is too large for a registry",
            expected=f"at most {MAX_MANIFEST} bytes",
            found=f"{len(raw)} bytes",
            hint="the model has too many files, or absurd metadata: choose files with --include, or --modelpack shared",
        )
    return decode(raw, "a new manifest", most=MAX_MANIFEST)


def make_manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str],
    artifact_type: str = "",
    subject: Descriptor | None = None,
) -> Manifest:
    """A new image or artifact manifest; with a subject, a referrer of that."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    if artifact_type:
        document["artifactType"] = artifact_type
    document["config"] = config.to_json()
    document["layers"] = [layer.to_json() for layer in layers]
    if subject:
        document["subject"] = Descriptor(subject.media_type, subject.digest, subject.size).to_json()
    document["annotations"] = dict(sorted(annotations.items()))
    manifest = _new(document)
    assert isinstance(manifest, Manifest)
    return manifest


def make_index(manifests: Sequence[Descriptor], annotations: Mapping[str, str]) -> Index:
    """A new index over manifests that carry their platform."""
    document = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [manifest.to_json() for manifest in manifests],
        "annotations": dict(sorted(annotations.items())),
    }
    index = _new(document)
    assert isinstance(index, Index)
    return index


@dataclass(frozen=True)
class Graph:
    """A manifest or index together with everything it names, still lazy."""

    root: Manifest | Index
    blobs: tuple[Blob, ...] = ()
    children: tuple[Graph, ...] = ()


def unique_blobs(graphs: Iterable[Graph]) -> Iterator[Blob]:
    """Every blob below the roots, each digest once, in the order in which they are to be sent."""
    seen = set()
    for graph in graphs:
        for blob in (*graph.blobs, *unique_blobs(graph.children)):
            if blob.descriptor.digest not in seen:
                seen.add(blob.descriptor.digest)
                yield blob
