"""podman 5, which `scripts/podman5.sh` fetches, and what it plays: documents as they are."""

from __future__ import annotations

import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from tests.parts.command import CONTAINERS_CONF, ROOT, run

FOLDER = ROOT / ".cache" / "podman5"
UP = 120.0
"""Seconds that a server may take to have read its model."""


class Podman5:
    """podman 5 whose images and containers are below one folder of at most 50 characters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folders = ("--root", str(folder / "root"), "--runroot", str(folder / "run"))

    def __call__(self, *arguments: str | Path) -> str:
        """What podman prints."""
        return self._run(*arguments).stdout

    def succeeds(self, *arguments: str | Path) -> bool:
        """Whether podman ends with 0."""
        return self._run(*arguments, check=False).returncode == 0

    def _run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            "CONTAINERS_CONF": str(CONTAINERS_CONF),
            "CONTAINERS_CONF_OVERRIDE": str(FOLDER / "containers.conf"),
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        }
        return run(FOLDER / "bin/podman", *self._folders, *arguments, env=environment, check=check)

    def pull(self, reference: str) -> None:
        """Pull from a registry without TLS."""
        self("pull", "--quiet", "--tls-verify=false", reference)

    @contextmanager
    def playing(self, path: Path) -> Iterator[None]:
        """The objects in a file, which are gone after the block."""
        try:
            self("kube", "play", "--network=host", path)
            yield
        finally:
            self("kube", "down", "--force", path)

    def logs(self) -> str:
        """What every container said."""
        names = self("ps", "--all", "--format", "{{.Names}}").split()
        return "\n".join(f"{name}: {self._run('logs', '--tail=20', name, check=False)}" for name in names)

    def health(self, port: int, path: str = "/health") -> str:
        """What a server on loopback answers as soon as it does."""
        deadline = time.monotonic() + UP
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                    return str(answer.read().decode())
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError(f"nothing answered\n{self.logs()}")

    def clean(self) -> None:
        """Remove everything."""
        self("pod", "rm", "--all", "--force", "--time", "0")
        self("rm", "--all", "--force", "--time", "0")
        self("volume", "rm", "--all", "--force")
        self("rmi", "--all", "--force")


SERVER = "localhost/runtime:v1"
"""The image that `import_server` makes."""

_SCRIPT = """\
#!/bin/sh
set -eu
before= model= port=
for word in "$@"; do
    case $before in
    --port) port=$word ;;
    --model) model=${word%/*} ;;
    serve) model=$word ;;
    esac
    case $word in
    --port=*|--http-port=*) port=${word#*=} ;;
    --model-path=*) model=${word#*=} ;;
    --model-repository=*) model=$(echo "${word#*=}"/*/1) ;;
    esac
    before=$word
done
site=$HOME/site
mkdir -p "$site/v2/health"
cd "$model/"
find . -type f ! -name .ready -exec sha256sum {} + > "$site/files"
{
    id -u
    echo "offline ${HF_HUB_OFFLINE:-}"
    for place in / "$model/" /tmp/ "$HOME/"; do
        (touch "$place.probe") 2>/dev/null && echo "writes $place"
    done
    echo "as $*"
} > "$site/facts" || true
cp "$site/files" "$site/health"
cp "$site/files" "$site/v2/health/ready"
trap 'exit 0' TERM
busybox httpd -f -p "127.0.0.1:$port" -h "$site" &
wait
"""


def import_server(podman: Podman5) -> None:
    """Make the image that stands for every runtime: no test machine has the real ones, which are gigabytes.

    It has no /mnt, whose owner podman would give to a volume there. Under the names of runtimes it reads each byte of
    the model, and then serves on loopback: at the path of its health the digest of every file, at /facts who it is, how
    it was called, and where it can write.
    """
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("bin", "app", "tmp", "proc", "sys", "dev", "etc", "run"):
            _add(tar, name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755)
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "id", "find", "sha256sum", "mkdir", "cp", "touch", "sleep"):
            _add(tar, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        for program in ("bin/vllm", "bin/python3", "bin/tritonserver", "app/llama-server"):
            _add(tar, program, tarfile.REGTYPE, 0o755, data=_SCRIPT.encode())
    archive = podman.folder / "server.tar"
    archive.write_bytes(packed.getvalue())
    podman("import", "--quiet", "--change", "ENV PATH=/bin", archive, SERVER)
    archive.unlink()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, *, link: str = "", data: bytes = b"") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, link, len(data)
    tar.addfile(member, BytesIO(data))
