"""`publish`: send an artifact to a store. Blobs first, then manifests, the index last, then the tags."""

from __future__ import annotations

from containers.artifact import Artifact
from registry.reference import LayoutReference, Reference
from registry.store import Release, Store, push_graph

MODELPACK_SUFFIX = "-modelpack"
"""The ModelPack manifest has a tag of its own: its readers do not understand indexes."""


def publish(artifact: Artifact, store: Store, to: Reference | LayoutReference) -> Release:
    """Send what the store lacks. A tag moves only when everything below it is there, so no tag is ever broken."""
    sent, present = [0], [0]
    for blob in artifact.blobs():
        (sent if store.push(blob) else present).append(blob.descriptor.size)
    graphs = [(artifact.image, to.tag)]
    if artifact.modelpack:
        graphs.append((artifact.modelpack, to.tag + MODELPACK_SUFFIX))
    changed = [put for graph, _ in graphs for put in push_graph(graph, store)]
    changed += [store.tag(graph.root, tag) for graph, tag in graphs]
    modelpack = str(to.at(artifact.modelpack.root.descriptor.digest)) if artifact.modelpack else None
    return Release(
        image=str(to.at(artifact.image.root.descriptor.digest)),
        modelpack=modelpack,
        tags=tuple(tag for _, tag in graphs),
        blobs_sent=len(sent) - 1,
        bytes_sent=sum(sent),
        blobs_present=len(present) - 1,
        bytes_present=sum(present),
        changed=len(sent) > 1 or any(changed),
    )
