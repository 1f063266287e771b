"""podman with storage of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from tests.parts.command import CONTAINERS_CONF, run

HASH = "cd /mnt/models/ && find . -type f -exec sha256sum {} +"
"""Prints the digest of every file that the container sees in its model."""


def parse_hashes(text: str) -> dict[str, str]:
    """The output of `HASH` as path to digest."""
    return {path.removeprefix("./"): digest for digest, path in (line.split(maxsplit=1) for line in text.splitlines())}


class Tidy(Protocol):
    """What leaves something that has to be cleaned up."""

    def clean(self) -> None:
        """Leave nothing."""


T = TypeVar("T", bound=Tidy)


@contextmanager
def housed(kind: Callable[[Path], T], prefix: str) -> Iterator[T]:
    """One in a folder of its own, not below the other temporary files: their path may be too long for podman."""
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        made = kind(Path(folder))
        try:
            yield made
        finally:
            made.clean()


class Podman:
    """A podman whose images and containers are below one folder; podman refuses a path of more than 50 characters."""

    def __init__(self, folder: Path, *more: str) -> None:
        self._folder = folder
        self._folders = ("--root", str(folder / "root"), "--runroot", str(folder / "run"), *more)

    def __call__(self, *arguments: str | Path, **options: Any) -> str:
        """What podman prints."""
        return self.run(*arguments, **options).stdout

    def run(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """How podman ends."""
        environment = {"CONTAINERS_CONF": str(CONTAINERS_CONF)}
        return run("podman", *self._folders, *arguments, env=environment, **options)

    def pull(self, reference: str) -> None:
        """Pull from a registry without TLS."""
        self("pull", "--quiet", "--tls-verify=false", reference)

    def play(self, pod: dict[str, Any], container: str) -> str:
        """Run a pod until `container` ends, and return what it printed."""
        path = self._folder / "pod.yaml"
        path.write_text(yaml.safe_dump(pod))
        name = f"{pod['metadata']['name']}-{container}"
        self("kube", "play", path)
        try:
            deadline = time.monotonic() + 60
            while self._state(name) not in ("exited", "stopped"):
                assert time.monotonic() < deadline, self("logs", name)
                time.sleep(0.2)
            return self("logs", name)
        finally:
            self("kube", "down", path)

    def _state(self, name: str) -> str:
        return str(json.loads(self("inspect", name))[0]["State"]["Status"])

    def clean(self) -> None:
        """Remove everything."""
        self("pod", "rm", "--all", "--force", "--time", "0")
        self("rm", "--all", "--force", "--time", "0")
        self("rmi", "--all", "--force")
