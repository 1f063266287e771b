"""Artifacts of every kind in a registry, and what a client makes of each, next to what `packer check` says of it.

Every artifact holds the same two files. A client got the model if these come out of it, whatever the folder is called;
where we say that nothing comes, it must end well and nothing may come.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from containers.check.clients import CLIENTS
from containers.check.verdicts import Verdict
from packer.check import Answer, check
from registry.access import Access
from registry.remote import Remote
from tests.parts.artifacts import MODEL, RAW, Made, Part, image, modelpack, push, push_index, tar, tar_layer, weight
from tests.parts.command import CONTAINERS_CONF, ROOT, release, run
from tests.parts.podman import Podman
from tests.parts.servers import docker_registry
from tests.parts.tiny import write_folder

FILES = {name.removeprefix("models/"): data for name, data in MODEL.items()}
WANTED = {hashlib.sha256(data).hexdigest() for data in FILES.values()}
RUNTIMES = ROOT / ".cache/runtimes/bin"
BUSYBOX = Path("/bin/busybox")
TITLE, FILEPATH = "org.opencontainers.image.title", "org.cncf.model.filepath"

GOT, NOTHING, FAILED = "the model", "nothing", "no model"


def base() -> Part:
    """A layer with a shell."""
    links = {f"bin/{name}": "busybox" for name in ("sh", "ln", "sleep", "ls", "mkdir", "find", "sha256sum", "cat")}
    return tar_layer({"bin/busybox": BUSYBOX.read_bytes(), **links}, mode=0o755)


def titled(form: str = "") -> tuple[Part, ...]:
    """Raw layers with a title alone, in a folder or not."""
    return tuple(part.annotated(**{TITLE: form + part.annotations[TITLE]}) for part in RAW)


def made_by_hand() -> dict[str, Made]:
    """Right ones, and such that are wrong in one way."""
    car = image(base(), tar_layer())
    twice = Part("application/vnd.oci.image.layer.v1.tar", tar(MODEL)[: 3 * 512] + tar(MODEL))
    half = image(base(), tar_layer({"models/config.json": FILES["config.json"]}))
    wrong = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}}
    return {
        "car": car,
        "gzip": image(base(), tar_layer(packed="gzip")),
        "zstd": image(base(), tar_layer(packed="zstd")),
        "typed": car.but(artifact_type="application/x"),
        "short-history": image(base(), tar_layer(), history=[{"created_by": "by hand"}]),
        "long-history": image(base(), tar_layer(), history=[{"created_by": "by hand"}] * 3),
        "no-shell": image(),
        "entrypoint": image(base(), tar_layer(), config={"Entrypoint": ["/bin/ls"]}),
        "closed": image(base(), tar_layer(mode=0o600)),
        "elsewhere": image(base(), tar_layer({f"weights/{name}": data for name, data in FILES.items()})),
        "dot-slash": image(base(), tar_layer({f"./{name}": data for name, data in MODEL.items()})),
        "hard-link": image(base(), tar_layer({**MODEL, "models/link": "=models/config.json"})),
        "soft-link": image(base(), tar_layer({**MODEL, "models/link": "config.json"})),
        "far-link": image(base(), tar_layer({**MODEL, "models/link": "/models/config.json"})),
        "twice": image(base(), twice),
        "no-diff-ids": image(base(), tar_layer(), rootfs={"type": "layers", "diff_ids": []}),
        "wrong-diff-id": image(tar_layer(), **wrong),
        "raw-layer": half.but(layers=(*half.layers, weight("model.safetensors", FILES["model.safetensors"]))),
        "oci-layers": image().but(config_type="application/vnd.oci.empty.v1+json", config=b"{}"),
        "modelpack": modelpack(),
        "raw": modelpack(
            weight("config.json", FILES["config.json"]), weight("model.safetensors", FILES["model.safetensors"])
        ),
        "folders": modelpack(*(weight(f"a/{name}", data) for name, data in FILES.items())),
        "untitled": modelpack(*(weight(name, data).annotated(**{FILEPATH: name}) for name, data in FILES.items())),
        "half-titled": modelpack(
            weight("config.json", FILES["config.json"]),
            weight("b", FILES["model.safetensors"]).annotated(**{FILEPATH: "b"}),
        ),
        "one-name": modelpack(*(weight("a", data) for data in FILES.values())),
        "escaping": modelpack(*(weight(f"../{name}", data) for name, data in FILES.items())),
    }


def indexes() -> dict[str, tuple[list[tuple[Made, str]], dict[str, Any]]]:
    car = image(base(), tar_layer())
    raw = made_by_hand()["raw"]
    return {
        "index": ([(car, "linux/amd64")], {}),
        "index-untyped": ([(car, "linux/amd64")], {"media_type": ""}),
        "index-nameless": ([(car, "")], {}),
        "index-windows": ([(car, "windows/amd64")], {}),
        "index-of-artifacts": ([(raw, "linux/amd64")], {}),
        "index-of-both": ([(car, "linux/amd64"), (raw, "unknown/unknown")], {}),
    }


@dataclass(frozen=True)
class Ground:
    """A registry with the artifacts, by name."""

    names: tuple[str, ...]
    repository: str
    folder: Path

    def reference(self, name: str) -> str:
        return f"{self.repository}:{name}"


@contextlib.contextmanager
def prepared(folder: Path, clients: Path) -> Iterator[Ground]:
    """A registry with all of it, made by us, by hand and by others, in a folder."""
    model = write_folder(folder / "model", FILES)
    with docker_registry(folder / "registry") as server:
        repository = f"{server.address}/check/model"
        store = Remote(server.address, "check/model", Access(), plain_http=True)
        for name, made in made_by_hand().items():
            push(store, made, name)
        for name, (children, more) in indexes().items():
            push_index(store, children, name, **more)
        push(store, image(base()), "runner")
        # olot refuses a base whose history does not name its layers
        push_index(store, [(image(base(), history=[{"created_by": "by hand"}]), "linux/amd64")], "runners")
        _ours(model, repository, clients)
        _theirs(model, repository, folder, clients)
        yield Ground(tuple(tag for tag in store.tags() if not tag.startswith("runner")), repository, folder)


def _ours(model: Path, repository: str, clients: Path) -> None:
    release(model, "--to", f"{repository}:packer")
    release(model, "--to", f"{repository}:packer-raw", "--modelpack", "raw")
    release(model, "--to", f"{repository}:packer-none", "--base", "none", "--modelpack", "none")
    layout = next((clients / "modelcar").glob("lib/python*/site-packages/modelcar_base_image/embedded_oci_layout"))
    release(model, "--to", f"{repository}:packer-on-theirs", "--base", f"oci:{layout}", "--modelpack", "none")


def _theirs(model: Path, repository: str, folder: Path, clients: Path) -> None:
    _olot(model, repository, folder, clients)
    _buildah(model, repository, folder)
    oras = ROOT / ".cache/oci11/oras"
    run(oras, "push", "--plain-http", f"{repository}:oras", *FILES, cwd=model)
    script = """
import sys, modelpack_client as m
client, model = m.ModelPackClient(insecure=True), sys.argv[2]
layers = [m.ModelLayer(f"{model}/{name}", artifact_path=name) for name in sys.argv[3:]]
config = m.ModelTechnicalConfig(format="safetensors", param_size="1m")
client.push(sys.argv[1], layers, m.ModelPackConfig(config=config))
"""
    run(clients / "modelpack/bin/python", "-c", script, f"{repository}:modelpack-client", model, *FILES)


def _olot(model: Path, repository: str, folder: Path, clients: Path) -> None:
    """olot puts a layer for each file on top of the images of a layout."""
    for name, flags in (("olot", ()), ("olot-modelpack", ("--add-modelpack",))):
        layout = folder / name
        run(
            "skopeo",
            "copy",
            "--all",
            "--src-tls-verify=false",
            f"docker://{repository}:runners",
            f"oci:{layout}:latest",
        )
        run(clients / "olot/bin/olot", *flags, layout, *(model / name for name in FILES))
        run(
            "skopeo",
            "copy",
            "--all",
            "--dest-tls-verify=false",
            f"oci:{layout}:latest",
            f"docker://{repository}:{name}",
        )


def _buildah(model: Path, repository: str, folder: Path) -> None:
    environment = {"CONTAINERS_CONF": str(CONTAINERS_CONF)}
    buildah = ("buildah", "--root", folder / "bud", "--runroot", folder / "run", "--storage-driver", "vfs")
    container = run(*buildah, "from", "scratch", env=environment).stdout.strip()
    run(*buildah, "copy", container, model, "/models", env=environment)
    for name, flags in (
        ("buildah", ()),
        ("buildah-docker", ("--format", "docker")),
        ("buildah-plain", ("--disable-compression",)),
    ):
        target = f"docker://{repository}:{name}"
        run(*buildah, "commit", "--tls-verify=false", *flags, container, target, env=environment)
    run(*buildah, "rm", container, env=environment)


@cache
def answer(reference: str) -> Answer:
    """What is said of an artifact, for all clients."""
    return check(reference, list(CLIENTS), Access())


def said(reference: str, client: str) -> Verdict:
    return next(verdict for verdict in answer(reference).verdicts if verdict.client == client)


Ask = Callable[[str], str]
"""What becomes of the artifact of that name."""


def judged(folder: Path, *, unpacked: bool = False) -> str:
    """What came, if the client said that all is well; with `unpacked`, when tars among it are unpacked."""
    for path in [path for path in folder.rglob("*") if unpacked and path.is_file() and tarfile.is_tarfile(path)]:
        run("tar", "-xf", path, "-C", folder)
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}
    return GOT if found >= WANTED else FAILED if found else NOTHING


def disagreements(ground: Ground, client: str, ask: Ask, names: tuple[str, ...] = ()) -> dict[str, str]:
    """The artifacts of which we say one thing, and the client does another."""
    found = {}
    for name in names or ground.names:
        verdict = said(ground.reference(name), client)
        outcome = verdict.outcome
        asked = name if outcome.is_bad or not verdict.instead else verdict.instead.rpartition(":")[2]
        really = ask(asked)
        expected = {"fails": (FAILED,), "empty": (NOTHING,)}.get(outcome.value, (GOT,))
        if outcome.value == "fails" and really == NOTHING:
            really = FAILED  # an error, or a file too few
        if really not in expected:
            found[name] = f"{outcome.value} {[each.rule.id for each in verdict.findings]}, but {really}"
    return found


def sums(printed: str) -> str:
    """What `HASH` found."""
    found = {line.split()[0] for line in printed.splitlines() if line}
    return GOT if found >= WANTED else FAILED if found else NOTHING


HASH = 'cd "$0" && find . -type f -exec sha256sum {} +'


Command = Callable[..., subprocess.CompletedProcess[str]]


@contextlib.contextmanager
def podman_of_artifacts(ground: Ground) -> Iterator[Command]:
    """A podman that mounts artifacts, with storage of its own and an image with a shell."""
    with tempfile.TemporaryDirectory(prefix="podman-") as folder:
        environment = {
            "CONTAINERS_CONF": str(CONTAINERS_CONF),
            "CONTAINERS_CONF_OVERRIDE": str(ROOT / ".cache/podman5/containers.conf"),  # where its network helper is
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        }

        def podman(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
            where = ("--root", f"{folder}/root", "--runroot", f"{folder}/run")
            return run(RUNTIMES / "podman", *where, *arguments, env=environment, check=False)

        try:
            assert podman("pull", "--tls-verify=false", ground.reference("runner")).returncode == 0
            yield podman
        finally:
            podman("rmi", "--all", "--force")
            run("umount", f"{folder}/root/overlay", check=False)


def by_podman(ground: Ground, podman: Command) -> Ask:
    """An image by its image mount, and what podman takes for no image by its artifact mount."""

    def ask(name: str) -> str:
        reference, kind = ground.reference(name), "image"
        pulled = podman("pull", "--quiet", "--tls-verify=false", reference)
        if pulled.returncode and "on artifact" in pulled.stderr:
            kind = "artifact"
            pulled = podman("artifact", "pull", "--quiet", "--tls-verify=false", reference)
        if pulled.returncode:
            return FAILED
        mount = f"type={kind},source={reference},destination=/mnt"
        done = podman("run", "--rm", "--mount", mount, ground.reference("runner"), "/bin/sh", "-c", HASH, "/mnt")
        return FAILED if done.returncode or "/sha256-" in done.stdout else sums(done.stdout)

    return ask


def by_modelcar(ground: Ground, podman: Podman) -> Ask:
    """KServe's init container with the arguments that it has, and then its sidecar's view, as the user that it sets."""
    init = '[ -d /models ] && [ "$(ls -A /models)" ] || exit 1'

    def ask(name: str) -> str:
        reference = ground.reference(name)
        try:
            podman("pull", "--quiet", "--tls-verify=false", reference)
            podman("run", "--rm", "--user", "1010", reference, "sh", "-c", init)
            shown = podman("run", "--rm", "--user", "1010", reference, "sh", "-c", HASH, "/models")
        except AssertionError:
            return FAILED
        return sums(shown)

    return ask
