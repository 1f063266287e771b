"""The Pipeline on the whole of SmolLM2, from a Hub, in two variants that are measured, and tasks that fail: `make
test-slow`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.parts.command import packer, release
from tests.parts.hub import git_repository, olah
from tests.parts.image import Packer, lent
from tests.parts.podman import housed
from tests.parts.servers import Server, docker_registry
from tests.parts.small import cut_short
from tests.parts.tekton import Cluster, applied

USER, PASSWORD = "tester", "correct horse"
HTPASSWD = f"{USER}:$2b$05$dsHFsFvTBwUgOgoe6JJ/6e8JE2463JkQRChlW5n74at9X.DdjWU6q\n"


@pytest.fixture(scope="module")
def image() -> Iterator[Packer]:
    with housed(Packer, "tekton-") as found:
        yield found


@pytest.fixture(scope="module")
def source(registry: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that is cut short, in the registry."""
    reference = f"{registry.address}/tekton/source:v1"
    release(cut_short(tmp_path_factory.mktemp("model") / "small"), "--to", reference, "--base", "none")
    return f"oci://{reference}"


def test_two_variants_from_the_hub(image: Packer, safetensors_model: Path, registry: Server, tmp_path: Path) -> None:
    """Both are quantized and measured side by side; each publishes what it retains, and nothing is done twice."""
    files = {path.name: path for path in safetensors_model.iterdir() if path.is_file()}
    commit = git_repository(tmp_path / "hub/mirror/models/acme/smollm2", files)
    place = f"{registry.address}/tekton/smollm2"
    (tmp_path / "packer.yaml").write_text(f"""
source: hf://acme/smollm2@main
evaluate: {{suite: fidelity, retain: 0.9, report: ./report}}
publish: {{to: {place}, base: none}}
variants:
  - {{name: fp8, quantize: fp8-dynamic}}
  - {{name: int8, quantize: int8-w8a8-rtn}}
""")
    with olah(tmp_path / "hub") as hub:
        given = ("--packer-image", f"registry.example.com/packer:v1@sha256:{'1' * 64}", "--out", tmp_path / "out")
        packer("ci", "tekton", tmp_path / "packer.yaml", *given, "--env", f"HF_ENDPOINT=http://{hub.address}")
        # side by side, more threads than there are processors wait for each other
        cluster = Cluster(image, tmp_path / "cluster", "--env=OMP_NUM_THREADS=1", *lent(tmp_path))
        cluster.apply(*sorted((tmp_path / "out").glob("*.yaml")))
        done = cluster.create(tmp_path / "out/run/run.yaml")
        assert done.has_succeeded, [task.logs for task in done.tasks]
        again = cluster.create(tmp_path / "out/run/run.yaml")
    stages = ("fetch", "quantize", "evaluate", "publish")
    assert [task.task for task in done.tasks] == [stage for stage in stages for _ in ("fp8", "int8")]
    for task in done.of("publish"):
        results = task.results
        assert results["IMAGE_URL"] == f"{place}:{task.params['variant']}"
        assert results["source_ARTIFACT_INPUTS"] == {"uri": "hf://acme/smollm2", "digest": f"sha1:{commit}"}
        assert (results["VERDICT"], float(results["RETENTION"]) > 0.9) == ("retained", True)
        assert "retained" in packer("scorecard", results["IMAGE_URL"]).stdout.lower()
        assert (cluster.volume("smollm2-cache") / "report" / task.params["variant"] / "report.html").exists()
    assert [task.results["CHANGED"] for task in again.of("publish")] == ["false", "false"]
    assert all("done before" in task.logs[-1] for task in (*again.of("quantize"), *done.of("publish")))


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
