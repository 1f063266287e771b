"""The documents of `packer manifests`, executed: by podman as they are, and in parts by what a cluster would run."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.parts import kubelet
from tests.parts.command import PACKER, packer, release, run
from tests.parts.containerd import containerd, mounted
from tests.parts.models import digests
from tests.parts.podman import housed, parse_hashes
from tests.parts.podman5 import SERVER, Podman5, import_server
from tests.parts.servers import Server, reserved_port
from tests.parts.small import cut_short

USER = "1010"


@dataclass(frozen=True)
class Published:
    """A model in the registry: what it is called, the path of its server's health, and its files."""

    reference: str
    health: str
    files: dict[str, str]


@pytest.fixture(scope="module")
def podman5() -> Iterator[Podman5]:
    """podman 5 with storage of its own, and the image that stands for a runtime."""
    with housed(Podman5, "podman5-") as podman:
        import_server(podman)
        yield podman


FORMATS = {"safetensors": "/health", "gguf": "/health", "onnx": "/v2/health/ready"}


@pytest.fixture(scope="module")
def models(registry: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    """A model in each format, published."""
    from tests.parts import models as real

    short = cut_short(tmp_path_factory.mktemp("short") / "model")
    folders = {"safetensors": short, "gguf": real.gguf(), "onnx": real.CACHE / "real" / "magika"}
    published = {}
    for name, folder in folders.items():
        reference = f"{registry.address}/manifests/{name}:v1"
        release(folder, "--to", reference)
        published[name] = Published(reference, FORMATS[name], digests(folder))
    return published


def written(reference: str, mode: str, port: int, *more: str) -> str:
    """What the command prints for a server without GPUs, of the image that stands for a runtime."""
    own = ("--gpu", "0", "--runtime-image", SERVER, "--packer-image", SERVER, "--port", str(port))
    return packer("manifests", reference, "--mode", mode, *own, *more).stdout


def loaded(text: str, kind: str) -> dict[str, Any]:
    """The document of that kind."""
    (document,) = (each for each in yaml.safe_load_all(text) if each["kind"] == kind)
    return dict(document)


def pull_all(text: str, podman: Podman5) -> None:
    """Have the images of documents here, as they name them: podman is not told of registries without TLS."""
    named = {word.strip("'\"") for line in text.splitlines() for word in line.split() if "@sha256:" in word}
    for reference in named:
        podman.pull(reference)


def facts(port: int) -> list[str]:
    """What the server says of itself, as long as it runs."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/facts", timeout=10) as answer:
        return str(answer.read().decode()).splitlines()


def check(podman: Podman5, model: Published, port: int) -> None:
    """The server read every byte of the model, as nobody, and could write to its home and /tmp alone."""
    assert parse_hashes(podman.health(port, model.health)) == model.files
    said = facts(port)
    assert said[0] == USER
    assert [line for line in said if line.startswith("writes")] == ["writes /tmp/", "writes /home/server/"]


WAYS = {"image-volume": (), "modelcar": ("--sidecar", "plain"), "init-container": ()}


@pytest.mark.parametrize(
    ("mode", "name", "kind"),
    [
        *((mode, "safetensors", "deployment") for mode in WAYS),
        *((mode, "onnx", "pod") for mode in WAYS),
        ("image-volume", "gguf", "pod"),
    ],
)
def test_served_by_podman_as_it_is(
    mode: str, name: str, kind: str, models: dict[str, Published], podman5: Podman5, tmp_path: Path
) -> None:
    model = models[name]
    with reserved_port() as port:
        text = written(model.reference, mode, port, "--kind", kind, *WAYS[mode])
        pull_all(text, podman5)
        path = tmp_path / "server.yaml"
        path.write_text(text)
        with podman5.playing(path):
            check(podman5, model, port)


def test_image_volume_by_containerd(models: dict[str, Published], tmp_path: Path) -> None:
    """containerd mounts the reference in the document; the kubelet takes the folder of it that the server mounts."""
    spec = loaded(written(models["gguf"].reference, "image-volume", 8080, "--kind", "pod"), "Pod")["spec"]
    reference = spec["volumes"][0]["image"]["reference"]
    mount = spec["containers"][0]["volumeMounts"][0]
    (tmp_path / "image").mkdir()
    with containerd(tmp_path) as socket, mounted(socket, reference, tmp_path / "image") as image:
        assert digests(image / mount["subPath"]) == models["gguf"].files


def test_native_sidecar_as_a_kubelet_runs_it(models: dict[str, Published], podman5: Podman5, tmp_path: Path) -> None:
    """podman takes no startup probe before a server, so its containers are started in Kubernetes' order here."""
    model = models["gguf"]
    with reserved_port() as port:
        text = written(model.reference, "modelcar", port, "--kind", "pod")
        pull_all(text, podman5)
        pod = loaded(text, "Pod")
        (car,) = pod["spec"]["initContainers"]
        assert car["restartPolicy"] == "Always"
        with kubelet.running(pod, podman5, tmp_path):
            check(podman5, model, port)
            assert (tmp_path / "link/models").readlink().match("/proc/*/root/models")


def test_kserves_own_spelling_of_the_link_needs_four_dollars(
    models: dict[str, Published], podman5: Podman5, tmp_path: Path
) -> None:
    """Why ours is another: what a kubelet makes of `$$` is no process id."""
    assert kubelet.expanded("ln -sf /proc/$$/root/models") == "ln -sf /proc/$/root/models"
    assert kubelet.expanded("ln -sf /proc/$$$$/root/models") == "ln -sf /proc/$$/root/models"
    car = loaded(written(models["gguf"].reference, "modelcar", 8080, "--kind", "pod"), "Pod")["spec"]["initContainers"][
        0
    ]
    assert [kubelet.expanded(word) for word in car["command"]] == car["command"]


def test_copy_is_made_once_and_never_half(models: dict[str, Published], podman5: Podman5, tmp_path: Path) -> None:
    """A copy that broke off is no copy; one that is whole is left alone."""
    model = models["gguf"]
    text = written(model.reference, "init-container", 8080, "--kind", "pod")
    pull_all(text, podman5)
    (copy,) = loaded(text, "Pod")["spec"]["initContainers"]
    target = tmp_path / "mnt"
    (target / "models").mkdir(parents=True)
    (target / "models/LICENSE").write_text("half")
    (target / ".partial").mkdir()
    run_copy = ("run", "--rm", f"--volume={target}:/mnt", copy["image"], *copy["command"])
    podman5(*run_copy)
    assert {name: digest for name, digest in digests(target / "models").items() if name != ".ready"} == model.files
    assert sorted(path.name for path in target.iterdir()) == ["models"]
    before = {path: path.stat().st_ino for path in (target / "models").iterdir()}
    podman5(*run_copy)
    assert {path: path.stat().st_ino for path in (target / "models").iterdir()} == before


def test_job_fills_the_claim_and_the_server_mounts_it(
    models: dict[str, Published], podman5: Podman5, tmp_path: Path, registry: Server
) -> None:
    """The Job's command runs on this machine, since packer's image is built in another test; the rest is played."""
    model = models["gguf"]
    with reserved_port() as port:
        text = written(model.reference, "pvc", port)
        claim, job, deployment = (loaded(text, kind) for kind in ("PersistentVolumeClaim", "Job", "Deployment"))
        podman5("volume", "create", claim["metadata"]["name"])
        volume = Path(json.loads(podman5("volume", "inspect", claim["metadata"]["name"]))[0]["Mountpoint"])
        fill(job, volume)
        folder = next(volume.iterdir())
        assert {name: digest for name, digest in digests(folder).items() if name != ".ready"} == model.files
        asked = registry.log.read_text().count("GET /v2/manifests/gguf/blobs")
        fill(job, volume)
        assert registry.log.read_text().count("GET /v2/manifests/gguf/blobs") == asked
        path = tmp_path / "server.yaml"
        path.write_text(yaml.safe_dump_all([claim, deployment]))
        with podman5.playing(path):
            check(podman5, model, port)


def fill(job: dict[str, Any], volume: Path) -> None:
    """Run the one container of a Job, with the volume where it is mounted."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (mount,) = (each["mountPath"] for each in container["volumeMounts"] if each["name"] == "model")
    command = [word.replace(f"{mount}/", f"{volume}/") for word in container["command"]]
    path = f"{PACKER.parent}:/usr/bin:/bin"
    run(*command, env={"PATH": path, "PACKER_CACHE": str(volume.parent / "cache")})


def test_prefetch_holds_the_image(models: dict[str, Published], podman5: Podman5, tmp_path: Path) -> None:
    text = packer("manifests", models["gguf"].reference, "--mode", "prefetch", "--gpu", "0").stdout
    pull_all(text, podman5)
    path = tmp_path / "prefetch.yaml"
    path.write_text(text)
    with podman5.playing(path):
        assert "hold" in podman5("ps", "--filter", "status=running", "--format", "{{.Names}}")


def test_kserves_initializer_fetches_the_storage_uri(
    models: dict[str, Published], clients: Path, tmp_path: Path
) -> None:
    from tests.consume.test_consume import KSERVE

    model = models["gguf"]
    service = loaded(written(model.reference, "kserve", 8080), "InferenceService")
    uri = service["spec"]["predictor"]["model"]["storageUri"]
    environment = {"KSERVE_OCI_INSECURE_REGISTRY": "1"}
    run(clients / "kserve/bin/python", "-c", KSERVE, uri, tmp_path, env=environment)
    assert digests(tmp_path) == model.files


@pytest.mark.parametrize("mode", ["kserve", "model-cache"])
def test_storage_container_fetches_what_kserve_gives_it(
    mode: str, models: dict[str, Published], tmp_path: Path
) -> None:
    """KServe adds two arguments to its command: the URI of the service, and the folder to fill."""
    text = written(f"{models['gguf'].reference}-modelpack", mode, 8080)
    found = [each for each in yaml.safe_load_all(text) if each["kind"] == "ClusterStorageContainer"]
    assert len(found) == {"kserve": 1, "model-cache": 2}[mode]
    uri = loaded(text, "InferenceService")["spec"]["predictor"]["model"]["storageUri"]
    for command in (each["spec"]["container"]["command"] for each in found):
        assert command[0] == PACKER.name
        run(PACKER, *command[1:], uri, tmp_path / "models")
        assert digests(tmp_path / "models") == models["gguf"].files
        shutil.rmtree(tmp_path / "models")
