"""`publish`: send an artifact to a store. Blobs first, then manifests, what is about them, and last the tags."""

from __future__ import annotations

from containers.artifact import Artifact
from packer.stages import MODELPACK_SUFFIX
from registry.reference import LayoutReference, Reference
from registry.store import Release, Store, push_graph
from registry.transfer import push_blobs


def publish(artifact: Artifact, store: Store, to: Reference | LayoutReference, workers: int) -> Release:
    """Send what the store lacks. A tag moves only when everything below it is there, so no tag is ever broken, and the
    evidence about it, so none is ever without.
    """
    traffic = push_blobs(artifact.blobs(), store, workers)
    graphs = [(artifact.image, to.tag)]
    if artifact.modelpack:
        graphs.append((artifact.modelpack, to.tag + MODELPACK_SUFFIX))
    every = [*(graph for graph, _ in graphs), *artifact.referrers]
    changed = [put for graph in every for put in push_graph(graph, store)]
    changed += [store.tag(graph.root, tag) for graph, tag in graphs]
    return Release(
        **vars(traffic),
        image=str(to.at(artifact.image.root.descriptor.digest)),
        modelpack=str(to.at(artifact.modelpack.root.descriptor.digest)) if artifact.modelpack else None,
        scorecard=str(to.at(artifact.referrers[0].root.descriptor.digest)) if artifact.referrers else None,
        tags=tuple(tag for _, tag in graphs),
        changed=traffic.moved or any(changed),
    )
