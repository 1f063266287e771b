"""Headers over the network: what is judged from afar is judged alike, and costs what headers cost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import headers
from formats.examine import examine
from packer.look import look
from registry import ranged
from registry.access import Access
from registry.errors import ResponseError
from registry.ranged import Answer, RangedBlob
from tests.parts import tiny
from tests.parts.command import packer
from tests.parts.hub import StrictHub, git_repository, olah
from tests.parts.proxy import Wire, counting_proxy
from tests.parts.servers import Server


@pytest.fixture
def wire(registry: Server) -> Iterator[Wire]:
    """A way to the registry that counts what comes along it."""
    with counting_proxy(registry.address) as proxy:
        yield proxy


def push(model: Path, reference: str, *more: str) -> None:
    packer("build", model, "--to", reference, *more)


def shards(folder: Path, count: int = 200, size: int = 1 << 20) -> Path:
    """A model of many shards that are large for their headers."""
    places = {}
    for at in range(1, count + 1):
        name, tensor = f"model-{at:05}-of-{count:05}.safetensors", f"layer.{at}.weight"
        path = tiny.write_folder(folder, {name: tiny.safetensors_bytes({tensor: tiny.tensor(0, size)}, b"")}) / name
        os.truncate(path, path.stat().st_size + size)
        places[tensor] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, registry: Server) -> Path:
    """A model of 200 shards, which the registry has too."""
    model = shards(tmp_path_factory.mktemp("many") / "m")
    push(model, f"{registry.address}/many:v1", "--base", "none")
    push(model, f"{registry.address}/many:raw", "--base", "none", "--modelpack", "raw")
    return model


@pytest.mark.parametrize("form", ["v1", "v1-modelpack", "raw-modelpack"])
def test_200_shards_in_a_registry_cost_some_megabytes(many: Path, wire: Wire, form: str) -> None:
    report = examine(look(f"{wire.address}/many:{form}", (), Access()))
    assert report.ok and len(report.tensors) == 200
    local = examine(look(str(many), (), Access()))
    assert {(t.name, t.dtype, t.shape, t.file) for t in report.tensors} == {
        (t.name, t.dtype, t.shape, t.file) for t in local.tensors
    }
    assert wire.bytes_down < 30 << 20 < sum(file.size for file in report.snapshot.files)


def test_validate_and_inspect_of_a_reference(gguf_model: Path, registry: Server, wire: Wire) -> None:
    push(gguf_model, f"{registry.address}/look:v1")
    wire.reset()
    said = json.loads(packer("validate", f"{wire.address}/look:v1", "--json").stdout)
    assert (said["ok"], said["format"], said["findings"]) == (True, "gguf", [])
    assert wire.bytes_down < 8 << 20
    shown = json.loads(packer("inspect", f"{wire.address}/look:v1", "--tensors", "--json").stdout)
    local = json.loads(packer("inspect", gguf_model, "--tensors", "--json").stdout)
    assert shown["tensors"] == local["tensors"]
    assert shown["tensor_count"] == 272
    assert wire.bytes_down < 16 << 20


def test_what_is_wrong_in_a_registry_is_found_there(tmp_path: Path, registry: Server) -> None:
    """A model that others pushed: packer would not have."""
    model = tiny.write_folder(tmp_path / "m", {"model.safetensors": tiny.GOOD})
    push(model, f"oci:{tmp_path}/out:v1", "--base", "none")
    assert json.loads(packer("validate", f"oci:{tmp_path}/out:v1", "--json").stdout)["ok"]
    pushed = tiny.write_folder(tmp_path / "w", {"model.safetensors": tiny.GOOD, "tool.py": b"pass"})
    push(pushed, f"{registry.address}/code:v1", "--remote-code", "allow")
    done = packer("validate", f"{registry.address}/code:v1", "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)["findings"][0]["rule"]) == (3, "code-file")


def test_a_layout_is_looked_at_without_reading_it_whole(tmp_path: Path) -> None:
    model = shards(tmp_path / "m", 3)
    push(model, f"oci:{tmp_path}/out:v1", "--base", "none")
    blobs = sorted((tmp_path / "out/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    with blobs[-1].open("r+b") as file:  # damage that only reading it all would find
        os.chmod(blobs[-1], 0o644)
        file.seek(-700_000, os.SEEK_END)
        file.write(b"x")
    assert json.loads(packer("validate", f"oci:{tmp_path}/out:v1", "--json").stdout)["ok"]
    pulled = packer("pull", f"oci:{tmp_path}/out:v1", tmp_path / "pulled", check=False)
    assert (pulled.returncode, "not what its descriptor promises" in pulled.stderr) == (5, True)


HUB = {
    "config.json": b'{"architectures": ["TinyForCausalLM"], "model_type": "tiny"}',
    "model.safetensors": tiny.safetensors_bytes({"a": tiny.tensor(0, 1 << 20)}, bytes(1 << 20)),
}


@pytest.fixture
def hub() -> StrictHub:
    return StrictHub(dict(HUB))


def test_the_hub_in_ranges_and_nothing_in_its_cache(
    hub: StrictHub, environment: dict[str, str], tmp_path: Path
) -> None:
    said = json.loads(packer("validate", "hf://acme/tiny", "--json", env=environment).stdout)
    assert (said["ok"], said["format"]) == (True, "safetensors")
    shown = json.loads(packer("inspect", "hf://acme/tiny", "--tensors", "--json", env=environment).stdout)
    assert [tensor["name"] for tensor in shown["tensors"]] == ["a"]
    assert shown["revision"] and "digest" not in shown["files"][1]
    assert not list((tmp_path / "hf").rglob("*.safetensors")) and not list((tmp_path / "hf").rglob("blobs/*"))
    asked = [sent["Range"] for _, path, sent in hub.requests if path == "/cdn/model.safetensors"]
    assert asked and all(wanted.startswith("bytes=0-") and wanted != "bytes=0-" for wanted in asked)
    assert hub.sent["model.safetensors"] <= 2 * ranged.WINDOW


def test_the_token_stays_with_the_hub(hub: StrictHub, environment: dict[str, str]) -> None:
    packer("validate", "hf://acme/tiny", env=environment)
    for _, path, sent in hub.requests:
        if path.startswith(("/cdn/", "/acme/")):
            assert ("authorization" in map(str.lower, sent)) == path.startswith("/acme/")


def test_a_hub_that_lies_about_the_range(hub: StrictHub, environment: dict[str, str]) -> None:
    hub.shift = 1
    done = packer("validate", "hf://acme/tiny", env=environment, check=False)
    assert (done.returncode, "another range" in done.stdout) == (5, True)


def test_a_connection_that_breaks_is_tried_again(hub: StrictHub, environment: dict[str, str]) -> None:
    hub.cut["config.json"] = 5
    assert packer("validate", "hf://acme/tiny", env=environment).returncode == 0


def test_a_hub_without_range_gives_headers(hub: StrictHub, environment: dict[str, str]) -> None:
    hub.ranges = False
    said = json.loads(packer("validate", "hf://acme/tiny", "--json", env=environment).stdout)
    assert (said["ok"], said["format"]) == (True, "safetensors")


def test_olah_knows_no_range(gguf_model: Path, tmp_path: Path) -> None:
    git_repository(tmp_path / "mirror/models/acme/smollm2", {path.name: path for path in gguf_model.iterdir()})
    with olah(tmp_path) as server:
        environment = {"HF_ENDPOINT": f"http://{server.address}", "HF_HOME": str(tmp_path / "hf")}
        done = packer("validate", "hf://acme/smollm2@main", env=environment)
    assert "gguf, llama, 272 tensors" in done.stdout


def far(data: bytes, *, ranges: bool, log: list[tuple[int, int]] | None = None, **more: Any) -> RangedBlob:
    """A blob as a server would give it; a double, because no server can be made to fail on the byte."""
    import io

    def request(start: int, end: int) -> Answer:
        if log is not None:
            log.append((start, end))
        return Answer(io.BytesIO(data[start:end] if ranges else data), ranges)

    return RangedBlob(request, more.get("size", len(data)), "far/away", "fetch it whole")


@pytest.mark.parametrize("ranges", [True, False])
def test_any_seek_and_read_is_what_a_file_gives(ranges: bool) -> None:
    data = os.urandom(600_000)
    with far(data, ranges=ranges).open() as stream:
        for start, size in (
            (0, 8),
            (8, 200_000),
            (500_000, 200_000),
            (3, 3),
            (599_999, 10),
            (600_000, 1),
            (0, 600_000),
        ):
            stream.seek(start)
            assert stream.read(size) == data[start : start + size]
    assert far(data, ranges=ranges).descriptor.size == len(data)


def test_small_reads_share_a_request() -> None:
    log: list[tuple[int, int]] = []
    blob = far(os.urandom(1 << 20), ranges=True, log=log)
    for _ in range(3):
        with blob.open() as stream:
            assert len(stream.read(8)) == 8
            stream.read(1000)
    assert log == [(0, ranged.WINDOW)]


def test_gigabytes_are_not_fetched_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "MAX_UNRANGED", 1 << 20)
    blob = far(bytes(5 << 20), ranges=False)
    with blob.open() as stream:
        stream.seek(500_000)
        assert stream.read(10) == bytes(10)
        stream.seek(4 << 20)
        with pytest.raises(ResponseError, match=r"fetch the whole: 5 MiB") as caught:
            stream.read(10)
    assert caught.value.hint == "fetch it whole"


def test_an_answer_that_ends_early() -> None:
    with far(b"abc", ranges=True, size=100_000).open() as stream, pytest.raises(Exception, match="ended early"):
        stream.read(100_000)


def test_many_headers_of_a_large_model(tmp_path: Path, registry: Server, wire: Wire) -> None:
    """The checkpoint of the benchmark: 200 shards, 100,000 tensors, some gigabytes if it were real."""
    model = headers.checkpoint(tmp_path / "m")
    push(model, f"{registry.address}/huge:v1", "--base", "none", "--modelpack", "none")
    wire.reset()
    report = examine(look(f"{wire.address}/huge:v1", (), Access()))
    assert report.ok and len(report.tensors) == 100_000
    assert wire.bytes_down < 64 << 20


def test_pickles_on_the_hub_are_told_with_what_they_import(hub: StrictHub, environment: dict[str, str]) -> None:
    import pickle

    hub.files.clear()
    hub.files.update({"pytorch_model.bin": pickle.dumps(os.system), "config.json": b"{}"})
    done = packer("validate", "hf://acme/tiny", env=environment, check=False)
    assert (done.returncode, "pickle-dangerous" in done.stdout, "posix.system" in done.stdout) == (3, True, True)
