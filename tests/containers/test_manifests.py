"""What `packer manifests` writes: valid for the versions that a mode is said to work with, and right in its numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from containers.manifests.document import Manifests, render
from containers.manifests.memory import Footprint, estimate
from containers.manifests.model import Model, Sizes, sizes_of_config, sizes_of_gguf
from containers.manifests.modes import make
from containers.manifests.options import Kind, Mode, Options, Sidecar
from containers.manifests.quantity import quantity
from containers.manifests.runtimes import RUNTIMES
from registry.descriptor import digest_of
from registry.errors import ModelError, UsageError
from registry.reference import Reference
from tests.parts.kubernetes import NEWEST, judge

GI = 1 << 30
LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
"""Of Llama 3.1 8B."""

SHARDS = (4976698672, 4999802720, 4915916176, 1168138808)


def model(*names: str, **changes: Any) -> Model:
    """Llama 3.1 8B in the format of the given files, which are those of its safetensors otherwise."""
    shards = {f"model-0000{number}-of-00004.safetensors": size for number, size in enumerate(SHARDS, 1)}
    files = dict.fromkeys(names, 8_540_000_000) or {"config.json": 855, "tokenizer.json": 9_085_698, **shards}
    sizes = sizes_of_config(LLAMA)
    pinned = Reference("registry.example.com", "models/llama", digest=digest_of(b"release"))
    described = Model(pinned, "registry.example.com/models/llama:v1", True, True, ("amd64", "arm64"), files, sizes)
    return replace(described, **changes)


SAFETENSORS = model()
MODELPACK = model(is_image=False)
GGUF = model("llama-Q8_0.gguf")
ONNX = model("model.onnx", sizes=None)


def documents(of: Model, **options: Any) -> list[dict[str, Any]]:
    return [document.body for document in made(of, **options).documents]


def made(of: Model, **options: Any) -> Manifests:
    return make(of, Options(**options))[0]


def kinds(of: Model, **options: Any) -> list[str]:
    return [document["kind"] for document in documents(of, **options)]


def values(document: Any, name: str) -> Iterator[Any]:
    """Every value of that name, wherever it stands."""
    if isinstance(document, dict):
        yield from (value for key, value in document.items() if key == name)
        yield from itertools.chain.from_iterable(values(value, name) for value in document.values())
    elif isinstance(document, list):
        yield from itertools.chain.from_iterable(values(value, name) for value in document)


RICH: dict[str, Any] = {"replicas": 2, "gpu": 4, "namespace": "llm", "pull_secret": "login", "storage_class": "fast"}
CASES: list[tuple[Model, dict[str, Any]]] = [
    *((SAFETENSORS, {"mode": mode}) for mode in Mode),
    *((SAFETENSORS, {"mode": mode, **RICH, "node_selector": {"pool": "gpu"}}) for mode in Mode),
    *((SAFETENSORS, {"mode": mode, "gpu": 0, "kind": Kind.POD}) for mode in Mode if mode not in ("prefetch",)),
    *((MODELPACK, {"mode": mode, "plain_http": True}) for mode in ("pvc", "kserve", "model-cache")),
    *((GGUF, {"mode": mode, "gpu": gpu}) for mode in ("image-volume", "kserve", "pvc") for gpu in (0, 1)),
    *((ONNX, {"mode": mode}) for mode in ("image-volume", "modelcar", "init-container", "pvc")),
    (SAFETENSORS, {"mode": "modelcar", "sidecar": Sidecar.PLAIN}),
    (SAFETENSORS, {"mode": "image-volume", "runtime": "sglang"}),
    (model(has_shell=False), {"mode": "image-volume"}),
    (model(has_shell=False), {"mode": "kserve-native"}),
    (model(has_shell=False), {"mode": "llm-inference-service"}),
    (model(has_shell=False), {"mode": "prefetch"}),
    (model(architectures=("amd64",)), {"mode": "init-container"}),
]


def options_of(said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "mode": Mode(said["mode"])}


@pytest.mark.parametrize(("of", "said"), CASES)
def test_documents_are_valid_for_the_oldest_and_the_newest_kubernetes(of: Model, said: dict[str, Any]) -> None:
    result = made(of, **options_of(said))
    for version in (result.kubernetes, NEWEST):
        for document in result.documents:
            judge(document.body, version)


@pytest.mark.parametrize("version", [30, 32])
def test_image_volumes_are_not_said_to_work_where_they_do_not(version: int) -> None:
    """1.30 does not know them; until 1.33 they had no subPath, which schemas do not tell."""
    (deployment, _) = documents(SAFETENSORS, mode=Mode.IMAGE_VOLUME)
    assert made(SAFETENSORS, mode=Mode.IMAGE_VOLUME).kubernetes == 33 > version
    if version < 31:
        with pytest.raises(kubernetes_validate.ValidationError):
            judge(deployment, version)


@pytest.mark.parametrize("place", ["spec", "spec.predictor", "spec.predictor.model", "metadata"])
def test_judge_knows_what_an_inference_service_has(place: str) -> None:
    document = documents(SAFETENSORS, mode=Mode.KSERVE)[1]
    inner = document
    for name in place.split("."):
        inner = inner[name]
    inner["storageURI"] = "oci://registry.example.com/models/llama"
    with pytest.raises(jsonschema.ValidationError):
        judge(document, NEWEST)


def test_judge_looks_into_what_is_kubernetes_own() -> None:
    runtime = documents(SAFETENSORS, mode=Mode.KSERVE)[0]
    runtime["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        judge(runtime, NEWEST)


@pytest.mark.parametrize(("of", "said"), CASES)
def test_every_mention_of_the_model_is_pinned(of: Model, said: dict[str, Any]) -> None:
    """By digest wherever something is fetched; the tag stands in the annotation and the comments alone."""
    for document in documents(of, **options_of(said)):
        named = [
            text
            for name in ("image", "reference", "storageUri", "sourceModelUri", "uri")
            for text in values(document, name)
        ]
        own = [text for text in named if isinstance(text, str) and "models/llama" in text]
        assert all(text.endswith(f"@{of.reference.digest}") for text in own)
    whole = yaml.safe_dump_all(documents(of, **options_of(said)))
    assert f"@{of.reference.digest}" in whole
    assert whole.count("models/llama:v1") == whole.count("packer.reference: registry.example.com/models/llama:v1")


@pytest.mark.parametrize(("of", "said"), CASES)
def test_yaml_says_what_the_documents_say(of: Model, said: dict[str, Any]) -> None:
    result = made(of, **options_of(said))
    text = render(["Needs: " + "; ".join(result.requires)], result.documents)
    assert list(yaml.safe_load_all(text)) == [document.body for document in result.documents]
    assert "Kubernetes 1." in text or "KServe 0." in text
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120
    assert "latest" not in text.replace("registry.example.com/packer:latest", "")


def test_modes_make_what_they_are_for() -> None:
    assert kinds(SAFETENSORS, mode=Mode.IMAGE_VOLUME) == ["Deployment", "Service"]
    assert kinds(SAFETENSORS, mode=Mode.MODELCAR, kind=Kind.POD) == ["Pod", "Service"]
    assert kinds(SAFETENSORS, mode=Mode.PVC) == ["PersistentVolumeClaim", "Job", "Deployment", "Service"]
    assert kinds(SAFETENSORS, mode=Mode.KSERVE) == ["ServingRuntime", "InferenceService"]
    assert kinds(MODELPACK, mode=Mode.KSERVE) == ["ClusterStorageContainer", "ServingRuntime", "InferenceService"]
    assert kinds(SAFETENSORS, mode=Mode.LLM_INFERENCE_SERVICE) == ["LLMInferenceService"]
    assert kinds(SAFETENSORS, mode=Mode.PREFETCH) == ["DaemonSet"]
    cache = ["LocalModelNodeGroup", "LocalModelCache", "ServingRuntime", "InferenceService"]
    assert kinds(SAFETENSORS, mode=Mode.MODEL_CACHE) == ["ClusterStorageContainer", "ClusterStorageContainer", *cache]


@pytest.mark.parametrize(("of", "mode"), [(MODELPACK, Mode.KSERVE), (SAFETENSORS, Mode.MODEL_CACHE)])
def test_kserve_takes_the_uri_of_every_service(of: Model, mode: Mode) -> None:
    """It refuses an InferenceService whose URI no storage container of init containers supports, cached or not."""
    found = documents(of, mode=mode)
    uri = found[-1]["spec"]["predictor"]["model"]["storageUri"]
    specs = [each["spec"] for each in found if each["kind"] == "ClusterStorageContainer"]
    known = {each["workloadType"]: [form["prefix"] for form in each["supportedUriFormats"]] for each in specs}
    assert uri.startswith(tuple(known["initContainer"]))
    assert len({each["metadata"]["name"] for each in found if each["kind"] == "ClusterStorageContainer"}) == len(specs)
    assert ("localModelDownloadJob" in known) == (mode is Mode.MODEL_CACHE)


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    """The pod that a Job or a Deployment makes, or the Pod itself."""
    return dict(document if document["kind"] == "Pod" else document["spec"]["template"])


def may_run(pod: dict[str, Any], node: str, running: dict[str, list[dict[str, Any]]]) -> bool:
    """What Kubernetes' scheduler makes of required pod affinities, by their documentation.

    With pods that match, where they run; with none, anywhere for a pod that matches its own terms, and nowhere for
    others. `running` are the labels of the pods on each node.
    """
    terms = pod["spec"].get("affinity", {}).get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not terms:
        return True
    wanted = [term["labelSelector"]["matchLabels"].items() for term in terms]
    assert {term["topologyKey"] for term in terms} == {"kubernetes.io/hostname"}
    where = {
        name for name, pods in running.items() if any(all(term <= each.items() for term in wanted) for each in pods)
    }
    return node in where if where else all(each <= pod["metadata"]["labels"].items() for each in wanted)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("first", [0, 1])
def test_volume_of_one_node_keeps_its_pods_on_one(kind: Kind, first: int) -> None:
    """Whichever of Job and server is scheduled first, or is left over, and however full the first has made its node."""
    _, job, workload, service = documents(SAFETENSORS, mode=Mode.PVC, kind=kind)
    pods = [pod_of(job), pod_of(workload)]
    labels = [pod["metadata"]["labels"] for pod in pods]
    nothing: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    assert all(may_run(pod, node, nothing) for pod in pods for node in nothing)
    second = pods[1 - first]
    assert [may_run(second, node, {"a": [labels[first]], "b": []}) for node in ("a", "b")] == [True, False]
    another, *_ = documents(SAFETENSORS, mode=Mode.PREFETCH)
    assert may_run(second, "b", {"a": [pod_of(another)["metadata"]["labels"]], "b": []})
    assert next(values(pods[0], "requests")) == {"cpu": "0", "memory": "0"}
    assert not service["spec"]["selector"].items() <= labels[0].items()
    if kind is Kind.DEPLOYMENT:
        assert workload["spec"]["strategy"] == {"type": "Recreate"}
        assert not workload["spec"]["selector"]["matchLabels"].items() <= labels[0].items()


def test_volume_of_several_nodes_ties_nothing() -> None:
    _, job, deployment, _ = documents(SAFETENSORS, mode=Mode.PVC, replicas=2)
    assert not [*values([job, deployment], "affinity"), *values(deployment, "strategy")]
    assert next(values(job, "requests")) == {"cpu": "1", "memory": "512Mi"}


def server(of: Model, **options: Any) -> dict[str, Any]:
    """The server's container."""
    (pod, _) = documents(of, mode=Mode.IMAGE_VOLUME, kind=Kind.POD, **options)
    (container,) = pod["spec"]["containers"]
    return dict(container)


def test_arguments_come_from_the_model() -> None:
    vllm = server(SAFETENSORS, gpu=4, name="llama")
    assert vllm["command"] + vllm["args"] == [
        *("vllm", "serve", "/mnt/models", "--served-model-name=llama", "--port=8000"),
        *("--max-model-len=131072", "--tensor-parallel-size=4"),
    ]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in vllm["env"]
    assert vllm["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert vllm["startupProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    llama = server(GGUF, sequences=2, gpu=1)
    assert llama["args"][:2] == ["--model", "/mnt/models/llama-Q8_0.gguf"]
    assert llama["args"][llama["args"].index("--ctx-size") + 1] == "262144"
    triton = server(ONNX, name="iris")
    assert triton["args"] == ["--model-repository=/mnt/models", "--http-port=8000"]
    assert triton["volumeMounts"][0]["mountPath"] == "/mnt/models/iris/1"


def test_without_gpus_none_is_asked_for() -> None:
    for mode in Mode:
        if mode is not Mode.PREFETCH:
            whole = yaml.safe_dump_all(documents(SAFETENSORS, mode=mode, gpu=0))
            assert "nvidia.com/gpu:" not in whole
            assert "tolerations" not in whole


def test_nobody_has_rights() -> None:
    for mode in (Mode.IMAGE_VOLUME, Mode.MODELCAR, Mode.INIT_CONTAINER, Mode.PVC, Mode.PREFETCH):
        for document in documents(SAFETENSORS, mode=mode):
            for containers in (*values(document, "containers"), *values(document, "initContainers")):
                for container in containers:
                    own = container["securityContext"]
                    assert own["capabilities"] == {"drop": ["ALL"]}
                    assert own["readOnlyRootFilesystem"] is True
                    assert own["allowPrivilegeEscalation"] is False
                    assert container["resources"]["limits"]["memory"]
            for security in (spec["securityContext"] for spec in values(document, "spec") if "containers" in spec):
                assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 1010)


@pytest.mark.parametrize("mode", [Mode.KSERVE, Mode.KSERVE_NATIVE, Mode.MODEL_CACHE])
def test_the_server_of_kserve_is_somebody(mode: Mode) -> None:
    """The kubelet starts no container that must not be root and whose image says nothing else, as vLLM's does."""
    (runtime,) = (each for each in documents(SAFETENSORS, mode=mode) if each["kind"] == "ServingRuntime")
    (server,) = runtime["spec"]["containers"]
    assert (server["securityContext"]["runAsNonRoot"], server["securityContext"]["runAsUser"]) == (True, 1010)


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ({}, "nvidia.com/gpu.present"),
        ({"gpu_resource": "amd.com/gpu", "runtime_image": "ours/vllm:v1"}, "feature.node.kubernetes.io/amd-gpu"),
        ({"gpu_resource": "example.com/gpu", "runtime_image": "ours/vllm:v1"}, "kubernetes.io/os"),
        ({"gpu": 0}, "kubernetes.io/os"),
        ({"node_selector": {"pool": "gpu"}}, "pool"),
    ],
)
def test_cache_is_on_nodes_that_have_the_gpus(said: dict[str, Any], label: str) -> None:
    (group,) = (d for d in documents(SAFETENSORS, mode=Mode.MODEL_CACHE, **said) if d["kind"] == "LocalModelNodeGroup")
    assert [each["key"] for terms in values(group, "matchExpressions") for each in terms] == [label]


def test_split_gguf_is_given_by_its_first_part() -> None:
    parts = (f"llama-{number:05}-of-00003.gguf" for number in (1, 2, 3))
    assert server(model(*parts, "mmproj-llama.gguf"))["args"][1] == "/mnt/models/llama-00001-of-00003.gguf"


def test_emptydir_has_room_for_the_files_and_little_more() -> None:
    deployment, _ = documents(SAFETENSORS, mode=Mode.INIT_CONTAINER)
    (limit,) = (
        each["emptyDir"]["sizeLimit"]
        for each in deployment["spec"]["template"]["spec"]["volumes"]
        if each["name"] == "model"
    )
    assert SAFETENSORS.size * 1.1 < int(limit.removesuffix("Gi")) * GI < SAFETENSORS.size * 1.2


def test_names_follow_the_rules_of_services() -> None:
    def name(of: Model, **options: Any) -> str:
        return str(documents(of, mode=Mode.IMAGE_VOLUME, **options)[1]["metadata"]["name"])

    def called(repository: str) -> Model:
        return replace(SAFETENSORS, reference=replace(SAFETENSORS.reference, repository=repository))

    assert name(called("models/qwen2.5_7b")) == "qwen2-5-7b"
    assert name(called("models/7b")) == "model-7b"
    assert len(name(called("a" * 200))) == 40
    assert name(SAFETENSORS, name="mine") == "mine"
    with pytest.raises(UsageError, match="no name for objects"):
        name(SAFETENSORS, name="Mine")


REFUSED: list[tuple[Model, dict[str, Any], str]] = [
    (GGUF, {"mode": "image-volume", "runtime": "vllm"}, r"vllm does not serve gguf(.|\n)*llama.cpp"),
    (SAFETENSORS, {"mode": "image-volume", "runtime": "llama.cpp"}, r"does not serve safetensors(.|\n)*vllm or sglang"),
    (ONNX, {"mode": "image-volume", "runtime": "vllm"}, r"vllm does not serve onnx(.|\n)*triton"),
    (model("weights.bin"), {"mode": "image-volume"}, "no runtime here serves"),
    (model("adapter_config.json", "adapter_model.safetensors"), {"mode": "pvc"}, "this is an adapter"),
    (model("model.safetensors"), {"mode": "pvc"}, "config.json"),
    (model("a.onnx", "b.onnx"), {"mode": "pvc"}, "model.onnx"),
    (model("a.gguf", "b.gguf"), {"mode": "pvc"}, "several models"),
    (model(has_shell=False), {"mode": "modelcar"}, "image-volume"),
    (model(has_shell=False), {"mode": "init-container"}, "image-volume"),
    (model(has_shell=False), {"mode": "kserve"}, "kserve-native"),
    (MODELPACK, {"mode": "image-volume"}, "containerd mounts an empty folder"),
    (MODELPACK, {"mode": "prefetch"}, "containerd mounts an empty folder"),
    (GGUF, {"mode": "llm-inference-service"}, "runs vLLM"),
    (ONNX, {"mode": "kserve"}, "Triton"),
    (SAFETENSORS, {"mode": "pvc", "gpu": 3}, r"--gpu 1, 2, 4, 8, 16 for 32 heads"),
    (SAFETENSORS, {"mode": "pvc", "gpu": 0, "runtime": "sglang"}, "needs no GPU"),
    (SAFETENSORS, {"mode": "pvc", "length": 200_000}, "131072"),
]


@pytest.mark.parametrize(("of", "said", "told"), REFUSED)
def test_what_does_not_go_together_is_told(of: Model, said: dict[str, Any], told: str) -> None:
    with pytest.raises((ModelError, UsageError)) as caught:
        documents(of, **options_of(said))
    assert re.search(told, str(caught.value)), str(caught.value)


def test_arithmetic_of_a_known_model() -> None:
    """Llama 3.1 8B keeps 128 KiB of each token: 2 x 8 heads x 128 wide x 32 layers x 2 bytes."""
    known = estimate(SAFETENSORS, RUNTIMES["vllm"].footprint, 1, None, 1, None)
    terms = {term.what: term.bytes for term in known.terms}
    assert terms["weights"] == sum(SHARDS)
    assert terms["KV cache"] == 131072 * 128 * 1024 == 16 * GI
    assert terms["activations"] == 8192 * (2 * 4096 + 2 * 14336) * 2
    assert known.needed == sum(terms.values())
    shared = estimate(SAFETENSORS, RUNTIMES["vllm"].footprint, 4, None, 1, None)
    assert {term.what: term.bytes for term in shared.terms}["KV cache"] == 4 * GI
    assert "16,060,556,376 B / 4 GPUs" in "\n".join(shared.explain())


def test_gpus_beyond_the_heads_have_whole_heads() -> None:
    few = replace(SAFETENSORS, sizes=sizes_of_config({**LLAMA, "num_key_value_heads": 2}))
    cache = [estimate(few, Footprint(0, 0), gpus, 1024, 1, None).cache for gpus in (1, 2, 8)]
    assert cache == [32 << 20, 16 << 20, 16 << 20]


def test_latent_attention_keeps_one_vector_that_no_gpu_shares() -> None:
    config = {**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    latent = replace(SAFETENSORS, sizes=sizes_of_config(config))
    assert [estimate(latent, Footprint(0, 0), gpus, 1000, 1, None).cache for gpus in (1, 8)] == [
        1000 * 32 * 576 * 2
    ] * 2


def test_sequences_are_cut_to_the_memory() -> None:
    """Of 24 GiB 90 % may be used; what is left beside the rest, in multiples of 256 tokens."""
    known = estimate(SAFETENSORS, RUNTIMES["vllm"].footprint, 1, None, 1, 24 * GI)
    fixed = known.needed - known.cache
    assert known.needed <= 0.9 * 24 * GI < fixed + (known.length + 256) * 128 * 1024
    assert (0 < known.length < 131072, known.length % 256) == (True, 0)
    half = estimate(SAFETENSORS, RUNTIMES["vllm"].footprint, 1, None, 2, 24 * GI)
    assert half.length in (known.length // 2 - 128, known.length // 2)
    with pytest.raises(UsageError, match="does not fit"):
        estimate(SAFETENSORS, RUNTIMES["vllm"].footprint, 1, None, 1, 16 * GI)
    with pytest.raises(UsageError, match="does not fit"):
        estimate(SAFETENSORS, RUNTIMES["vllm"].footprint, 1, 100_000, 1, 24 * GI)


def test_limit_is_the_memory_that_there_is() -> None:
    assert server(SAFETENSORS, gpu=0, memory=24 * GI)["resources"]["limits"] == {"memory": "24Gi"}


@pytest.mark.parametrize("size", [1, 100 << 20, 16 * GI, 16 * GI + 1, 123 * GI])
def test_quantities_are_never_too_small(size: int) -> None:
    text = quantity(size)
    assert size <= int(text[:-2]) * {"Mi": 1 << 20, "Gi": GI}[text[-2:]] <= size * 1.07 + (1 << 20)


def test_sizes_are_those_that_configurations_tell() -> None:
    expected = Sizes(32, 4096, 14336, 2 * 8 * 128, 8, 32, 128256, 131072)
    assert sizes_of_config(LLAMA) == expected
    assert sizes_of_config({"model_type": "llava", "hidden_size": 1, "text_config": LLAMA}) == expected
    assert sizes_of_config({"n_layer": 12, "n_embd": 768, "n_head": 12}) == Sizes(12, 768, 3072, 1536, 12, 12, 0, 0)
    assert sizes_of_config({"model_type": "silero"}) is None
    assert sizes_of_config({"num_hidden_layers": "many", "hidden_size": True}) is None
    keys = {"block_count": 32, "embedding_length": 4096, "feed_forward_length": 14336, "context_length": 131072}
    heads = {"attention.head_count": 32, "attention.head_count_kv": 8}
    metadata = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in {**keys, **heads}.items()}}
    assert sizes_of_gguf(metadata, 128256) == expected
