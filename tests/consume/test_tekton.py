"""The Pipeline that `packer ci tekton` writes, run: in packer's image, on a real model, to a real registry.

What becomes of a task that is killed, that needs a login, or that may be tried again: `make test-slow`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.command import packer, release
from tests.parts.image import Packer
from tests.parts.models import digests
from tests.parts.podman import housed
from tests.parts.servers import Server
from tests.parts.small import cut_short
from tests.parts.tekton import applied


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


def test_what_is_refused_is_not_done_again(image: Packer, source: str, registry: Server, tmp_path: Path) -> None:
    """Tekton tries it three times, whatever the exit was; packer does once, in each run anew."""
    text = f"source: {source}\nquantize: onnx-int8-dynamic\npublish: {{to: '{registry.address}/tekton/refused:v1'}}\n"
    cluster, run = applied(tmp_path, image, text)
    for _ in range(2):
        fetch, quantize = cluster.create(run).tasks
        assert (fetch.codes, quantize.codes) == ([0], [2, 2, 2])
        assert ["is not tried again" in log for log in quantize.logs] == [False, True, True]
