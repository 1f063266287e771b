"""What `packer check` says of an artifact is what the client makes of it: the clients themselves decide.

podman and the modelcar are asked about a few artifacts here, and about all of them by `make test-slow`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packer.check import check
from registry.access import Access
from registry.manifest import encode
from tests.consume.test_consume import KSERVE
from tests.parts.command import ROOT, run
from tests.parts.ground import (
    FAILED,
    RUNTIMES,
    Ask,
    Command,
    Ground,
    by_modelcar,
    by_podman,
    disagreements,
    judged,
    podman_of_artifacts,
    prepared,
)
from tests.parts.podman import Podman
from tests.parts.servers import end


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, clients: Path) -> Iterator[Ground]:
    with prepared(tmp_path_factory.mktemp("check"), clients) as found:
        yield found


def ctr(socket: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return run(RUNTIMES / "ctr", "-a", socket, *arguments, **options)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a containerd of version 2, which has image volumes."""
    folder = tmp_path_factory.mktemp("containerd2")
    config, socket = folder / "config.toml", folder / "socket"
    disabled = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
    config.write_text(f"version = 3\nroot = '{folder}/root'\nstate = '{folder}/state'\ndisabled_plugins = {disabled}\n")
    command = [RUNTIMES / "containerd", "--config", config, "--address", socket]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
    try:
        for _ in range(300):
            if ctr(str(socket), "version", check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise AssertionError((folder / "log").read_text())
        yield str(socket)
    finally:
        end(process)


@contextlib.contextmanager
def mounted(socket: str, reference: str, folder: Path) -> Iterator[bool]:
    """The image in a folder, as containerd's image volumes have it; False if it cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    pulled = ctr(socket, "images", "pull", "--plain-http", reference, check=False).returncode == 0
    if not pulled or ctr(socket, "images", "mount", reference, folder, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        ctr(socket, "images", "unmount", folder)


def test_containerd(ground: Ground, containerd: str, tmp_path: Path) -> None:
    def ask(name: str) -> str:
        with mounted(containerd, ground.reference(name), tmp_path / name) as is_there:
            return judged(tmp_path / name) if is_there else FAILED

    assert disagreements(ground, "containerd", ask) == {}


def test_kserve_native(ground: Ground, containerd: str, tmp_path: Path) -> None:
    """The kubelet gives containerd the folder of subPath, and ends with an error if it is not there."""

    def ask(name: str) -> str:
        with mounted(containerd, ground.reference(name), tmp_path / name) as is_there:
            return judged(tmp_path / name / "models") if is_there and (tmp_path / name / "models").is_dir() else FAILED

    assert disagreements(ground, "kserve-native", ask) == {}


@pytest.fixture(scope="module")
def podman5(ground: Ground) -> Iterator[Command]:
    with podman_of_artifacts(ground) as found:
        yield found


def test_podman(ground: Ground, podman5: Command) -> None:
    names = ("car", "wrong-diff-id", "modelpack", "raw", "untitled", "index-windows", "olot")
    assert disagreements(ground, "podman", by_podman(ground, podman5), names) == {}


def test_podman_4_has_no_artifacts_and_compares_no_diff_ids(ground: Ground, podman: Podman) -> None:
    """What the rules say of the older one, where it differs."""
    podman.pull(ground.reference("wrong-diff-id"))
    for name in ("raw", "modelpack", "oras"):
        with pytest.raises(AssertionError, match="unsupported image-specific operation on artifact"):
            podman.pull(ground.reference(name))


def test_kserve_modelcar(ground: Ground, podman: Podman) -> None:
    names = ("no-shell", "closed", "packer")
    assert disagreements(ground, "kserve", by_modelcar(ground, podman), names) == {}


def pulled(python: Path | str, call: str, ground: Ground, folder: Path, names: tuple[str, ...]) -> Ask:
    """What a client written in Python makes of each, all in one process: `call` has `reference` and `folder`."""
    script = f"""
import os, sys
for name in sys.argv[3:]:
    reference, folder = f"{{sys.argv[1]}}:{{name}}", f"{{sys.argv[2]}}/{{name}}"
    os.makedirs(folder)
    try:
        {call}
    except Exception as error:
        open(folder + ".error", "w").write(repr(error))
"""
    environment = {"KSERVE_OCI_INSECURE_REGISTRY": "1", "PYTHONPATH": ""}
    run(python, "-c", script, ground.repository, folder, *names, env=environment)
    return lambda name: FAILED if (folder / f"{name}.error").exists() else judged(folder / name)


def test_kserve_fetch(ground: Ground, clients: Path, tmp_path: Path) -> None:
    helper = tmp_path / "start.py"
    helper.write_text(KSERVE.replace("Storage.download(*sys.argv[1:])", ""))
    call = f"exec(open({str(helper)!r}).read()); Storage.download('oci://' + reference, folder)"
    ask = pulled(clients / "kserve/bin/python", call, ground, tmp_path, ground.names)
    assert disagreements(ground, "kserve-fetch", ask) == {}


def test_oras(ground: Ground, tmp_path: Path) -> None:
    def ask(name: str) -> str:
        command = (
            ROOT / ".cache/oci11/oras",
            "pull",
            "--plain-http",
            "--output",
            tmp_path / name,
            ground.reference(name),
        )
        (tmp_path / name).mkdir(exist_ok=True)
        return judged(tmp_path / name, unpacked=True) if run(*command, check=False).returncode == 0 else FAILED

    assert disagreements(ground, "oras", ask) == {}


def test_oras_py_takes_what_oras_takes(ground: Ground, tmp_path: Path) -> None:
    """The other ORAS client, of manifests: it follows no index, and has names for layers without one."""
    names = ("raw", "oras", "folders", "escaping")
    call = "import oras.client; oras.client.OrasClient(insecure=True).pull(target=reference, outdir=folder)"
    assert disagreements(ground, "oras", pulled(sys.executable, call, ground, tmp_path, names), names) == {}


def test_a_reader_of_modelpack_agrees_with_what_is_said_of_kitops(
    ground: Ground, clients: Path, tmp_path: Path
) -> None:
    """KitOps is not to be had; modelpack-client, which somebody else wrote, keeps the same specification."""
    ours = ("packer", "packer-modelpack", "packer-raw", "packer-raw-modelpack", "modelpack", "raw", "folders", "car")
    names = (*ours, "index-of-both", "olot-modelpack", "oras", "escaping", "modelpack-client")
    call = "import modelpack_client; modelpack_client.ModelPackClient(insecure=True).pull(reference, folder)"
    ask = pulled(clients / "modelpack/bin/python", call, ground, tmp_path, names)
    assert disagreements(ground, "kitops", ask, names) == {}


def test_skopeo_makes_an_artifact_of_an_image_no_image(ground: Ground, tmp_path: Path) -> None:
    """A copy is judged as the original is: of an index copied by platform, the one image that was taken."""
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{ground.reference('packer')}", f"oci:{tmp_path}/copy:v1")
    answer = check(f"oci:{tmp_path}/copy:v1", ["containerd", "kserve", "kserve-fetch", "podman"], Access())
    assert answer.exit_code == 0
    assert encode(answer.to_json())
