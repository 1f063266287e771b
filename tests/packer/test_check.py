"""`packer check` at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from containers.check.clients import CLIENTS
from tests.parts import tiny
from tests.parts.command import packer, release
from tests.parts.proxy import counting_proxy
from tests.parts.servers import Server


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with a model of ours as `v1`, and with raw layers as `raw`."""
    folder = tmp_path_factory.mktemp("check")
    model = tiny.write_folder(folder / "model", tiny.SHARDED)
    release(model, "--to", f"oci:{folder}/out:v1")
    release(model, "--to", f"oci:{folder}/out:raw", "--modelpack", "raw")
    return folder / "out"


def answer(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = packer("check", *arguments, "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def outcomes(document: dict[str, Any]) -> dict[str, str]:
    return {client["client"]: client["outcome"] for client in document["clients"]}


RUNTIMES = ("containerd", "crio", "podman", "kserve", "kserve-native", "kserve-fetch")


def test_an_image_of_ours_works_with_every_runtime(layout: Path) -> None:
    code, document = answer(f"oci:{layout}:v1", "--for", ",".join(RUNTIMES))
    assert (code, document["ok"]) == (0, True)
    assert outcomes(document) == dict.fromkeys(RUNTIMES, "works")
    assert (document["kind"], len(document["platforms"])) == ("index of images", 1)


def test_those_that_know_models_are_sent_to_the_manifest_beside_it(layout: Path) -> None:
    code, document = answer(f"oci:{layout}:v1", "--for", "modctl, kitops")
    assert code == 0
    for client in document["clients"]:
        assert (client["outcome"], client["instead"]) == ("condition", f"oci:{layout}:v1-modelpack")
        assert client["findings"][0]["rule"] == "beside-modelpack"
    raw = answer(f"oci:{layout}:raw", "--for", "modctl,kitops,docker-model-runner,oras")
    assert (raw[0], set(outcomes(raw[1]).values())) == (0, {"condition"})


def test_the_manifest_mounts_nothing_in_containerd(layout: Path) -> None:
    code, document = answer(f"oci:{layout}:v1-modelpack")
    assert code == 3
    assert list(outcomes(document)) == list(CLIENTS)
    assert outcomes(document)["containerd"] == "empty"
    assert document["clients"][0]["instead"] == f"oci:{layout}:v1"
    assert outcomes(document)["modctl"] == outcomes(document)["kitops"] == "works"
    shown = packer("check", f"oci:{layout}:v1-modelpack", "--for", "containerd", check=False)
    assert shown.returncode == 3
    assert "SILENTLY NOTHING" in shown.stdout
    assert f"image of the same build is oci:{layout}:v1" in shown.stdout.replace("\n", " ")


@pytest.mark.parametrize("columns", [80, 60, 200])
def test_the_table_fits_the_terminal(layout: Path, columns: int) -> None:
    shown = packer("check", f"oci:{layout}:raw-modelpack", check=False, env={"COLUMNS": str(columns)}).stdout
    lines = shown.splitlines()
    rows = [line for line in lines if line.split() and line.split()[0] in CLIENTS]
    assert [row.split()[0] for row in rows] == list(CLIENTS)
    paths = (str(layout), "sha256:")  # which cannot be broken
    assert [line for line in lines if len(line) > columns and not any(path in line for path in paths)] == []


def test_a_tag_beside_it_of_another_build_is_none(layout: Path, tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    release(model, "--to", f"oci:{tmp_path}/out:v1")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    release(model, "--to", f"oci:{tmp_path}/out:v1", "--modelpack", "none")
    code, document = answer(f"oci:{tmp_path}/out:v1", "--for", "modctl")
    assert (code, outcomes(document)) == (3, {"modctl": "empty"})


def test_a_digest_is_no_tag(layout: Path) -> None:
    digest = answer(f"oci:{layout}:v1-modelpack")[1]["digest"]
    code, document = answer(f"oci:{layout}@{digest}", "--for", "modctl,kitops")
    assert (code, outcomes(document)) == (3, {"modctl": "fails", "kitops": "works"})


def test_of_layers_far_away_headers_are_fetched(registry: Server, tmp_path: Path) -> None:
    size = 32 << 20
    weights = tiny.safetensors_bytes({"a": tiny.tensor(0, size)}, bytes(size))
    model = tiny.write_folder(tmp_path, {"model.safetensors": weights})
    release(model, "--to", f"{registry.address}/check/far:v1")
    with counting_proxy(registry.address) as proxy:
        code, document = answer(f"{proxy.address}/check/far:v1", "--for", "kserve,kserve-fetch")
        assert (code, set(outcomes(document).values())) == (0, {"works"})
        assert proxy.bytes_down < 1 << 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--for", "docker"), "this client is not known"),
        (("--for", ","), "no client is named"),
    ],
)
def test_clients_that_nobody_knows(layout: Path, arguments: tuple[str, ...], said: str) -> None:
    done = packer("check", f"oci:{layout}:v1", *arguments, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "kserve-native" in done.stderr


def test_what_is_not_published(layout: Path, tmp_path: Path) -> None:
    done = packer("check", str(tmp_path), check=False)
    assert done.returncode == 2
    assert "packer validate" in done.stderr
    assert packer("check", f"oci:{layout}:v9", check=False).returncode == 5
