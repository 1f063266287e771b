"""InferenceServices of KServe: `oci://`, `oci+native://`, and `modelpack://`, which packer's own image fetches."""

from __future__ import annotations

from typing import Any

from containers.manifests.document import Document, Manifests
from containers.manifests.fetching import PREFIX, STORAGE_NOTES, Workload, own_image, storage_container
from containers.manifests.pods import (
    Json,
    container_security,
    environment,
    metadata,
    placement,
    probes,
    resources,
    room,
    scratch,
    scratch_mounts,
)
from containers.manifests.serving import USER, Serving
from registry.errors import ModelError


def kserve(serving: Serving) -> Manifests:
    """An InferenceService of the image as a modelcar, or of a ModelPack artifact, which packer's own image fetches."""
    if not serving.model.is_image:
        return _fetched(serving)
    if not serving.model.has_shell:
        raise ModelError(
            "KServe runs the image as a modelcar, and this one has no shell",
            subject=str(serving.model.reference),
            hint="use --mode kserve-native, or publish it with --base busybox",
        )
    documents = inference(serving, f"oci://{serving.model.reference}", _MODELCAR_NOTES)
    return Manifests(documents, ("KServe 0.12, with enableModelcar in its ConfigMap",), 25)


_MODELCAR_NOTES = """
What oci:// means is ociModelMode in the ConfigMap inferenceservice-config of KServe. As it is shipped, the image runs
as a modelcar of the user id uidModelcar, 1010, and KServe has the server run as the same.
"""


def kserve_native(serving: Serving) -> Manifests:
    """An InferenceService whose pods mount the image as a volume."""
    requires = (
        "KServe 0.20",
        "Kubernetes 1.35, or 1.33 and 1.34 with the feature gate ImageVolume",
        "containerd 2.2 or CRI-O 1.33",
    )
    uri = f"oci+native://{serving.model.reference}"
    return Manifests(inference(serving, uri, _NATIVE_NOTES), requires, 33)


_NATIVE_NOTES = "KServe mounts the folder models of the image read-only at /mnt/models."


def _fetched(serving: Serving) -> Manifests:
    container = Document(storage_container(serving.options, Workload.POD), STORAGE_NOTES)
    requires = ("KServe 0.15", own_image(serving.options))
    documents = inference(serving, f"{PREFIX}{serving.model.reference}", _FETCHED_NOTES)
    return Manifests((container, *documents), requires, 25)


_FETCHED_NOTES = "For each pod an init container pulls and verifies the artifact."


def inference(serving: Serving, uri: str, notes: str) -> tuple[Document, ...]:
    """The ServingRuntime, and the InferenceService of the model at `uri`."""
    if serving.model.format == "onnx":
        raise ModelError(
            "KServe has a model at /mnt/models, and Triton wants it below a name and a version",
            subject=str(serving.model.reference),
            hint="use --mode image-volume, modelcar, init-container or pvc",
        )
    return (
        Document(_serving_runtime(serving), "How the server is started."),
        Document(_inference_service(serving, uri), notes),
    )


def _serving_runtime(serving: Serving) -> Json:
    """The server's container, without what KServe adds: the model. Its user is that of a modelcar as KServe is shipped;
    KServe puts another in its place where another is configured, and none where there is no modelcar.
    """
    runtime = serving.runtime
    anybody: Json = {"runAsNonRoot": True, "runAsUser": USER} if runtime.any_user else {}
    container: Json = {
        "name": "kserve-container",
        "image": serving.image,
        "command": list(runtime.command),
        "args": runtime.arguments(serving.server()),
        "env": environment(serving),
        "ports": [{"name": "http1", "containerPort": serving.port, "protocol": "TCP"}],
        **{name: _by_number(probe, serving.port) for name, probe in probes(serving).items()},
        "resources": resources(serving, _disk(serving)),
        "securityContext": {**container_security(is_read_only=runtime.read_only), **anybody},
        "volumeMounts": scratch_mounts(serving),
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": metadata(serving.model, serving.options, serving.name),
        "spec": {
            "supportedModelFormats": [{"name": serving.model.format}],
            "multiModel": False,
            "containers": [container],
            "volumes": scratch(serving),
        },
    }


def _disk(serving: Serving) -> int:
    """What KServe's own volume takes of the node's disk, where the model is fetched into it."""
    return 0 if serving.model.is_image else room(serving.model.size)


def _by_number(probe: Json, port: int) -> Json:
    """KServe renames ports; a number stays."""
    return {**probe, "httpGet": {**probe["httpGet"], "port": port}}


def _inference_service(serving: Serving, uri: str) -> Json:
    options = serving.options
    head = metadata(serving.model, options, serving.name)
    predictor: dict[str, Any] = {
        "minReplicas": options.replicas,
        "maxReplicas": max(options.replicas, 1),
        **placement(serving.model, options, serving.gpus),
        "model": {"modelFormat": {"name": serving.model.format}, "runtime": serving.name, "storageUri": uri},
    }
    annotations = {**head["annotations"], "serving.kserve.io/deploymentMode": "RawDeployment"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {**head, "annotations": annotations},
        "spec": {"predictor": predictor},
    }
