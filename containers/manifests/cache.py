"""KServe's cache of models on the disks of nodes."""

from __future__ import annotations

from containers.gpus import gpu_nodes
from containers.manifests.document import Document, Manifests
from containers.manifests.fetching import PREFIX, STORAGE_NOTES, Workload, own_image, storage_container
from containers.manifests.kserve import inference
from containers.manifests.options import Options
from containers.manifests.pods import Json, metadata, room
from containers.manifests.quantity import GI, quantity
from containers.manifests.serving import Serving

STORAGE_CLASS = "local-storage"
"""What Kubernetes' own documents call a class of local volumes without a provisioner."""

SMALLEST = 10 * GI
"""Bytes that a group of nodes offers at least."""


def model_cache(serving: Serving) -> Manifests:
    """The model on the disks of a group of nodes, and an InferenceService that finds it there."""
    uri = f"{PREFIX}{serving.model.reference}"
    documents = (
        Document(storage_container(serving.options, Workload.CACHE), STORAGE_NOTES),
        Document(storage_container(serving.options, Workload.POD), _POD_NOTES),
        Document(_group(serving), _GROUP_NOTES),
        Document(
            _cache(serving, uri), "What is there. A cache has one URI for ever: another release is another cache."
        ),
        *inference(serving, uri, "It has the URI of the cache, and runs where the model is."),
    )
    requires = (
        "KServe 0.15, with localModel.enabled in its ConfigMap, and its agents on the nodes",
        own_image(serving.options),
    )
    return Manifests(documents, requires, 25)


_POD_NOTES = """
KServe takes an InferenceService with such a URI only if there is one for init containers too; it fetches for services
that have no cache.
"""

_GROUP_NOTES = """
The nodes, and the folder of their disks that models are in. Its storage class needs no provisioner.
"""


def _group(serving: Serving) -> Json:
    options = serving.options
    size = quantity(max(-(-2 * room(serving.model.size) // GI) * GI, SMALLEST))
    volume = {"accessModes": ["ReadWriteOnce"], "storageClassName": options.storage_class or STORAGE_CLASS}
    terms = [{"matchExpressions": _nodes(options, serving.gpus)}]
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LocalModelNodeGroup",
        "metadata": metadata(serving.model, options, serving.name, is_cluster_wide=True),
        "spec": {
            "storageLimit": size,
            "persistentVolumeSpec": {
                **volume,
                "capacity": {"storage": size},
                "persistentVolumeReclaimPolicy": "Delete",
                "local": {"path": "/mnt/models"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
            },
            "persistentVolumeClaimSpec": {**volume, "resources": {"requests": {"storage": size}}},
        },
    }


def _cache(serving: Serving, uri: str) -> Json:
    name = f"{serving.name}-{serving.release}"
    size = quantity(room(serving.model.size))
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LocalModelCache",
        "metadata": metadata(serving.model, serving.options, name, serving.name, is_cluster_wide=True),
        "spec": {"sourceModelUri": uri, "modelSize": size, "nodeGroups": [serving.name]},
    }


def _nodes(options: Options, gpus: int) -> list[Json]:
    """The nodes that the user chose, or those of which an operator says that they have GPUs."""
    present = gpu_nodes(options.gpu_resource) if gpus else {}
    chosen = options.node_selector or present or {"kubernetes.io/os": "linux"}
    return [{"key": key, "operator": "In", "values": [value]} for key, value in chosen.items()]
