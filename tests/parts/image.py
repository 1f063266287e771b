"""packer in an image, built by buildah from the repository's Containerfile.

The base is a Debian that `scripts/base.sh` makes; it also stands for the image that busybox comes from. The build has
no network: what pip needs lies in a folder, which this machine's own pip fills, however it is configured. Layers are
kept, so that a change of the code builds one of them anew, and several processes build one after another.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.command import CONTAINERS_CONF, ROOT, run
from tests.parts.podman import Podman

PLACE = ROOT / ".cache" / "image"
BASE, STAGE, NAME = "localhost/packer-base:12", "localhost/packer-build:test", "localhost/packer:test"
HOURS = 6
"""How long an image is kept: tests that began before the sources changed go on with theirs."""
_SOURCES = ("Containerfile", ".dockerignore", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
_FOLDERS = ("registry", "formats", "recipes", "containers", "packer")


@dataclass(frozen=True)
class Image:
    """packer's image, alone in a store that nobody writes to: podman takes it as an additional one."""

    id: str
    store: Path


def packer_image() -> Image:
    """packer's image as the sources are now, made if it is not there.

    What builds is kept apart from what is read: podman and buildah at once in one store may wait for each other for
    ever.
    """
    with _building() as (buildah, sources):
        place = PLACE / "stores" / _digest(sources)
        if not (place / "id").exists():
            build(buildah, sources, STAGE, "--target", "build")
            image = build(buildah, sources, NAME)
            shutil.rmtree(place, ignore_errors=True)
            store = f"[overlay@{place / 'root'}+{buildah.scratch / 'copy'}]"
            buildah("push", "--quiet", image, f"containers-storage:{store}{NAME}")
            (place / "id").write_text(image)
            buildah("rmi", "--prune")
        (place / "id").touch()
        _remove_old(place)
        return Image((place / "id").read_text(), place / "root")


def rebuilt(*flags: str) -> tuple[str, str]:
    """The ids of the image as it is, and built with more flags; `pip.conf` among them is the tests' own."""
    with _building() as (buildah, sources):
        words = [word.replace("=pip.conf", f"={buildah.scratch}/pip.conf") for word in flags]
        return build(buildah, sources, NAME), build(buildah, sources, NAME, *words)


@contextmanager
def _building() -> Iterator[tuple[Buildah, Path]]:
    """buildah with the base, and a copy of the sources; ours alone while the block runs."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="image-") as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        buildah = Buildah(Path(scratch))
        if not buildah("images", "--quiet", "--filter", f"reference={BASE}").strip():
            _base(buildah)
        _wheels()
        try:
            yield buildah, context(Path(scratch) / "context")
        finally:
            _unmount()


def _unmount() -> None:
    """Undo the mounts that buildah leaves in its stores; containers have theirs elsewhere."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for place in reversed([line.split()[4] for line in lines]):
        if Path(place).is_relative_to(PLACE):
            run("umount", place)


def _digest(folder: Path) -> str:
    """What tells whether sources are others."""
    known = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        known.update(f"{path.relative_to(folder)}\0{path.stat().st_mode}\0{path.stat().st_size}\0".encode())
        known.update(path.read_bytes())
    return known.hexdigest()[:16]


def _remove_old(current: Path) -> None:
    """Remove the stores of sources that were other ones, when no tests can still be using them."""
    for place in PLACE.glob("stores/*"):
        known = place / "id"
        if place != current and (not known.exists() or known.stat().st_mtime < time.time() - HOURS * 3600):
            shutil.rmtree(place)


class Buildah:
    """buildah with storage of its own."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._folders = ("--root", str(PLACE / "storage"), "--runroot", str(scratch / "run"))

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
    """packer's image in podman: the image is taken from its own store, all else is in a folder."""

    def __init__(self, folder: Path) -> None:
        image = packer_image()
        self.id = image.id
        self.podman = Podman(folder, "--storage-opt", f"additionalimagestore={image.store}")

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
    print(packer_image().id)
