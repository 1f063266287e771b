"""From a push to a release: a real registry that tells the listener, skopeo that pushes, podman that mounts."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.command import packer, release, run
from tests.parts.hub import StrictHub, strict_hub
from tests.parts.place import Place
from tests.parts.podman import Podman
from tests.parts.servers import docker_registry, reserved_port
from tests.parts.serving import HUB_SECRET, Listener, listener, notifying


def pushed(place: Place, model: Path, to: str) -> None:
    """Have skopeo push a model as an artifact."""
    layout = place.folder / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    flags = ("--base", "none", "--modelpack", "none", "--platform", "linux/amd64")
    release(model, "--to", f"oci:{layout}:v1", *flags)
    copy = ("skopeo", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false")
    run(*copy, f"oci:{layout}:v1", f"docker://{place.host}/{to}")


def settled(found: Listener, released: int) -> None:
    """Wait until nothing is to be done any more, and there are so many releases."""
    found.until(lambda: len(found.runs("released")) >= released and found.is_still(), f"{released} releases")
    assert len(found.runs("released")) == released
    assert not found.runs("failed") + found.runs("refused") + found.runs("interrupted")


def mounted(podman: Podman, reference: str, name: str) -> bytes:
    """A file of the model, as it is in an image that podman mounts."""
    podman.pull(reference)
    path = Path(podman("image", "mount", reference).strip())
    return (path / "models" / name).read_bytes()


def test_a_push_becomes_a_release_and_nothing_else_does(tmp_path: Path, podman: Podman) -> None:
    with (
        reserved_port() as port,
        docker_registry(tmp_path / "registry", notifying(port)) as registry,
        (found := listener(tmp_path, port)).process() as process,
    ):
        place = Place(tmp_path, registry.address)
        settled(found, 1)
        made = f"{place.host}/made:v1"
        assert mounted(podman, made, "config.json") == (place.model / "config.json").read_bytes()

        (place.model / "README.md").write_text("# Another\n")
        pushed(place, place.model, "source:main")
        settled(found, 2)
        assert mounted(podman, made, "README.md") == b"# Another\n"
        second = found.runs("released")[-1]
        assert [change.partition(":")[0] for change in second["changed"]] == ["source"]
        digest = json.loads(packer("inspect", made, "--json").stdout)["digest"]
        assert second["variants"][0]["image"] == f"{place.host}/made@{digest}"

        runs = len(found.all("runs"))
        pushed(place, place.model, "source:main")
        found.until(lambda: len(found.all("runs")) > runs and found.is_still(), "the same again is looked at")
        settled(found, 2)
        assert found.all("runs")[0]["state"] == "unchanged"

        place.push_base()
        settled(found, 3)
        third = found.runs("released")[-1]
        assert [change.partition(":")[0] for change in third["changed"]] == ["base"]
        log = found.get(f"/runs/{third['id']}").decode()
        sent = json.loads(
            next(line for line in logged(found, third["id"]) if '"publish"' in line and "finished" in line)
        )
        assert sent["blobs_sent"] <= 2 and sent["blobs_present"] > 0 and "base" in log

        own = [event for event in found.all("events") if event["state"] == "own"]
        assert {change["reference"].partition("/")[2] for event in own for change in event["changes"]} == {
            f"{place.host.partition('/')[2]}/made:{tag}" for tag in ("v1", "v1-modelpack")
        }
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def logged(found: Listener, number: int) -> list[str]:
    """The log of a run."""
    return (found.config.parent / f"packer-state/runs/{number}.log").read_text().splitlines()


@pytest.fixture
def hub() -> StrictHub:
    return StrictHub({})


@pytest.fixture
def hub_url(hub: StrictHub, tmp_path: Path) -> Iterator[str]:
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    hub.files.update({path.name: path.read_bytes() for path in model.iterdir()})
    with strict_hub(hub) as url:
        yield url


def call(found: Listener, hub: StrictHub, secret: str = HUB_SECRET) -> int:
    """Tell the listener of the hub's commit, as the Hub does; the status of its answer."""
    body = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": "acme/tiny", "id": "1", "private": False, "headSha": hub.commit},
        "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "0" * 40, "newSha": hub.commit}],
        "webhook": {"id": "1", "version": 3},
    }
    request = urllib.request.Request(f"http://{found.address}/hooks/hf", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    request.add_header("X-Webhook-Secret", secret)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)


def test_a_commit_on_the_hub_becomes_a_release(hub: StrictHub, hub_url: str, tmp_path: Path) -> None:
    file = tmp_path / "tiny/packer.yaml"
    file.parent.mkdir()
    file.write_text(json.dumps({"source": "hf://acme/tiny", "publish": {"to": "oci:./out:v1", "base": "none"}}))
    environment = {"HF_ENDPOINT": hub_url, "HF_HOME": str(tmp_path / "hf")}
    with reserved_port() as port, (found := listener(tmp_path, port, environment)).running():
        settled(found, 1)
        hub.commit = "6" * 40
        assert call(found, hub) == 202
        found.until(lambda: len(found.all("runs")) == 2 and found.is_still(), "the commit is looked at")
        assert found.all("runs")[0]["state"] == "unchanged", "a commit without another file"
        hub.files["README.md"] = b"# Another\n"
        assert call(found, hub, "wrong") == 401
        hub.commit = "7" * 40
        assert call(found, hub) == 202
        settled(found, 2)
    shown = packer("events", "list", "--config", found.config).stdout
    assert "acme/tiny@main" in shown and "run 3" in shown
    detail = packer("events", "show", "--config", found.config, str(found_number(found))).stdout
    assert "released" in detail and "source" in detail
    secrets = (HUB_SECRET, "Bearer")
    assert not any(secret in found.config.with_name("serve.log").read_text() for secret in secrets)


def found_number(found: Listener) -> int:
    lines = [
        json.loads(line) for line in packer("events", "list", "--config", found.config, "--json").stdout.splitlines()
    ]
    return int(lines[0]["id"])
