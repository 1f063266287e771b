"""`packer inspect`, and what a terminal shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models import make
from tests.parts import tiny
from tests.parts.command import on_terminal, packer, release
from tests.parts.models import digests
from tests.parts.servers import Server


def report(what: object) -> dict[str, object]:
    shown: dict[str, object] = json.loads(packer("inspect", str(what), "--json").stdout)
    return shown


def test_of_a_reference_only_manifests_and_configs_are_read(gguf_model: Path, registry: Server) -> None:
    reference = f"{registry.address}/models/inspected:v1"
    packer("build", gguf_model, "--to", reference)
    before = len(registry.log.read_text())
    shown = report(reference)
    said = registry.log.read_text()[before:]
    layers: list[dict[str, str]] = shown["layers"]  # type: ignore[assignment]
    assert len(layers) == 3
    assert "http.request.method=GET" in said
    assert not any(layer["digest"] in said for layer in layers)
    assert shown["model"] == report(gguf_model)["model"]


def test_a_file_and_a_folder_and_a_layout(gguf_model: Path, tmp_path: Path) -> None:
    folder, file = report(gguf_model), report(next(gguf_model.glob("*.gguf")))
    assert folder["model"] == file["model"]
    files: list[dict[str, str]] = folder["files"]  # type: ignore[assignment]
    assert {entry["path"]: entry["digest"].removeprefix("sha256:") for entry in files} == digests(gguf_model)
    packer("build", gguf_model, "--to", f"oci:{tmp_path}/out")
    assert report(tmp_path / "out") == report(f"oci:{tmp_path}/out")


def test_a_modelpack_manifest_of_an_earlier_build_is_not_shown(tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    packer("build", model, "--to", f"oci:{tmp_path}/out")
    assert "latest-modelpack" in packer("inspect", f"oci:{tmp_path}/out").stdout
    other = tiny.write_folder(tmp_path / "other", {"model.gguf": tiny.GOOD_GGUF})
    packer("build", other, "--to", f"oci:{tmp_path}/out", "--modelpack", "none")
    assert "latest-modelpack" not in packer("inspect", f"oci:{tmp_path}/out").stdout


def test_a_base_that_others_made(clients: Path, tmp_path: Path) -> None:
    """The layout in the package modelcar-base-image: two platforms, compressed layers, an entrypoint."""
    layout = next((clients / "modelcar").glob("lib/python*/site-packages/modelcar_base_image/embedded_oci_layout"))
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    built = release(model, "--to", f"oci:{tmp_path}/out", "--base", f"oci:{layout}")
    shown = report(f"oci:{tmp_path}/out")
    images = [entry for entry in shown["manifests"] if entry["kind"] == "image"]  # type: ignore[attr-defined]
    assert [entry["name"].split()[-1] for entry in images] == ["linux/amd64", "linux/arm64"]
    assert shown["base"] == built["base"]["digest"]
    for entry in images:
        manifest = json.loads((tmp_path / "out/blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_text())
        config = json.loads(
            (tmp_path / "out/blobs/sha256" / manifest["config"]["digest"].removeprefix("sha256:")).read_text()
        )
        assert "Entrypoint" not in config["config"]
        assert len(config["rootfs"]["diff_ids"]) == len(config["history"]) == len(manifest["layers"]) == entry["layers"]


@pytest.mark.parametrize(
    "arguments", [("build", "{model}", "--to", "oci:{out}"), ("pull", "oci:{out}", "{out}.pulled")]
)
def test_bars_on_a_terminal(safetensors_model: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    if arguments[0] == "pull":
        packer("build", safetensors_model, "--to", f"oci:{tmp_path}/out")
    words = [word.format(model=safetensors_model, out=tmp_path / "out") for word in arguments]
    shown = on_terminal(*words)
    assert b"260.0" in shown or b"261.9" in shown
    assert b"B/s" in shown
    assert b"\x1b[?25h" in shown  # the cursor is back


def test_tensors_inside_onnx_models_have_sizes_and_files(tmp_path: Path) -> None:
    for name in ("a", "bb"):
        make.write("onnx-foreign-operators", tmp_path)
        (tmp_path / "model.onnx").rename(tmp_path / f"{name}.onnx")
    shown = json.loads(packer("inspect", tmp_path, "--tensors", "--json").stdout)
    assert [(tensor["bytes"], tensor["offset"]) for tensor in shown["tensors"]] == [(16, None)] * 2
    lines = packer("inspect", tmp_path, "--tensors").stdout.splitlines()[-2:]
    assert [line.split() for line in lines] == [
        ["16", "B", "FLOAT", "[4]", f"{name}.onnx", "w"] for name in ("a", "bb")
    ]
    (tmp_path / "a.onnx").unlink()
    assert packer("inspect", tmp_path, "--tensors").stdout.splitlines()[-1].split() == ["16", "B", "FLOAT", "[4]", "w"]
