"""A containerd of our own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.parts.command import run
from tests.parts.servers import end


@contextlib.contextmanager
def containerd(folder: Path) -> Iterator[str]:
    """The socket of a containerd that keeps everything in `folder`."""
    socket, config = folder / "socket", folder / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    places = ("--config", config, "--root", folder / "root", "--state", folder / "state", "--address", socket)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", *map(str, places)], stdout=log, stderr=log)
    try:
        _await(socket, process, folder / "log")
        yield str(socket)
    finally:
        end(process)


def _await(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(AssertionError):
            run("ctr", "-a", socket, "version")
            return
        time.sleep(0.1)
    raise AssertionError(f"containerd never answered\n{log.read_text()}")


@contextlib.contextmanager
def mounted(socket: str, reference: str, target: Path) -> Iterator[Path]:
    """The image, pulled from a registry without TLS and mounted at `target`."""
    run("ctr", "-a", socket, "images", "pull", "--plain-http", reference)
    run("ctr", "-a", socket, "images", "mount", reference, target)
    try:
        yield target
    finally:
        run("ctr", "-a", socket, "images", "unmount", target)
