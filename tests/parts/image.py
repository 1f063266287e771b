"""packer in an image, built by buildah from the repository's Containerfile.

The base is a Debian that `scripts/base.sh` makes; it also stands for the image that busybox comes from. The build has
no network: what pip needs lies in a folder, which this machine's own pip fills, however it is configured. Layers are
kept, so that a change of the code builds one of them anew, and several processes build one after another.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parts.command import CONTAINERS_CONF, ROOT, run
from tests.parts.podman import Podman

PLACE = ROOT / ".cache" / "image"
STORAGE = PLACE / "storage"
"""Where the images are; podman takes it as an additional image store."""
BASE, STAGE, NAME = "localhost/packer-base:12", "localhost/packer-build:test", "localhost/packer:test"
HOURS = 6
"""How long an image is kept: tests that began before the sources changed go on with theirs."""
_SOURCES = ("Containerfile", ".dockerignore", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
_FOLDERS = ("registry", "formats", "recipes", "containers", "packer")


def packer_image(*more: str) -> str:
    """The id of packer's image as the sources are now, built with `more` flags."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="image-") as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        buildah = Buildah(Path(scratch))
        if not buildah("images", "--quiet", "--filter", f"reference={BASE}").strip():
            _base(buildah)
        _wheels()
        sources = context(Path(scratch) / "context")
        if not more:
            build(buildah, sources, STAGE, "--target", "build")
        image = build(buildah, sources, NAME, *(word.replace("=pip.conf", f"={scratch}/pip.conf") for word in more))
        buildah("tag", image, f"{NAME}-{image[:12]}")
        _prune(buildah, image)
        return image


class Buildah:
    """buildah with storage of its own."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._folders = ("--root", str(STORAGE), "--runroot", str(scratch / "run"))

    def __call__(self, *arguments: str | Path) -> str:
        """What buildah prints."""
        environment = {"CONTAINERS_CONF": str(CONTAINERS_CONF)}
        return run("buildah", *self._folders, *arguments, env=environment, timeout=500).stdout


def build(buildah: Buildah, sources: Path, name: str, *more: str) -> str:
    """The id of the image that the Containerfile in a folder makes, on our base and without a network."""
    (buildah.scratch / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /mnt\n")
    flags = ("--layers", "--quiet", "--network", "none", "--format", "docker", "--pull-never")
    values = {"BASE_IMAGE": BASE, "BUSYBOX_IMAGE": BASE, "VERSION": "1.2.3"}
    given = [f"--build-arg={name}={value}" for name, value in values.items()]
    pip = ("--secret", f"id=pip,src={buildah.scratch / 'pip.conf'}", "--volume", f"{PLACE / 'wheels'}:/mnt:ro")
    said = buildah("build", *flags, *given, *pip, *more, "--tag", name, sources)
    return said.split()[-1]


def context(folder: Path) -> Path:
    """A copy of what the image is made from, so that nobody changes it meanwhile."""
    folder.mkdir()
    for name in _SOURCES:
        shutil.copy2(ROOT / name, folder)
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _prune(buildah: Buildah, image: str) -> None:
    """Remove what no tests can still be using, of sources that were other ones."""
    for found in json.loads(buildah("images", "--json", "--filter", f"reference={NAME.partition(':')[0]}")):
        is_old = found["created"] < time.time() - HOURS * 3600
        if is_old and not image.startswith(found["id"]):
            buildah("rmi", "--force", found["id"])
    buildah("rmi", "--prune")


def _base(buildah: Buildah) -> None:
    run(ROOT / "scripts/base.sh", PLACE / "base.tar", timeout=500)
    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, PLACE / "base.tar", "/")
    buildah("commit", "--quiet", "--rm", container, BASE)


def _wheels() -> None:
    """Fill the folder with what the project needs, and what builds it."""
    wanted = (ROOT / "pyproject.toml").read_text() + (ROOT / "constraints.txt").read_text()
    stamp, folder = PLACE / "wheels.stamp", PLACE / "wheels"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    quiet = ("--quiet", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt")
    run(sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", folder, ROOT, "hatchling", timeout=500)
    stamp.write_text(wanted)


class Packer:
    """packer's image in podman: the image is taken from where buildah has put it, all else is in a folder."""

    def __init__(self, folder: Path) -> None:
        self.id = packer_image()
        self.podman = Podman(folder, "--storage-opt", f"additionalimagestore={STORAGE}")

    def __call__(
        self,
        *arguments: str | Path,
        user: str = "65532:65532",
        mounts: Mapping[Path, str] | None = None,
        flags: tuple[str, ...] = (),
        cache: bool = False,
        **options: Any,
    ) -> str:
        """What packer prints as a user without rights, on a root that is read-only.

        `mounts` are folders of this machine and where they lie in the container, with podman's options behind a colon.
        With `cache`, the container has a folder of its own for what outlasts a run.
        """
        volumes = [f"--volume={folder}:{place}" for folder, place in (mounts or {}).items()]
        volumes += ["--tmpfs=/cache:mode=1777"] if cache else []
        jail = ("--rm", "--user", user, "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
        return self.podman("run", *jail, "--no-healthcheck", *volumes, *flags, self.id, *arguments, **options)

    def is_healthy(self, url: str) -> bool:
        """What the image's health check finds when a listener would answer at a URL."""
        asked = ("--env", f"PACKER_HEALTH_URL={url}")
        name = self.podman("run", "--detach", *asked, "--entrypoint=sleep", self.id, "600").strip()
        try:
            return "unhealthy" not in self.podman("healthcheck", "run", name, check=False)
        finally:
            self.podman("rm", "--force", "--time", "0", name)

    def clean(self) -> None:
        """Remove every container."""
        self.podman("rm", "--all", "--force", "--time", "0")


def lent(folder: Path) -> tuple[str, ...]:
    """podman's flags that lend the packages of this environment to the image, after its own: torch and the like would
    make it two gigabytes larger.
    """
    extras, place = folder / "extras.pth", "/opt/packer/lib/python3.11/site-packages"
    extras.write_text("/extras\n")
    return f"--volume={sysconfig.get_path('purelib')}:/extras:ro", f"--volume={extras}:{place}/{extras.name}:ro"


if __name__ == "__main__":
    print(packer_image())
