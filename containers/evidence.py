"""The evidence of an evaluation, as it travels with what was measured: a referrer of each manifest.

In-toto attestation framework 1, `spec/v1/statement.md` and `spec/predicates/test-result.md`; image specification 1.1,
`manifest.md` ("Guidelines for Artifact Usage"). Every image of an index has one too: clusters pin these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from containers.modelpack import TITLE
from formats.checkpoint import Checkpoint
from formats.identity import identity
from registry.blob import Blob, BytesBlob
from registry.descriptor import Descriptor, Digest, digest_of
from registry.errors import ModelError
from registry.manifest import Graph, Index, encode, make_manifest
from registry.memory import Memory, mark_of

STATEMENT = "application/vnd.in-toto+json"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
SCORECARD = "application/vnd.packer.scorecard.v1+json"
REPORT = "text/html"
PREDICATE_TYPE = "in-toto.io/predicate-type"
CREATED = "org.opencontainers.image.created"

_EMPTY = BytesBlob.of("application/vnd.oci.empty.v1+json", b"{}")
_TYPE = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True)
class Evidence:
    """What is known of a checkpoint, and whether it may ship.

    `checkpoint` is the identity (`formats/identity.py`) of what was measured, `why` a line that says why it may or may
    not ship, `time` when that was found (RFC 3339). `annotations` go on every manifest, `predicate` into a statement,
    beside which the `documents` lie.
    """

    checkpoint: Digest
    is_accepted: bool
    why: str
    time: str
    annotations: Mapping[str, str]
    predicate: Mapping[str, Any]
    documents: tuple[Blob, ...]


def document(title: str, media_type: str, data: bytes) -> Blob:
    """A document of this file name."""
    return BytesBlob(Descriptor(media_type, digest_of(data), len(data), {TITLE: title}), data)


def require(evidence: Evidence, checkpoint: Checkpoint, memory: Memory) -> None:
    """`ModelError` unless the evidence is about this very checkpoint and says yes.

    The files are read for their digests, unless the memory has these.
    """
    if not evidence.is_accepted:
        raise ModelError("the evaluation says that this model may not ship", found=evidence.why)
    found = identity(checkpoint, lambda file: memory.digest(mark_of(file.blob), lambda: file.blob.descriptor.digest))
    if found != evidence.checkpoint:
        raise ModelError(
            "the evaluation is about another model",
            expected=evidence.checkpoint,
            found=found,
            hint="evaluate the model that is to be published",
        )


def referrers(evidence: Evidence, image: Graph, modelpack: Graph | None) -> tuple[Graph, ...]:
    """What is to lie beside an image index, each of its images, and a ModelPack manifest, in that order."""
    names = {image.root.descriptor.digest: "image index"}
    if isinstance(image.root, Index):
        names |= {entry.digest: f"image {entry.platform}" for entry in image.root.manifests}
    about = _attached(evidence, [image, *image.children], list(names.items()))
    if not modelpack:
        return tuple(about)
    return (*about, *_attached(evidence, [modelpack], [(modelpack.root.descriptor.digest, "modelpack manifest")]))


def _attached(evidence: Evidence, graphs: Sequence[Graph], names: Sequence[tuple[Digest, str]]) -> Iterator[Graph]:
    """A referrer of each graph's root, all with one statement about these digests of these names."""
    blobs = (_statement(evidence, names), *evidence.documents)
    annotations = {**evidence.annotations, CREATED: evidence.time, PREDICATE_TYPE: PREDICATE}
    layers = [blob.descriptor for blob in blobs]
    for graph in graphs:
        manifest = make_manifest(_EMPTY.descriptor, layers, annotations, STATEMENT, graph.root.descriptor)
        yield Graph(manifest, (_EMPTY, *blobs))


def _statement(evidence: Evidence, names: Sequence[tuple[Digest, str]]) -> Blob:
    subject = [{"name": name, "digest": {"sha256": digest.partition(":")[2]}} for digest, name in names]
    data = encode(
        {"_type": _TYPE, "subject": subject, "predicateType": PREDICATE, "predicate": dict(evidence.predicate)}
    )
    annotations = {TITLE: "statement.json", PREDICATE_TYPE: PREDICATE}
    return BytesBlob(Descriptor(STATEMENT, digest_of(data), len(data), annotations), data)
