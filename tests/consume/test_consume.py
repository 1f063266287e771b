"""A real model in a real registry, read in each of the three ways, and by programs that others wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.parts.command import ROOT, packer, release, run
from tests.parts.containerd import containerd, mounted
from tests.parts.models import digests
from tests.parts.podman import HASH, Podman, parse_hashes
from tests.parts.servers import Server, docker_registry

MODELCAR_UID = 1010
"""KServe's default `uidModelcar`, which runs the modelcar and the server."""


@dataclass(frozen=True)
class Published:
    """A model in the registry."""

    reference: str
    release: dict[str, Any]
    files: dict[str, str]


@pytest.fixture(scope="module", params=["gguf", "safetensors"])
def published(request: pytest.FixtureRequest, registry: Server) -> Published:
    folder: Path = request.getfixturevalue(f"{request.param}_model")
    reference = f"{registry.address}/models/smollm2-{request.param}:v1"
    return Published(reference, release(folder, "--to", reference), digests(folder))


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """That of a containerd of our own."""
    with containerd(tmp_path_factory.mktemp("containerd")) as address:
        yield address


def readme_pods() -> dict[str, dict[str, Any]]:
    """The Kubernetes documents of the README, by name."""
    blocks = (ROOT / "README.md").read_text().split("```yaml\n")[1:]
    documents = [yaml.safe_load(block.partition("```")[0]) for block in blocks]
    return {pod["metadata"]["name"]: pod for pod in documents if pod.get("kind") == "Pod"}


def as_played(pod: dict[str, Any], reference: str, script: str) -> dict[str, Any]:
    """A pod of the README with our image, and `script` for its server.

    The kubelet replaces `$$` by `$` in commands and arguments, and podman does not: so it is done here.
    """
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    for container in containers:
        container["image"] = reference
        container["imagePullPolicy"] = "Never"
        for key in {"command", "args"} & container.keys():
            container[key] = [word.replace("$$", "$") for word in container[key]]
        if container["name"] == "server":
            container.pop("args", None)
            container["command"] = ["sh", "-c", script]
            container.get("resources", {}).clear()
    pod["spec"]["restartPolicy"] = "Never"
    return pod


def test_image_volume_with_podman(published: Published, podman: Podman) -> None:
    podman.pull(published.reference)
    mount = f"type=image,source={published.reference},destination=/mnt"
    seen = podman("run", "--rm", "--user", "4242", "--mount", mount, published.reference, "sh", "-c", HASH)
    assert parse_hashes(seen) == published.files


def test_image_volume_with_containerd(published: Published, socket: str, tmp_path: Path) -> None:
    with mounted(socket, published.reference, tmp_path) as image:
        assert digests(image / "models") == published.files


def test_modelcar(published: Published, podman: Podman) -> None:
    """The sidecar and the server run as one user that owns none of the files: /proc/PID/root opens to no other."""
    uid = MODELCAR_UID if published.reference.endswith("safetensors:v1") else 65532
    podman.pull(published.reference)
    script = f"until [ -e /mnt/models/. ]; do sleep 0.1; done; id -u >&2; {HASH}"
    pod = as_played(readme_pods()["modelcar"], published.reference, script)
    pod["spec"]["securityContext"] = {"runAsUser": uid}
    for container in pod["spec"]["containers"]:
        container["securityContext"] = {"runAsUser": uid}
    assert pod["spec"]["shareProcessNamespace"] is True
    assert pod["spec"]["containers"][0]["args"] == [
        "sh",
        "-c",
        "ln -sf /proc/$$/root/models /mnt/models && sleep infinity",
    ]
    assert parse_hashes(podman.play(pod, "server")) == published.files


def test_init_container(published: Published, podman: Podman) -> None:
    podman.pull(published.reference)
    pod = as_played(readme_pods()["init-container"], published.reference, HASH)
    assert pod["spec"]["initContainers"][0]["command"] == ["sh", "-c", "cp -a /models/. /mnt/models"]
    assert parse_hashes(podman.play(pod, "server")) == published.files


def test_readme_documents_are_valid_for_kubernetes() -> None:
    import kubernetes_validate

    pods = readme_pods()
    assert set(pods) == {"image-volume", "modelcar", "init-container"}
    for pod in pods.values():
        kubernetes_validate.validate(pod, "1.35", strict=True)


def test_modelpack_client_pulls_the_modelpack_tag(published: Published, clients: Path, tmp_path: Path) -> None:
    script = "import sys, modelpack_client as m; m.ModelPackClient(insecure=True).pull(*sys.argv[1:])"
    run(clients / "modelpack/bin/python", "-c", script, f"{published.reference}-modelpack", tmp_path)
    assert digests(tmp_path / "models") == published.files


KSERVE = """
import sys, tarfile
if not hasattr(tarfile, "data_filter"):
    extract = tarfile.TarFile.extract
    tarfile.TarFile.extract = lambda self, member, path, filter: extract(self, member, path)
from kserve_storage import Storage
Storage.download(*sys.argv[1:])
"""
"""KServe's initializer needs Python 3.11.4, for tarfile's filters; Debian 12 has 3.11.2, and is given the argument."""


def test_kserve_initializer_fetches_the_image(published: Published, clients: Path, tmp_path: Path) -> None:
    environment = {"KSERVE_OCI_INSECURE_REGISTRY": "1"}
    run(clients / "kserve/bin/python", "-c", KSERVE, f"oci://{published.reference}", tmp_path, env=environment)
    assert digests(tmp_path) == published.files


def test_skopeo_copies_the_index_to_another_registry(published: Published, tmp_path: Path) -> None:
    digest = published.release["image"].partition("@")[2]
    with docker_registry(tmp_path / "registry") as other:
        copy = f"{other.address}/copy/model:v1"
        flags = ("--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
        run("skopeo", "copy", *flags, f"docker://{published.reference}", f"docker://{copy}")
        report = json.loads(packer("inspect", copy, "--json").stdout)
        assert report["digest"] == digest
        packer("pull", copy, tmp_path / "out")
    assert digests(tmp_path / "out") == published.files


def test_umoci_unpacks_the_layout(gguf_model: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    packer("build", gguf_model, "--to", f"oci:{layout}:v1")
    run("skopeo", "copy", f"oci:{layout}:v1", f"oci:{tmp_path}/single:v1")
    run("umoci", "unpack", "--image", f"{tmp_path}/single:v1", tmp_path / "bundle")
    assert digests(tmp_path / "bundle/rootfs/models") == digests(gguf_model)


def test_modelpack_config_is_valid_by_the_published_schema(published: Published, clients: Path, tmp_path: Path) -> None:
    script = "import json; from modelpack_client.schema import CONFIG_SCHEMA; print(json.dumps(CONFIG_SCHEMA))"
    schema = json.loads(run(clients / "modelpack/bin/python", "-c", script).stdout)
    config = json.loads(
        run(
            "skopeo", "inspect", "--tls-verify=false", "--config", "--raw", f"docker://{published.reference}-modelpack"
        ).stdout
    )
    jsonschema.validate(config, schema)
    assert config["config"]["paramSize"] == "135m"
    assert config["config"]["architecture"] in ("llama", "LlamaForCausalLM")
    assert config["config"]["format"] in published.reference
    assert [name.lower() for name in config["descriptor"]["licenses"]] == ["apache-2.0"]
