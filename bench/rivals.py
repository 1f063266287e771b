"""How others push and pull: shells with curl, oras-py, skopeo, buildah, olot, modelpack-client."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import ROOT

Words = list[str | Path]

REPOSITORY = "bench/model"
_ORAS, _OLOT_HOME, _MODELPACK = (ROOT / ".cache" / name for name in ("peers/oras", "peers/olot", "clients/modelpack"))
_PYTHON = _ORAS / "bin/python"
SKOPEO = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]

_PARALLEL = """
set -euo pipefail
all() {
    for each; do one "$each" & jobs+=($!); done
    for job in "${jobs[@]}"; do wait "$job"; done
}
"""
_CURL_PUSH = f"""{_PARALLEL}
root=$1; shift
one() {{
    where=$(curl -sfS -X POST -D - -o /dev/null "$root/blobs/uploads/" | sed -n 's/\\r$//; s/^location: //Ip')
    digest=$(NAMED)
    curl -sfS -H Expect: -H 'Content-Type: application/octet-stream' -T "$1" "$where&digest=sha256:$digest"
}}
all "$@"
"""
_CURL_PULL = f"""{_PARALLEL}
root=$1; cd "$2"; shift 2
one() {{ curl -sfS -o "$1" "$root/blobs/sha256:$1"; }}
all "$@"
for each; do echo "$each  $each"; done | sha256sum --check --quiet
"""
_CURL_PULL_PARALLEL = f"""{_PARALLEL}
root=$1; cd "$2"; shift 2
one() {{
    curl -sfS -o "$1" "$root/blobs/sha256:$1"
    [ "$(openssl dgst -sha256 -r "$1" | head -c 64)" = "$1" ]
}}
all "$@"
"""
_ORAS_PUSH = """
import sys
from oras.client import OrasClient
OrasClient(insecure=True).push(target=sys.argv[1], files=sys.argv[2:], disable_path_validation=True, quiet=True)
"""
_ORAS_TAGS = """
import sys
from oras.client import OrasClient
assert "v1" in OrasClient(insecure=True).get_tags(sys.argv[1])
"""
_BUILDAH = """
set -euo pipefail
storage=$1 model=$2 to=$3
with() { buildah --root "$storage/root" --runroot "$storage/run" --storage-driver overlay "$@"; }
printf 'FROM scratch\\nCOPY *.safetensors /models/\\n' > "$storage/Containerfile"
with build --quiet --isolation chroot --file "$storage/Containerfile" --tag model "$model"
with push --quiet --tls-verify=false model "docker://$to"
"""
_OLOT = """
set -euo pipefail
olot=$1 layout=$2 to=$3; shift 3
"$olot" "$layout" "$@"
skopeo copy --quiet --all --preserve-digests --dest-tls-verify=false "oci:$layout:latest" "docker://$to"
"""


@dataclass(frozen=True)
class Rival:
    """Another tool: its name, the program or the file that is there if it is installed, its command for a registry.

    `folder` is what it keeps on this side: there is nothing of it but what `fill` makes when the command starts, and
    nothing when it has ended.
    """

    name: str
    needs: str | Path
    command: Callable[[str], Words]
    folder: Path | None = None
    fill: Callable[[Path], object] = Path.mkdir

    @property
    def is_missing(self) -> bool:
        """Whether it was not installed."""
        return not self.needs.exists() if isinstance(self.needs, Path) else shutil.which(self.needs) is None

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """A block in which its folder is there."""
        if not self.folder:
            yield
            return
        self.fill(self.folder)
        try:
            yield
        finally:
            shutil.rmtree(self.folder)


def reference(address: str) -> str:
    """What is pushed and pulled."""
    return f"{address}/{REPOSITORY}:v1"


def curl(files: Sequence[Path], *, are_named: bool) -> Rival:
    """Files, all at once and without a manifest: named by their digests, or else hashed by openssl first."""
    name = (
        "curl -T of the weights, in parallel" if are_named else "openssl dgst and curl -T of the weights, in parallel"
    )
    script = _CURL_PUSH.replace(
        "NAMED", 'echo "${1##*/}"' if are_named else 'openssl dgst -sha256 -r "$1" | head -c 64'
    )
    return Rival(name, "curl", lambda at: _shell(script, _root(at), *files))


def curl_pull(address: str, folder: Path, digests: Sequence[str], *, hashed_at_once: bool) -> Words:
    """Blobs to files, all at once: each hashed by openssl when it is there, or all by sha256sum when all are."""
    return _shell(_CURL_PULL_PARALLEL if hashed_at_once else _CURL_PULL, _root(address), folder, *digests)


def oras(blobs: Sequence[Path]) -> Rival:
    """The same blobs, and a manifest."""
    return Rival("oras-py", _ORAS / ".installed", lambda at: [_PYTHON, "-c", _ORAS_PUSH, reference(at), *blobs])


def skopeo(layout: Path) -> Rival:
    """The layout as it is."""
    return Rival("skopeo copy", "skopeo", lambda at: [*SKOPEO, f"oci:{layout}:v1", f"docker://{reference(at)}"])


def buildah(model: Path, scratch: Path) -> Rival:
    """An image of the weights, built from nothing and pushed."""
    storage = scratch / "storage"

    def command(address: str) -> Words:
        return _shell(_BUILDAH, storage, model, reference(address))

    return Rival("buildah build and push", "buildah", command, storage)


def olot(model: Path, scratch: Path) -> Rival:
    """Layers on top of a small image, pushed by skopeo."""
    layout = scratch / "olot"

    def command(address: str) -> Words:
        return _shell(_OLOT, _OLOT_HOME / "bin/olot", layout, reference(address), *sorted(model.glob("*.safetensors")))

    def fill(folder: Path) -> None:
        bases = (ROOT / ".cache/clients/modelcar/lib").glob("*/site-packages/*/embedded_oci_layout")
        shutil.copytree(next(bases), folder)

    return Rival("olot and skopeo", _OLOT_HOME / ".installed", command, layout, fill)


def modelpack(model: Path, scratch: Path) -> Rival:
    """A ModelPack artifact of the raw files."""
    config = scratch / "modelpack.json"
    config.write_text('{"descriptor": {}, "config": {}}')
    layers = [word for path in sorted(model.glob("*.safetensors")) for word in ("--layer", path)]

    def command(address: str) -> Words:
        return [_MODELPACK / "bin/modelpack", "--insecure", "push", reference(address), "--config", config, *layers]

    return Rival("modelpack-client", _MODELPACK / ".installed", command)


def tags(address: str) -> list[Rival]:
    """Tools that list tags."""
    name = f"{address}/{REPOSITORY}"
    return [
        Rival("oras-py", _ORAS / ".installed", lambda _: [_PYTHON, "-c", _ORAS_TAGS, name]),
        Rival(
            "skopeo list-tags", "skopeo", lambda _: ["skopeo", "list-tags", "--tls-verify=false", f"docker://{name}"]
        ),
    ]


def _root(address: str) -> str:
    return f"http://{address}/v2/{REPOSITORY}"


def _shell(script: str, *arguments: str | Path) -> Words:
    return ["bash", "-c", script, "bash", *arguments]
