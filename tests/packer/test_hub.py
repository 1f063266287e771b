"""`hf://`: through huggingface_hub, from olah and from a strict hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.command import events, on_terminal, packer
from tests.parts.hub import COMMIT, StrictHub, git_repository, olah
from tests.parts.models import digests

FILES = {
    "model.safetensors": tiny.GOOD,
    "config.json": b'{"model_type": "tiny"}',
    "README.md": b"---\nlicense: mit\n---\n",
    "pytorch_model.bin": b"\x80\x04.",
    "model.gguf": tiny.GOOD_GGUF,
    "onnx/model.onnx": b"onnx",
    ".gitattributes": b"*.safetensors filter=lfs\n",
}


@pytest.fixture
def hub() -> StrictHub:
    return StrictHub(dict(FILES))


def test_real_model_from_olah(gguf_model: Path, tmp_path: Path) -> None:
    names = {path.name: path for path in gguf_model.iterdir()}
    commit = git_repository(tmp_path / "mirror/models/acme/smollm2", names)
    with olah(tmp_path) as server:
        environment = {"HF_ENDPOINT": f"http://{server.address}", "HF_HOME": str(tmp_path / "hf")}
        told = events("build", "hf://acme/smollm2", "--to", f"oci:{tmp_path}/out", env=environment)
    fetched = next(line for line in told if line["event"] == "finished" and line["stage"] == "fetch")
    assert fetched["origin"] == {"kind": "hf", "name": "acme/smollm2", "revision": commit}
    packer("pull", f"oci:{tmp_path}/out", tmp_path / "pulled")
    assert digests(tmp_path / "pulled") == digests(gguf_model)


def test_one_format_is_fetched_and_the_commit_recorded(
    hub: StrictHub, environment: dict[str, str], tmp_path: Path
) -> None:
    packer("build", "hf://acme/tiny@main", "--to", f"oci:{tmp_path}/out", env=environment)
    packer("pull", f"oci:{tmp_path}/out", tmp_path / "pulled")
    assert set(digests(tmp_path / "pulled")) == {"model.safetensors", "config.json", "README.md"}
    asked = {path for _, path, _ in hub.requests}
    assert not any(name in path for path in asked for name in (".bin", ".gguf", ".onnx"))
    report = packer("inspect", f"oci:{tmp_path}/out", "--json").stdout
    assert "tiny" in report
    manifest = next((tmp_path / "out/blobs/sha256").glob("*")).parent
    assert any(COMMIT.encode() in path.read_bytes() for path in manifest.iterdir())


def test_no_second_copy_on_disk_and_the_cache_is_used(
    hub: StrictHub, environment: dict[str, str], tmp_path: Path
) -> None:
    packer("build", "hf://acme/tiny", "--to", f"oci:{tmp_path}/out", "--until", "package", env=environment)
    copies = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == tiny.GOOD]
    assert len([path for path in copies if not path.is_symlink()]) == 1
    hub.requests.clear()
    packer("build", "hf://acme/tiny", "--to", f"oci:{tmp_path}/out", "--until", "package", env=environment)
    assert not [path for method, path, _ in hub.requests if method == "GET" and "/cdn/" in path]


def test_the_token_stays_with_the_hub(hub: StrictHub, environment: dict[str, str], tmp_path: Path) -> None:
    packer("build", "hf://acme/tiny", "--to", f"oci:{tmp_path}/out", env=environment)
    sent = {path.startswith("/cdn/"): "hf_secret" in str(headers) for _, path, headers in hub.requests}
    assert sent == {False: True, True: False}


def test_a_broken_download_goes_on_where_it_broke(hub: StrictHub, environment: dict[str, str], tmp_path: Path) -> None:
    large = tiny.safetensors_bytes({"a": tiny.tensor(0, 24_000_000)}, bytes(24_000_000))
    hub.files["model.safetensors"], hub.cut["model.safetensors"] = large, 15_000_000
    build = ("build", "hf://acme/tiny", "--to", f"oci:{tmp_path}/out")
    if packer(*build, env=environment, check=False).returncode:
        packer(*build, env=environment)
    packer("pull", f"oci:{tmp_path}/out", tmp_path / "pulled")
    assert (tmp_path / "pulled/model.safetensors").read_bytes() == large
    assert any(headers.get("Range", "bytes=0-") != "bytes=0-" for _, _, headers in hub.requests)


def test_a_download_is_seen_on_a_terminal_and_in_a_log(
    hub: StrictHub, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.files["model.safetensors"] = tiny.safetensors_bytes({"a": tiny.tensor(0, 24_000_000)}, bytes(24_000_000))
    build = ("build", "hf://acme/tiny", "--until", "fetch")
    assert b"22.9/22.9 MiB" in on_terminal(*build, env=environment)
    assert "to download" not in packer(*build, env=environment).stderr
    assert "22.9 MiB to download" in packer(*build, env={**environment, "HF_HOME": str(tmp_path / "new")}).stderr


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_bytes_of_the_right_size(hub: StrictHub, environment: dict[str, str], tmp_path: Path, name: str) -> None:
    hub.lies[name] = FILES[name][:-1] + b"!"
    done = packer("build", "hf://acme/tiny", "--to", f"oci:{tmp_path}/out", env=environment, check=False)
    assert done.returncode == 5
    assert f"error: {name}: what the Hub sent is not what it promised" in done.stderr
    assert not (tmp_path / "out").exists()


def test_gated(hub: StrictHub, environment: dict[str, str]) -> None:
    hub.gated = True
    done = packer("build", "hf://acme/tiny", "--to", "oci:out", env=environment, check=False)
    assert (done.returncode, "gated" in done.stderr, "HF_TOKEN" in done.stderr) == (5, True, True)
    assert "hf_secret" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("source", ["hf://acme/tiny@nowhere", "hf://acme/other"])
def test_missing(environment: dict[str, str], source: str) -> None:
    done = packer("build", source, "--to", "oci:out", env=environment, check=False)
    assert done.returncode == 5
    assert source in done.stderr
    assert "Traceback" not in done.stderr


def test_unreachable(tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = packer("build", "hf://acme/tiny", "--to", "oci:out", env=environment, check=False)
    assert (done.returncode, "cannot be reached" in done.stderr, "Traceback" in done.stderr) == (5, True, False)


def test_only_pickles_are_refused_before_they_are_fetched(
    hub: StrictHub, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.files = {"pytorch_model.bin": b"\x80\x04.", "config.json": b"{}"}
    done = packer("build", "hf://acme/tiny", "--to", f"oci:{tmp_path}/out", env=environment, check=False)
    assert (done.returncode, "only pickles" in done.stderr) == (3, True)
    assert not any("resolve" in path for _, path, _ in hub.requests)
