"""LLMInferenceServices of KServe: its own vLLM behind a gateway that knows the load and the caches of the replicas."""

from __future__ import annotations

from containers.manifests.document import Document, Manifests
from containers.manifests.pods import Json, metadata, placement, resources
from containers.manifests.serving import Serving
from registry.errors import ModelError


def llm_inference_service(serving: Serving) -> Manifests:
    """The service, with what KServe's own template for vLLM does not know of the model."""
    if serving.runtime.name != "vllm":
        raise ModelError(
            "an LLMInferenceService runs vLLM",
            subject=str(serving.model.reference),
            expected="a model in safetensors, for vllm",
            found=f"one in {serving.model.format}, for {serving.runtime.name}",
            hint="use --mode kserve",
        )
    model, options = serving.model, serving.options
    scheme = "oci" if model.has_shell else "oci+native"
    body = {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": metadata(model, options, serving.name),
        "spec": {
            "model": {"uri": f"{scheme}://{model.reference}", "name": serving.name},
            "replicas": options.replicas,
            "router": {"gateway": {}, "route": {}, "scheduler": {}},
            "template": {**placement(model, options, serving.gpus), "containers": [_container(serving)]},
        },
    }
    requires = (
        "KServe 0.20 with its LLMInferenceServices, the Gateway API and its inference extension",
        _SCHEMES[scheme],
    )
    return Manifests((Document(body, _NOTES),), requires, 25 if model.has_shell else 33)


_SCHEMES = {
    "oci": "modelcars, or what image volumes need, by ociModelMode in KServe's ConfigMap",
    "oci+native": "Kubernetes 1.35, or 1.33 with the feature gate ImageVolume; containerd 2.2 or CRI-O 1.33",
}

_NOTES = """
Image, command, ports and probes are those of KServe's own template for vLLM; what stands here is added to them.
"""


def _container(serving: Serving) -> Json:
    own = {"image": serving.options.runtime_image} if serving.options.runtime_image else {}
    variables = {
        "HF_HUB_OFFLINE": "1",
        **serving.runtime.environment(serving.server()),
        "VLLM_ADDITIONAL_ARGS": " ".join(_arguments(serving)),
    }
    return {
        "name": "main",
        **own,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": resources(serving),
    }


def _arguments(serving: Serving) -> list[str]:
    """Those that the template does not give."""
    said = serving.runtime.arguments(serving.server())[1:]
    return [word for word in said if not word.startswith(("--served-model-name", "--port"))]
