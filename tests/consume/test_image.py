"""packer's image: built from the repository, and at work as users without rights, on a root that is read-only."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parts.command import ROOT, packer, release, run
from tests.parts.image import Packer, context
from tests.parts.models import digests
from tests.parts.podman import housed
from tests.parts.servers import Server, reserved_port
from tests.parts.small import cut_short

USER = "1000770000:0"
"""As OpenShift makes users up, whom nobody has entered anywhere. The page's commands are run by the image's own."""


@pytest.fixture(scope="module")
def image() -> Iterator[Packer]:
    with housed(Packer, "image-") as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that everybody may read."""
    folder = cut_short(tmp_path_factory.mktemp("model") / "small")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def test_whole_build(image: Packer, model: Path, registry: Server, tmp_path: Path) -> None:
    """The default base is there too, and the digests are those that this machine makes."""
    reference = f"{registry.address}/image/whole:v1"
    said = image("build", "/model", "--to", reference, "--json", user=USER, mounts={model: "/model:ro"}, cache=True)
    told = json.loads(said.splitlines()[-1])
    assert told["event"] == "release" and told["base"]["name"] == "busybox"
    ours = release(model, "--to", f"oci:{tmp_path / 'ours'}:v1", "--base", "none")
    flags = ("--to", reference, "--base", "none", "--json")
    same = image("build", "/model", *flags, user=USER, mounts={model: "/model:ro"})
    assert json.loads(same.splitlines()[-1])["image"].partition("@")[2] == ours["image"].partition("@")[2]
    packer("pull", told["image"], tmp_path / "out")
    assert digests(tmp_path / "out") == digests(model)


def test_nothing_can_be_written_but_the_cache(image: Packer) -> None:
    script = "import os, sys; print([os.access(place, os.W_OK) for place in sys.argv[1:]])"
    places = ("/", "/opt/packer/bin", "/usr/bin", "/work", "/cache", "/tmp")
    said = image("-c", script, *places, flags=("--entrypoint=/opt/packer/bin/python",), cache=True)
    assert said.strip() == "[False, False, False, False, True, True]"


def test_what_the_image_says_of_itself(image: Packer) -> None:
    found = json.loads(image.podman("inspect", image.id))[0]
    config = found["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["packer"]
    labels = {"title": "packer", "licenses": "Apache-2.0", "version": "1.2.3", "revision": "unknown"}
    assert {name: config["Labels"][f"org.opencontainers.image.{name}"] for name in labels} == labels
    assert image("--version") == packer("--version").stdout


def test_nothing_of_the_build_is_left_in_the_image(image: Packer) -> None:
    """No settings of pip's, no pip, nothing in the folder that the wheels lay in."""
    script = "import os; print([os.path.exists(p) for p in ('/etc/pip.conf', '/src', '/opt/pip')], os.listdir('/mnt'))"
    said = image("-c", script, flags=("--entrypoint=/opt/packer/bin/python",))
    assert said.strip() == "[False, False, False] []"
    history = image.podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.id)
    assert "ENTRYPOINT" in history
    assert "find-links" not in history


def test_packer_itself_takes_as_much_as_the_page_says(image: Packer) -> None:
    """docs/container.md says how much lies on top of the base."""
    script = "import pathlib; print(sum(p.lstat().st_blocks for p in pathlib.Path('/opt').rglob('*')) >> 11)"
    size = int(image("-c", script, flags=("--entrypoint=/opt/packer/bin/python",)))
    said = re.search(r"(\d+) MiB on top of its base", (ROOT / "docs/container.md").read_text())
    assert said and 0.9 < size / int(said[1]) < 1.1, size


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A listener's place: a double, since only its answer counts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/healthz"
    finally:
        server.shutdown()
        server.server_close()


def test_health_check(image: Packer) -> None:
    """The image's own check, run by podman in a container: well, ill, and nobody who could be."""
    with answering(200) as well, answering(503) as ill, reserved_port() as port:
        nobody = f"http://127.0.0.1:{port}/healthz"
        assert image.is_healthy(well)
        assert not image.is_healthy(ill)
        assert image.is_healthy(nobody)


def test_health_of_a_listener_that_hangs() -> None:
    """One that takes connections and never answers is ill."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/healthz"
        done = packer("health", "--url", url, check=False)
    assert done.returncode == 1
    assert "timed out" in done.stderr


def test_containerfile_is_clean_under_hadolint(clients: Path, tmp_path: Path) -> None:
    hadolint = clients / "hadolint/bin/hadolint"
    run(hadolint, ROOT / "Containerfile")
    worse = context(tmp_path / "worse") / "Containerfile"
    worse.write_text(worse.read_text().replace("USER 65532:65532", "RUN apt-get install curl\nUSER root"))
    done = run(hadolint, worse, check=False)
    assert done.returncode
    assert {"DL3008", "DL3002"} <= set(re.findall(r"DL\d+", done.stdout))


# ---------------------------------------------------------------- docs/container.md

PAGE = [line.strip() for line in (ROOT / "docs/container.md").read_text().splitlines() if line.startswith("    ")]
"""The commands of the page."""


def test_every_command_of_the_page_is_run() -> None:
    """The first two in the slow tests."""
    assert [line.split()[0] for line in PAGE] == ["buildah", "buildah", "podman"]


def test_the_page_runs_it(image: Packer, model: Path, registry: Server) -> None:
    """With a volume by name, which the user of the image may write to; the second time from its cache."""
    words = PAGE[2].replace("registry.example.com", registry.address).replace("./SmolLM2", str(model)).split()
    at = words.index("packer")
    assert words[:2] == ["podman", "run"]
    for _ in range(2):
        said = image.podman("run", "--no-healthcheck", *words[2:at], image.id, *words[at + 1 :])
    assert f"image      {registry.address}/models/smollm2:v1" in said
    assert image.podman("volume", "ls", "--quiet").split() == ["packer-cache"]
