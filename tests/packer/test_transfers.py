"""The commands that move artifacts, as a user runs them, against real registries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.command import events, packer, release, run
from tests.parts.servers import Server, docker_registry
from tests.parts.strict import StrictRegistry, strict_registry


@pytest.fixture
def strict() -> Iterator[StrictRegistry]:
    with strict_registry() as registry:
        yield registry


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", tiny.SHARDED)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_a_layout_to_two_registries_and_between_them(
    registry: Server, strict: StrictRegistry, model: Path, tmp_path: Path
) -> None:
    built = release(model, "--to", f"oci:{tmp_path}/layout:v1")
    digest = built["image"].rpartition("@")[2]
    one, other = f"{registry.address}/push/{tmp_path.name.lower().strip('_')}", f"{strict.address}/a/b"
    copies = events("push", tmp_path / "layout", f"{one}:v1", f"{other}:v1")
    copied = [event for event in copies if event["event"] == "copied"]
    assert [event["reference"] for event in copied] == [f"{one}@{digest}", f"{other}@{digest}"]
    assert all(event["tags"] == ["v1", "v1-modelpack"] for event in copied)
    assert packer("tags", one).stdout.split() == ["v1", "v1-modelpack"]
    # nothing is sent again
    (again,) = [
        event for event in events("push", f"oci:{tmp_path}/layout:v1", f"{one}:v1") if event["event"] == "copied"
    ]
    assert (again["blobs_sent"], again["changed"]) == (0, False)
    # from registry to registry, and into a layout; the digest is the same everywhere
    packer("copy", f"{one}:v1", f"{strict.address}/c/d:v2", f"oci:{tmp_path}/copy:v3")
    for place in (f"{strict.address}/c/d:v2", f"oci:{tmp_path}/copy:v3"):
        assert json.loads(packer("inspect", place, "--json").stdout)["digest"] == digest
    packer("tag", f"{strict.address}/c/d:v2", "prod")
    assert packer("tags", f"{strict.address}/c/d").stdout.split() == ["prod", "prod-modelpack", "v2", "v2-modelpack"]
    assert strict.problems() == []
    packer("pull", f"{strict.address}/c/d:prod", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(model)
    # another client finds the same
    done = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{strict.address}/c/d:prod")
    assert "sha256:" in done.stdout


def test_tags_that_are_none_move_nothing(strict: StrictRegistry, model: Path, tmp_path: Path) -> None:
    built = release(model, "--to", f"oci:{tmp_path}/layout:latest")
    for place in (f"oci:{tmp_path}/layout:latest", f"{strict.address}/a/b:v1"):
        done = packer("tag", place, "a/b", check=False)
        assert (done.returncode, "not a tag" in done.stderr) == (2, True)
    assert packer("tags", f"oci:{tmp_path}/layout").stdout.split() == ["latest", "latest-modelpack"]
    # a digest of a layout is pushed, and tagged
    digest = built["image"].rpartition("@")[2]
    packer("push", f"oci:{tmp_path}/layout@{digest}", f"{strict.address}/a/b:v1")
    packer("tag", f"{strict.address}/a/b@{digest}", "v2")
    assert packer("tags", f"{strict.address}/a/b").stdout.split() == ["v1", "v2"]
    long = packer("push", f"oci:{tmp_path}/layout:latest", f"{strict.address}/a/b:{'x' * 120}", check=False)
    assert (long.returncode, "not a tag" in long.stderr) == (2, True)
    assert packer("tags", f"{strict.address}/a/b").stdout.split() == ["v1", "v2"]


def test_what_is_not_a_layout(model: Path) -> None:
    done = packer("push", model, "127.0.0.1:9/a/b", check=False)
    assert (done.returncode, "packer build" in done.stderr) == (2, True)
    done = packer("push", "absent", "127.0.0.1:9/a/b", check=False)
    assert (done.returncode, "no OCI layout" in done.stderr) == (2, True)


def test_a_copy_to_another_digest_is_refused(strict: StrictRegistry, model: Path, tmp_path: Path) -> None:
    release(model, "--to", f"oci:{tmp_path}/layout:v1")
    wrong = f"{strict.address}/a/b@sha256:{'0' * 64}"
    done = packer("push", f"oci:{tmp_path}/layout:v1", wrong, check=False)
    assert (done.returncode, "another digest" in done.stderr) == (2, True)
    assert strict.requests == []


def test_an_unchanged_model_is_published_again_without_being_read(
    strict: StrictRegistry, model: Path, cache: Path
) -> None:
    first = release(model, "--to", f"{strict.address}/a/b:v1")
    assert first["blobs_sent"]
    before = strict.uploaded()
    second = events("build", model, "--to", f"{strict.address}/a/b:v1")
    assert (second[-1]["blobs_sent"], second[-1]["changed"]) == (0, False)
    # to a second repository the layers are mounted
    third = release(model, "--to", f"{strict.address}/c/d:v1")
    assert (third["blobs_sent"], third["bytes_mounted"]) == (0, first["bytes_sent"])
    assert strict.uploaded() == before
    assert strict.blobs_read() == []
    assert (cache / "memory.db").exists()
    # a file that has changed is another layer, all others are known
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    fourth = release(model, "--to", f"{strict.address}/a/b:v1")
    assert 0 < fourth["blobs_sent"] < first["blobs_sent"]
    assert fourth["image"] != first["image"]


def test_an_artifact_is_a_source(strict: StrictRegistry, model: Path, tmp_path: Path) -> None:
    first = release(model, "--to", f"{strict.address}/a/b:v1")
    told = events("build", f"oci://{strict.address}/a/b:v1", "--to", f"{strict.address}/c/d:v1")
    (fetched,) = [event for event in told if event["event"] == "finished" and event["stage"] == "fetch"]
    digest = first["image"].rpartition("@")[2]
    assert fetched["origin"] == {"kind": "oci", "name": f"{strict.address}/a/b", "revision": digest}
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{strict.address}/c/d:v1").stdout
    annotations = json.loads(raw)["annotations"]
    assert annotations["org.opencontainers.image.source"] == f"oci://{strict.address}/a/b"
    assert annotations["org.opencontainers.image.revision"] == digest
    packer("pull", f"{strict.address}/c/d:v1", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(model)
    # what was fetched is not fetched again
    before = len(strict.blobs_read())
    release(f"oci://{strict.address}/a/b:v1", "--to", f"oci:{tmp_path}/layout:v1")
    assert len(strict.blobs_read()) == before
    # a layout is a source too
    again = release(f"oci:{tmp_path}/layout:v1", "--to", f"{strict.address}/e/f:v1")
    assert again["image"]
    # in a build file, beside which a layout lies
    (tmp_path / "packer.yaml").write_text(f"source: oci:layout:v1\npublish: {{to: '{strict.address}/g/h:v1'}}\n")
    assert release(tmp_path / "packer.yaml")["image"].rpartition("@")[2] == again["image"].rpartition("@")[2]


def test_what_skopeo_compressed_anew_is_still_the_model(registry: Server, model: Path, tmp_path: Path) -> None:
    """It drops the annotations of layers, as it does for every registry unless it is told to preserve digests."""
    flags = ("--base", "none", "--modelpack", "none", "--platform", "linux/amd64")
    release(model, "--to", f"oci:{tmp_path}/layout:v1", *flags)
    copied = f"{registry.address}/skopeo/{tmp_path.name.lower()}:v1"
    run("skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:v1", f"docker://{copied}")
    packer("pull", copied, tmp_path / "pulled")
    pulled = {path.name: path.read_bytes() for path in (tmp_path / "pulled").iterdir() if path.is_file()}
    assert pulled == {path.name: path.read_bytes() for path in model.iterdir()}
    assert (
        events("build", f"oci://{copied}", "--to", f"oci:{tmp_path}/again", "--base", "none")[-1]["event"] == "release"
    )


def test_plan(strict: StrictRegistry, model: Path) -> None:
    to = ("--to", f"{strict.address}/a/b:v1")
    before = json.loads(packer("plan", model, *to, "--json").stdout)
    size = before["unknown"]
    assert (before["read"], before["upload"], before["skip"], before["fetch"]) == (size, 0, 0, 0)
    assert size == sum(layer["bytes"] for layer in before["layers"])
    assert {layer["outcome"] for layer in before["layers"]} == {"unknown"}
    assert strict.uploaded() == 0
    release(model, *to)
    after = json.loads(packer("plan", model, *to, "--json").stdout)
    assert (after["read"], after["upload"], after["skip"], after["mount"]) == (0, 0, size, 0)
    beside = json.loads(packer("plan", model, "--to", f"{strict.address}/c/d:v1", "--json").stdout)
    assert (beside["read"], beside["mount"], beside["upload"]) == (0, size, 0)
    shown = packer("plan", model, "--to", f"{strict.address}/c/d:v1").stdout
    assert "to mount" in shown
    refused = packer("plan", model.parent / "absent", *to, check=False)
    assert refused.returncode == 2


def test_plan_of_layers_above_a_known_limit(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No registry with a limit can be had, so the table is given one."""
    script = (
        "from registry import profile; profile._TABLE = ((r'127\\.0\\.0\\.1', profile.Way.WHOLE, 2 << 20),);"
        "from packer.cli import main; import sys; main(sys.argv[1:])"
    )
    import sys

    with strict_registry() as registry:
        (model / "large.txt").write_bytes(b"x" * (3 << 20))
        done = run(sys.executable, "-c", script, "plan", model, "--to", f"{registry.address}/a/b:v1")
    assert "larger than the 2.0 MiB" in done.stdout
    assert "--max-size 1MiB" in done.stdout


def test_with_a_guarded_registry(tmp_path: Path, model: Path) -> None:
    """Podman's file, from the login of another tool."""
    (tmp_path / "htpasswd").write_text("tester:$2b$05$dsHFsFvTBwUgOgoe6JJ/6e8JE2463JkQRChlW5n74at9X.DdjWU6q\n")
    auth = f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}"
    home = {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    for folder in home.values():
        Path(folder).mkdir()
    with docker_registry(tmp_path / "registry", auth) as server:
        login = ("login", "--tls-verify=false", "-u", "tester", "--password-stdin", server.address)
        run("skopeo", *login, env=home, input="correct horse")
        assert release(model, "--to", f"{server.address}/a/b:v1", env=home)["image"]
        assert packer("tags", f"{server.address}/a/b", env=home).stdout.split() == ["v1", "v1-modelpack"]
