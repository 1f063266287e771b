"""The Pipeline on the whole of SmolLM2, from a Hub, in two variants that are measured: `make test-slow`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.command import packer
from tests.parts.hub import git_repository, olah
from tests.parts.image import Packer, lent
from tests.parts.podman import housed
from tests.parts.servers import Server
from tests.parts.tekton import Cluster


@pytest.fixture(scope="module")
def image() -> Iterator[Packer]:
    with housed(Packer, "tekton-") as found:
        yield found


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
