"""`packer manifests` on what is in a registry: ours, and other tools'."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from containers.check import members
from containers.manifests.options import PACKER_IMAGE
from containers.manifests.runtimes import RUNTIMES
from packer.commands import manifests
from packer.manifests import read_model
from registry.access import Access
from registry.reference import Reference, parse_reference
from registry.store import open_store
from tests.parts import models
from tests.parts.command import packer, release, run
from tests.parts.servers import Server
from tests.parts.tiny import GOOD, write_folder


@dataclass(frozen=True)
class Published:
    """A model in the registry, under a tag."""

    reference: str
    digest: str
    modelpack: str


def publish(folder: Path, reference: str, *more: str) -> Published:
    made = release(folder, "--to", reference, *more)
    return Published(reference, made["image"].partition("@")[2], made["modelpack"].partition("@")[2])


CONFIG = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
FILES = {"model.safetensors": GOOD, "config.json": json.dumps({**CONFIG, "max_position_embeddings": 512}).encode()}


@pytest.fixture(scope="module")
def tiny(registry: Server, tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = write_folder(tmp_path_factory.mktemp("tiny"), FILES)
    return publish(folder, f"{registry.address}/manifests/tiny:v1")


def said(reference: str, mode: str, *more: str) -> dict[str, Any]:
    """What the command says in JSON."""
    return dict(json.loads(packer("manifests", reference, "--mode", mode, "--json", *more).stdout))


def refused(reference: str, mode: str, *more: str) -> tuple[int, str]:
    done = packer("manifests", reference, "--mode", mode, *more, check=False)
    assert not done.stdout
    return done.returncode, done.stderr


def test_tag_is_looked_up_and_the_digest_written(tiny: Published) -> None:
    text = packer("manifests", tiny.reference, "--mode", "image-volume").stdout
    pinned = f"{tiny.reference.removesuffix(':v1')}@{tiny.digest}"
    deployment, _ = yaml.safe_load_all(text)
    (volume, *_) = deployment["spec"]["template"]["spec"]["volumes"]
    assert volume["image"]["reference"] == pinned
    assert text.startswith(f"# image-volume of {tiny.reference}\n#\n# {pinned}\n#\n# Needs: Kubernetes 1.35")
    assert "containerd 2.2" in text
    assert RUNTIMES["vllm"].image in text
    by_digest = said(pinned, "image-volume")
    assert by_digest["documents"][0]["spec"]["template"]["spec"] == deployment["spec"]["template"]["spec"]


def test_what_must_be_known_is_read_from_the_release(tiny: Published) -> None:
    told = said(tiny.reference, "kserve", "--gpu", "0", "--explain")
    assert (told["event"], told["mode"], told["runtime"], told["gpu"]) == ("manifests", "kserve", "vllm", 0)
    assert told["max_length"] == 512
    assert [document["kind"] for document in told["documents"]] == ["ServingRuntime", "InferenceService"]
    runtime = told["documents"][0]["spec"]["containers"][0]
    assert "--max-model-len=512" in runtime["args"]
    assert "--served-model-name=tiny" in runtime["args"]
    assert f"{len(GOOD):,} B" in "\n".join(told["explanation"])
    assert "512 tokens x 2 layers x 128 values x 2 B" in "\n".join(told["explanation"])


def test_explained_line_by_line(tiny: Published) -> None:
    short, long = (packer("manifests", tiny.reference, "--mode", "pvc", *more).stdout for more in ((), ("--explain",)))
    added = [line for line in long.splitlines() if line not in short.splitlines()]
    assert list(yaml.safe_load_all(short)) == list(yaml.safe_load_all(long))
    assert [re.split(r"  +", line)[1] for line in added if re.match(r"#     ", line)] == [
        *("weights", "KV cache", "activations", "logits", "runtime", "together"),
        *("runtime", "loading", "together"),
    ]


def test_gguf_tells_its_sizes_itself(registry: Server) -> None:
    reference = f"{registry.address}/manifests/smollm2:gguf"
    release(models.gguf(), "--to", reference)
    told = said(reference, "image-volume", "--max-length", "2048", "--sequences", "4")
    assert (told["runtime"], told["gpu"], told["max_length"]) == ("llama.cpp", 0, 2048)
    assert "8,192 tokens x 30 layers x 384 values x 2 B" in "\n".join(told["explanation"])
    assert refused(reference, "image-volume", "--max-length", "9000")[0] == 2


def test_modelpack_is_fetched_or_refused(tiny: Published) -> None:
    reference = f"{tiny.reference}-modelpack"
    told = said(reference, "kserve")
    uri = told["documents"][-1]["spec"]["predictor"]["model"]["storageUri"]
    assert uri == f"modelpack://{tiny.reference.removesuffix(':v1')}@{tiny.modelpack}"
    code, error = refused(reference, "image-volume")
    assert code == 3
    assert "containerd mounts an empty folder" in error
    assert "leave out -modelpack" in error


def as_docker(published: Published) -> str:
    """The same as an image of another tool, with nothing said of the model: skopeo makes it of ours."""
    copy = f"{published.reference.removesuffix(':v1')}-docker:v1"
    flags = ("--src-tls-verify=false", "--dest-tls-verify=false", "--format=v2s2", "--dest-compress")
    run("skopeo", "copy", *flags, f"docker://{published.reference}", f"docker://{copy}")
    return copy


def test_image_of_another_tool(tiny: Published) -> None:
    """Docker's own media types, layers in gzip."""
    copy = as_docker(tiny)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{copy}").stdout
    assert {layer["mediaType"] for layer in json.loads(raw)["layers"]} == {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    }
    told = said(copy, "modelcar", "--name", "theirs")
    assert (told["max_length"], told["runtime"]) == (512, "vllm")
    assert "nodeSelector" not in told["documents"][0]["spec"]["template"]["spec"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_image_without_a_base_runs_no_commands(is_ours: bool, registry: Server, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, FILES)
    bare = publish(folder, f"{registry.address}/manifests/bare:v1", "--base", "none")
    reference = bare.reference if is_ours else as_docker(bare)
    assert said(reference, "image-volume", "--name", "bare")["documents"]
    for mode, other in {
        "init-container": "image-volume",
        "modelcar": "image-volume",
        "kserve": "kserve-native",
    }.items():
        code, error = refused(reference, mode, "--name", "bare")
        assert (code, f"--mode {other}" in error, "no shell" in error) == (3, True, True), error
    (holder,) = said(reference, "prefetch")["documents"][0]["spec"]["template"]["spec"]["containers"]
    assert "command" not in holder


def test_shell_that_may_be_there_is_taken_to_be(
    registry: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers are read up to a limit, beyond which an image of another tool may have one."""
    bare = publish(write_folder(tmp_path, FILES), f"{registry.address}/manifests/limit:v1", "--base", "none")
    reference = parse_reference(as_docker(bare))
    assert isinstance(reference, Reference)
    source = open_store(reference, Access())
    assert not read_model(reference, source).has_shell
    monkeypatch.setattr(members, "MAX_MEMBERS", 1)
    assert read_model(reference, source).has_shell


def test_layout_is_told_to_be_pushed(tmp_path: Path) -> None:
    code, error = refused(f"oci:{tmp_path}/out:v1", "pvc")
    assert code == 2
    assert f"packer push oci:{tmp_path}/out:v1 HOST/REPO:TAG" in error


def test_what_is_not_there_or_mistyped(tiny: Published, registry: Server) -> None:
    assert refused(f"{registry.address}/manifests/nothing:v1", "pvc")[0] == 5
    assert refused(tiny.reference, "image")[0] == 2
    for wrong in ("gpu", "=gpu", ""):
        code, error = refused(tiny.reference, "pvc", "--node-selector", "pool=gpu", "--node-selector", wrong)
        assert (code, "--node-selector LABEL=VALUE" in error) == (2, True), error
    assert refused(tiny.reference, "pvc", "--memory", "much")[0] == 2
    code, error = refused(tiny.reference, "pvc", "--memory", "1GiB")
    assert (code, "--gpu" in error) == (2, True)


def test_runtimes_of_the_command_line_are_those_of_the_table() -> None:
    assert list(RUNTIMES) == list(manifests.RUNTIMES)


def test_flags_reach_the_documents(tiny: Published) -> None:
    flags = ("--name", "ours", "--namespace", "llm", "--gpu", "2", "--gpu-resource", "amd.com/gpu", "--replicas", "3")
    more = (
        "--pull-secret",
        "login",
        "--node-selector",
        "pool=gpu",
        "--port",
        "9000",
        "--runtime-image",
        "ours/vllm:v1",
    )
    deployment, service = said(tiny.reference, "image-volume", *flags, *more)["documents"]
    assert (service["metadata"]["name"], service["metadata"]["namespace"]) == ("ours", "llm")
    assert deployment["spec"]["replicas"] == 3
    pod = deployment["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "login"}]
    assert pod["nodeSelector"]["pool"] == "gpu"
    assert pod["tolerations"][0]["key"] == "amd.com/gpu"
    (server,) = pod["containers"]
    assert server["image"] == "ours/vllm:v1"
    assert server["resources"]["limits"]["amd.com/gpu"] == 2
    assert server["ports"][0]["containerPort"] == 9000
    assert {"--port=9000", "--tensor-parallel-size=2"} <= set(server["args"])
    assert {"name": "shm", "mountPath": "/dev/shm"} in server["volumeMounts"]


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--namespace", "Bad NS"),
        ("--namespace", "a.b"),
        ("--pull-secret", "my_secret"),
        ("--storage-class", "a b"),
        ("--gpu-resource", "a/b/c"),
        ("--runtime-image", "my image"),
        ("--packer-image", "-"),
        ("--node-selector", "a b=c"),
        ("--node-selector", f"a={'b' * 64}"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused(tiny: Published, flag: str, text: str) -> None:
    code, error = refused(tiny.reference, "pvc", flag, text)
    assert (code, f"{flag}: Kubernetes takes no such name" in error) == (2, True)


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("image-volume", ("--kind", "pod", "--replicas", "3")),
        ("kserve-native", ("--kind", "pod")),
        ("prefetch", ("--kind", "pod")),
        ("image-volume", ("--sidecar", "plain")),
        ("llm-inference-service", ("--port", "9000")),
        ("init-container", ("--storage-class", "fast")),
    ],
)
def test_what_has_no_effect_is_refused(tiny: Published, mode: str, flags: tuple[str, ...]) -> None:
    code, error = refused(tiny.reference, mode, *flags)
    assert (code, f"no effect in the mode {mode}" in error, flags[0] in error) == (2, True, True)


def test_an_image_for_other_gpus_must_be_named(tiny: Published) -> None:
    code, error = refused(tiny.reference, "image-volume", "--gpu-resource", "amd.com/gpu")
    assert (code, "built for GPUs of NVIDIA" in error, "--runtime-image IMAGE" in error) == (2, True, True)
    assert said(tiny.reference, "image-volume", "--gpu-resource", "amd.com/gpu", "--gpu", "0")["gpu"] == 0


def test_kserves_own_image_is_not_said_to_be_ours(tiny: Published) -> None:
    mode = ("--mode", "llm-inference-service")
    head = packer("manifests", tiny.reference, *mode).stdout.partition("---")[0]
    assert "Runs: vllm, in the image of KServe itself." in head
    assert said(tiny.reference, "llm-inference-service")["runtime_image"] is None
    head = packer("manifests", tiny.reference, *mode, "--runtime-image", "ours/vllm:v1").stdout.partition("---")[0]
    assert "Runs: vllm, ours/vllm:v1." in head


def test_a_placeholder_of_our_image_is_told(tiny: Published) -> None:
    for mode, is_told in (("pvc", True), ("model-cache", True), ("image-volume", False), ("kserve", False)):
        done = packer("manifests", tiny.reference, "--mode", mode)
        assert ("--packer-image" in done.stderr, PACKER_IMAGE in done.stdout) == (is_told, is_told)
    assert not packer("manifests", tiny.reference, "--mode", "pvc", "--packer-image", "ours/packer:v1").stderr


def test_claim_has_what_the_registry_needs(tiny: Published) -> None:
    documents = said(tiny.reference, "pvc", "--pull-secret", "login", "--plain-http", "--storage-class", "nfs")[
        "documents"
    ]
    claim, job = documents[:2]
    assert claim["spec"]["storageClassName"] == "nfs"
    (pull,) = job["spec"]["template"]["spec"]["containers"]
    assert 'packer pull "$0" "$1" --plain-http' in pull["command"][2]
    assert {"name": "DOCKER_CONFIG", "value": "/docker"} in pull["env"]
    assert job["metadata"]["name"].startswith("tiny-sha256-")
