"""`packer build`: the same digests everywhere, nothing sent twice, nothing half-written, errors that help."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.command import PACKER, events, packer, release
from tests.parts.models import digests
from tests.parts.servers import Server

SUMMARY = ("image", "modelpack")


GOLDEN = [
    "sha256:49af5a8468bd27d9a2e08e2cf41c367099b2ac159e10e2c8dd542cc264e4203f",
    "sha256:6fa4453e42b02f2c323e42a525e3fc4e50ab1686f885a6205bdd3256cd8679ce",
]
"""The tiny sharded model without a base: the image index and the ModelPack manifest."""


def pins(result: dict[str, str]) -> list[str]:
    """The digests of a release."""
    return [result[key].partition("@")[2] for key in SUMMARY]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny valid model."""
    return tiny.write_folder(tmp_path / "model", tiny.SHARDED)


def test_same_digests_from_another_folder_owner_mode_time_and_locale(
    safetensors_model: Path, tmp_path: Path, registry: Server
) -> None:
    first = release(safetensors_model, "--to", f"oci:{tmp_path}/a")
    copy = tmp_path / "elsewhere" / "other name"
    shutil.copytree(safetensors_model, copy)
    for number, path in enumerate(sorted(copy.iterdir())):
        path.chmod(0o600 if number % 2 else 0o777)
        os.chown(path, 1234, 4321)
        os.utime(path, (number, 10**9 + number))
    copy.chmod(0o700)
    environment = {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "HOME": str(tmp_path / "home")}
    second = release(copy, "--to", f"{registry.address}/other/repo:tag", env=environment, umask=0o077, cwd=tmp_path)
    assert pins(first) == pins(second)
    assert first["base"]["digest"] == second["base"]["digest"]


def test_known_digests(model: Path, tmp_path: Path) -> None:
    """What is published is a promise: whoever changes these digests says so in the changelog."""
    built = release(model, "--to", f"oci:{tmp_path}/out", "--base", "none")
    assert pins(built) == GOLDEN


def test_second_build_sends_nothing_and_says_so(safetensors_model: Path, registry: Server) -> None:
    to = f"{registry.address}/models/twice:v1"
    assert release(safetensors_model, "--to", to)["changed"]
    before = registry.log.read_text().count("http.request.method=P")
    again = release(safetensors_model, "--to", to)
    assert registry.log.read_text().count("http.request.method=P") == before > 0
    assert (again["changed"], again["blobs_sent"], again["bytes_sent"]) == (False, 0, 0)
    assert "nothing to upload" in packer("build", safetensors_model, "--to", to).stderr


def test_a_changed_tokenizer_sends_only_the_small_layer(model: Path, registry: Server) -> None:
    to = f"{registry.address}/models/changed:v1"
    release(model, "--to", to)
    (model / "tokenizer.json").write_text("{}")
    again = release(model, "--to", to)
    assert again["blobs_sent"] == 3  # the layer of small files, the image's config, the ModelPack config
    assert again["bytes_sent"] < 10_000


def test_modelpack_raw_holds_the_files_and_none_holds_nothing(model: Path, tmp_path: Path) -> None:
    raw = release(model, "--to", f"oci:{tmp_path}/raw", "--modelpack", "raw")
    manifest = json.loads((tmp_path / "raw/blobs/sha256" / raw["modelpack"].rpartition(":")[2]).read_text())
    named = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in manifest["layers"]}
    assert {name: layer["digest"].removeprefix("sha256:") for name, layer in named.items()} == digests(model)
    kinds = {name: layer["mediaType"].removeprefix("application/vnd.cncf.model.") for name, layer in named.items()}
    assert kinds["model-00001-of-00002.safetensors"] == "weight.v1.raw"
    assert kinds["config.json"] == "weight.config.v1.raw"
    packer("pull", f"oci:{tmp_path}/raw:latest-modelpack", tmp_path / "pulled")
    assert digests(tmp_path / "pulled") == digests(model)
    assert release(model, "--to", f"oci:{tmp_path}/none", "--modelpack", "none")["modelpack"] is None


def test_until_stops_and_publishes_nothing(model: Path, tmp_path: Path) -> None:
    told = events("build", model, "--to", f"oci:{tmp_path}/out", "--until", "package")
    assert [line["stage"] for line in told if line["event"] == "finished"] == ["fetch", "validate", "package"]
    assert told[-1]["event"] == "stopped"
    assert not (tmp_path / "out").exists()
    said = packer("build", model, "--until", "package", "--modelpack", "none").stdout
    assert [line.split()[0] for line in said.splitlines()] == ["image", "nothing"]
    assert events("build", model, "--until", "validate")[-1]["parameters"] == 6


def test_build_file_gives_what_flags_give(model: Path, tmp_path: Path) -> None:
    (tmp_path / "packer.yaml").write_text(
        "source: ./model\ninclude: ['*.safetensors', '*.json']\n"
        "publish:\n  to: oci:./out:v1\n  base: none\n  modelpack: raw\n  platforms: [linux/arm64]\n"
    )
    from_file = release(tmp_path / "packer.yaml", cwd="/")
    flags = ("--base", "none", "--modelpack", "raw", "--platform", "linux/arm64")
    assert pins(from_file) == pins(release(model, "--to", f"oci:{tmp_path}/flags", *flags))
    assert (tmp_path / "out/index.json").exists()
    report = json.loads(packer("inspect", f"oci:{tmp_path}/out:v1", "--json").stdout)
    assert [entry["name"].split()[-1] for entry in report["manifests"] if entry["kind"] == "image"] == ["linux/arm64"]
    override = release(tmp_path / "packer.yaml", "--to", f"oci:{tmp_path}/over", "--modelpack", "none")
    assert override["modelpack"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sorce: ./model\n", "did you mean 'source'?"),
        ("source: ./model\npublish: {modelpak: raw}\n", "did you mean 'modelpack'?"),
        ("source: ./model\npublish: {modelpack: zip}\n", "'shared', 'raw' or 'none'"),
        ("source: [\n", "not YAML"),
        ("source: ./model\n", "--to"),
        ("- a\n", "a map of keys"),
        ("", "a map of keys"),
        ("to: x\n", "put it under publish"),
        ("source: ./model\ninclude: x\n", "this must be a list"),
    ],
)
def test_build_files_that_are_wrong(model: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "packer.yaml").write_text(text)
    done = packer("build", tmp_path / "packer.yaml", check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["build", "/nowhere", "--to", "oci:out"], 2, "no such model"),
        (["build", "{model}"], 2, "--to"),
        (["build", "{model}", "--to", "Not/A/Reference"], 2, "expected: HOST"),
        (["build", "{model}", "--to", "oci:out", "--platform", "linux/s390x"], 2, "--busybox linux/s390x=FILE"),
        (["build", "{model}", "--to", "oci:out", "--busybox", "linux/arm64=/bin/busybox"], 2, "linux/arm64"),
        (["build", "{model}", "--to", "oci:out", "--until", "ship"], 2, "'ship' is not one of"),
        (["build", "{model}", "--to", "oci:out", "--include", "*.nope"], 2, "no file matches --include"),
        (["build", "{model}", "--to", "127.0.0.1:9/a/b:c"], 5, "127.0.0.1:9 cannot be reached"),
        (["build", "{model}", "--to", "oci:/etc"], 2, "not an OCI layout"),
        (["build", "{model}/config.json", "--include", "x", "--to", "oci:out"], 2, "the files of a folder"),
        (["build", "{model}", "--to", "oci:{model}/out"], 2, "inside the model"),
        (["build", "hf://acme/a--b", "--to", "oci:out"], 2, "allows no such name"),
        (["build", "nowhere.yaml"], 2, "no such build file"),
        (["build", "{model}", "--to", "127.0.0.1:9/a/b:" + "t" * 120], 2, "this tag is too long"),
        (["build", "{model}", "--to", "https://r.io/a"], 2, "leave out what stands before ://"),
        (["inspect", "/nowhere"], 2, "no such file or folder"),
        (["inspect", "127.0.0.1:9/a/b:c"], 5, "cannot be reached"),
        (["inspect", "{registry}/no/such:tag"], 5, "check the repository and the tag"),
        (["pull", "oci:/nowhere:v1", "out"], 5, "no OCI layout here"),
    ],
)
def test_errors_say_what_and_what_next(
    model: Path, registry: Server, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    words = [word.format(model=model, registry=registry.address) for word in arguments]
    done = packer(*words, check=False, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr


def test_errors_in_json_end_the_output(tmp_path: Path) -> None:
    done = packer("build", "/nowhere", "--to", "oci:out", "--json", check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["exit_code"], last["subject"]) == ("error", 2, "/nowhere")


def test_full_disk_is_6(tmp_path: Path) -> None:
    """A file system of 4 MB, and a model of 8."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        weights = tiny.safetensors_bytes({"a": tiny.tensor(0, 8 << 20)}, bytes(8 << 20))
        model = tiny.write_folder(tmp_path / "model", {"model.safetensors": weights})
        done = packer("build", model, "--to", f"oci:{small}/out", check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (6, False)
        assert "bytes free" in done.stderr
        assert not (small / "out/index.json").exists()
        packer("build", model, "--to", f"oci:{tmp_path}/out")
        done = packer("pull", f"oci:{tmp_path}/out", small / "pulled", check=False)
        assert (done.returncode, list((small / "pulled").iterdir())) == (6, [])
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_damaged_blob_in_a_layout_is_written_again(model: Path, tmp_path: Path) -> None:
    built = release(model, "--to", f"oci:{tmp_path}/out")
    for blob in (tmp_path / "out/blobs/sha256").iterdir():
        blob.chmod(0o644)
        os.truncate(blob, 5)
    assert pins(release(model, "--to", f"oci:{tmp_path}/out")) == pins(built)
    packer("pull", f"oci:{tmp_path}/out", tmp_path / "pulled")
    assert digests(tmp_path / "pulled") == digests(model)


def is_large_one_written(layout: Path) -> bool:
    """Whether a blob of more than a megabyte is being written; a small one may be whole before it is looked at."""
    for path in layout.glob("blobs/sha256/.partial-*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > 1 << 20:
                return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_that_looks_whole(tmp_path: Path, number: signal.Signals) -> None:
    model = tmp_path / "model.safetensors"
    size = 1 << 30
    model.write_bytes(tiny.safetensors_bytes({"a": tiny.tensor(0, size)}, b""))
    os.truncate(model, model.stat().st_size + size)
    out = tmp_path / "out"
    command: list[str | Path] = [PACKER, "build", model, "--to", f"oci:{out}"]
    # a shell that runs the tests in the background makes its children ignore SIGINT
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while not is_large_one_written(out):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "nothing half-written has its final name" in stderr
    assert not (out / "index.json").exists()
    for path in (out / "blobs/sha256").iterdir():
        # a disk that is slow to take a write can outlast the grace that an interruption gives
        assert path.name.startswith(".partial-") or digests(path.parent)[path.name] == path.name


def test_platforms_of_a_registry_base(model: Path, registry: Server, tmp_path: Path) -> None:
    base = f"{registry.address}/base/two:v1"
    empty = tiny.write_folder(tmp_path / "empty", {"model.gguf": tiny.GOOD_GGUF})
    packer("build", empty, "--to", base, "--base", "none", "--modelpack", "none")
    built = release(model, "--to", f"oci:{tmp_path}/out", "--base", base)
    report = json.loads(packer("inspect", f"oci:{tmp_path}/out", "--json").stdout)
    images = [entry for entry in report["manifests"] if entry["kind"] == "image"]
    assert [entry["name"].split()[-1] for entry in images] == ["linux/amd64", "linux/arm64"]
    assert report["base"] == built["base"]["digest"]
    only = release(model, "--to", f"oci:{tmp_path}/one", "--base", base, "--platform", "linux/arm64")
    assert only["base"]["digest"] == built["base"]["digest"]
    by_digest = release(
        model, "--to", f"oci:{tmp_path}/pin", "--base", f"{base.rpartition(':')[0]}@{built['base']['digest']}"
    )
    assert pins(by_digest) == pins(built)
    done = packer("build", model, "--to", "oci:out", "--base", base, "--platform", "linux/s390x", check=False)
    assert (done.returncode, "linux/s390x" in done.stderr) == (2, True)
