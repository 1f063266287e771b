"""The Pipeline that `packer ci tekton` writes, run: in packer's image, on a real model, to a real registry."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.parts.command import packer, release
from tests.parts.image import Packer, lent
from tests.parts.models import digests
from tests.parts.podman import housed
from tests.parts.servers import Server, docker_registry
from tests.parts.small import cut_short
from tests.parts.tekton import Cluster

USER, PASSWORD = "tester", "correct horse"
HTPASSWD = f"{USER}:$2b$05$dsHFsFvTBwUgOgoe6JJ/6e8JE2463JkQRChlW5n74at9X.DdjWU6q\n"


@pytest.fixture(scope="module")
def image() -> Iterator[Packer]:
    with housed(Packer, "tekton-") as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_short(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def source(model: Path, registry: Server) -> str:
    """The same in the registry."""
    reference = f"{registry.address}/tekton/source:v1"
    release(model, "--to", reference, "--base", "none")
    return f"oci://{reference}"


def applied(folder: Path, image: Packer, text: str, *flags: str) -> tuple[Cluster, Path]:
    """A cluster with the documents for a build file, and the PipelineRun to create."""
    (folder / "packer.yaml").write_text(text)
    out, name = folder / "out", "registry.example.com/tools/packer:v1"
    packer("ci", "tekton", folder / "packer.yaml", "--packer-image", f"{name}@sha256:{'1' * 64}", "--out", out)
    cluster = Cluster(image, folder / "cluster", *flags)
    cluster.apply(*sorted(out.glob("*.yaml")))
    return cluster, out / "run/run.yaml"


def test_variants_side_by_side(image: Packer, model: Path, source: str, registry: Server, tmp_path: Path) -> None:
    """Two variants on one volume, each with results of its own; what they publish is what this machine builds."""
    place = f"{registry.address}/tekton/variants"
    text = f"""
source: {source}
publish: {{to: {place}, base: none}}
variants:
  - {{name: whole}}
  - {{name: parts, shard: {{max_size: 20MB}}}}
"""
    cluster, run = applied(tmp_path, image, text)
    done = cluster.create(run)
    assert done.has_succeeded, [task.logs for task in done.tasks]
    assert [(task.task, task.params["variant"]) for task in done.tasks] == [
        ("fetch", "whole"),
        ("fetch", "parts"),
        ("publish", "whole"),
        ("publish", "parts"),
    ]
    assert "10 files" in done.of("fetch")[0].logs[0]
    for task in done.of("publish"):
        results, name = task.results, task.params["variant"]
        assert results["IMAGE_URL"] == f"{place}:{name}"
        flags = ("--to", f"oci:{tmp_path / 'ours'}:v1", "--variant", name)
        ours = release(tmp_path / "packer.yaml", *flags)
        assert results["IMAGE_DIGEST"] == ours["image"].partition("@")[2]
        assert results["modelpack_ARTIFACT_OUTPUTS"]["digest"] == ours["modelpack"].partition("@")[2]
        revision = json.loads(packer("inspect", source.removeprefix("oci://"), "--json").stdout)["digest"]
        assert results["source_ARTIFACT_INPUTS"] == {"uri": source.rpartition(":")[0], "digest": revision}
    packer("pull", f"{place}:whole", tmp_path / "pulled")
    assert digests(tmp_path / "pulled") == digests(model)
    again = cluster.create(run)
    assert [task.results["CHANGED"] for task in again.of("publish")] == ["false", "false"]


HELD = """
import os, time
replace = os.replace

def replace_and_wait(source, target):
    replace(source, target)
    while "/quantized/" in str(target) and str(target).endswith(".safetensors") and os.path.exists("/held/wait"):
        time.sleep(1)

os.replace = replace_and_wait
"""


def held(folder: Path) -> tuple[str, ...]:
    """podman's flags that have packer wait behind the first file that it has quantized, as long as there is a file
    `wait` in the folder: it is killed in the middle, however fast it is.
    """
    folder.mkdir()
    (folder / "held.py").write_text(HELD)
    (folder / "held.pth").write_text("/held\nimport held\n")
    (folder / "wait").touch()
    place = "/opt/packer/lib/python3.11/site-packages/held.pth"
    return f"--volume={folder}:/held:ro", f"--volume={folder}/held.pth:{place}:ro"


def test_a_task_that_is_killed_goes_on_where_it_was(
    image: Packer, source: str, registry: Server, tmp_path: Path
) -> None:
    """The step dies when the first of its files is quantized; the next try makes the others alone."""
    place = f"{registry.address}/tekton/killed:fp8"
    text = f"source: {source}\nquantize: fp8-dynamic\npublish: {{to: '{place}', base: none}}\n"
    cluster, run = applied(tmp_path, image, text, *lent(tmp_path), *held(tmp_path / "held"))
    volume, seen = cluster.volume("killed-cache"), dict[Path, int]()

    def kill(task: str, container: str, ended: Event) -> None:
        while task == "quantize" and not seen and not ended.wait(0.1):
            if made := whole(volume):
                image.podman("kill", "--signal=KILL", container)
                seen.update({path: path.stat().st_mtime_ns for path in made})
                (tmp_path / "held/wait").unlink()

    done = cluster.create(run, kill)
    assert done.has_succeeded, [task.logs for task in done.tasks]
    assert {task.task: task.codes for task in done.tasks} == {"fetch": [0], "quantize": [137, 0], "publish": [0]}
    assert len(seen) == 1
    assert {path: path.stat().st_mtime_ns for path in seen} == seen
    assert len(whole(volume)) == 2
    assert "done before" in done.of("publish")[0].logs[0]
    assert done.results["IMAGE_URL"] == place
    shown = json.loads(packer("inspect", place, "--json").stdout)
    assert shown["digest"] == done.results["IMAGE_DIGEST"]
    packer("pull", place, tmp_path / "pulled", "--include", "config.json")
    assert json.loads((tmp_path / "pulled/config.json").read_text())["quantization_config"]["quant_method"]


def whole(volume: Path) -> list[Path]:
    """The quantized files on a volume that are whole."""
    return [path for path in volume.glob("quantized/*/*.safetensors") if not path.name.startswith(".")]


def test_the_login_comes_from_a_secret(image: Packer, source: str, tmp_path: Path) -> None:
    """A registry that wants one refuses without the secret, and takes the model with it."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: tests, path: {tmp_path / 'htpasswd'}}}}}"
    with docker_registry(tmp_path / "registry", auth) as closed:
        text = f"source: {source}\npublish: {{to: '{closed.address}/tekton/closed:v1', base: none}}\n"
        cluster, run = applied(tmp_path, image, text)
        assert [task.codes for task in cluster.create(run).tasks] == [[0], [5, 5, 5]]
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        document = json.dumps({"auths": {closed.address: {"auth": login}}})
        cluster.secrets["closed-registry"] = {".dockerconfigjson": document}
        assert cluster.create(run).has_succeeded


def test_a_failure_ends_the_run(image: Packer, registry: Server, tmp_path: Path) -> None:
    """A source that is not there: tried three times, and nothing comes after it."""
    text = f"source: oci://{registry.address}/tekton/none:v1\npublish: {{to: '{registry.address}/tekton/never:v1'}}\n"
    cluster, run = applied(tmp_path, image, text)
    done = cluster.create(run)
    assert [(task.task, task.codes) for task in done.tasks] == [("fetch", [5, 5, 5])]
    assert "tekton/none" in done.tasks[0].logs[0]


def test_what_is_refused_is_not_done_again(image: Packer, source: str, registry: Server, tmp_path: Path) -> None:
    """Tekton tries it three times, whatever the exit was; packer does once, in each run anew."""
    text = f"source: {source}\nquantize: onnx-int8-dynamic\npublish: {{to: '{registry.address}/tekton/refused:v1'}}\n"
    cluster, run = applied(tmp_path, image, text)
    for _ in range(2):
        fetch, quantize = cluster.create(run).tasks
        assert (fetch.codes, quantize.codes) == ([0], [2, 2, 2])
        assert ["is not tried again" in log for log in quantize.logs] == [False, True, True]
