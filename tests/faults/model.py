"""A model that goes to registries and comes back, made once, and the two ways."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from containers import unpack as unpacking
from containers.layers import FILEPATH
from registry import download
from registry.access import Access
from registry.blob import Blob, BytesBlob, FileBlob, TypedBlob
from registry.descriptor import IMAGE_CONFIG, IMAGE_LAYER, INDEX, MANIFEST
from registry.folder import STAGING
from registry.manifest import Graph, Index, Manifest, make_index, make_manifest
from registry.remote import Remote
from registry.transfer import Cargo, deliver

LAYERS = 4
WORKERS = 4
RAW = "application/vnd.cncf.model.weight.v1.raw"


@dataclass(frozen=True)
class Model:
    """Layers in the files of a folder: half of them tars, half raw. `size` are the bytes of all."""

    folder: Path
    size: int

    @classmethod
    def made(cls, folder: Path, size: int) -> Model:
        """A new one, of random bytes, the same for a size."""
        folder.mkdir(parents=True)
        for number in range(LAYERS):
            data = Random(number).randbytes(size // LAYERS - 10240 - 777 * number)
            (folder / f"{number}").write_bytes(data if number % 2 else _tar(f"models/{number}.safetensors", data))
        return cls(folder, size)

    @cached_property
    def blobs(self) -> tuple[Blob, ...]:
        """The config and the layers, as they are pushed."""
        config = BytesBlob.of(IMAGE_CONFIG, b"{}")
        return (config, *(self._layer(number) for number in range(LAYERS)))

    def _layer(self, number: int) -> Blob:
        file = FileBlob.at(self.folder / f"{number}")
        if number % 2:
            return TypedBlob.of(file, RAW, {FILEPATH: f"raw/{number}.safetensors"})
        return TypedBlob.of(file, IMAGE_LAYER, {})

    @cached_property
    def manifest(self) -> Manifest:
        """Over the layers."""
        config, *layers = (blob.descriptor for blob in self.blobs)
        return make_manifest(config, layers, {})

    @cached_property
    def index(self) -> Index:
        """Over the manifest; the root."""
        return make_index([self.manifest.descriptor], {})

    @cached_property
    def files(self) -> dict[str, bytes]:
        """What a pull is to write."""
        found = {}
        for number in range(LAYERS):
            data = (self.folder / f"{number}").read_bytes()
            if number % 2:
                found[f"raw/{number}.safetensors"] = data
            else:
                with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                    (member,) = archive.getmembers()
                    content = archive.extractfile(member)
                    assert content
                    found[f"{number}.safetensors"] = content.read()
        return found

    def push(self, host: str, repository: str, access: Access) -> None:
        """Publish it as `v1`, each layer in some twenty chunks where a registry takes chunks."""
        access.habits.of(host).chunk = self.chunk
        store = Remote(host, repository, access, plain_http=True)
        graph = Graph(self.index, children=(Graph(self.manifest, self.blobs),))
        deliver(Cargo((graph,)), store, WORKERS)
        store.tag(self.index, "v1")

    @property
    def chunk(self) -> int:
        """Bytes of one PATCH."""
        return self.size // 80

    @property
    def part(self) -> int:
        """Bytes that a pull asks for at once."""
        return self.size // 40

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds it, byte for byte, and nothing else."""
        return contents(folder) == self.files


def pull(host: str, repository: str, folder: Path, access: Access) -> None:
    """Fetch `v1` into a folder."""
    store = Remote(host, repository, access, plain_http=True)
    unpacking.unpack(unpacking.model_manifest(store.resolve("v1"), store), store, folder, workers=WORKERS)


def use_parts(size: int) -> None:
    """Have pulls of this process ask for so many bytes at once."""
    for place in (unpacking, download):
        setattr(place, "PART_SIZE", size)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for what is under way."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and STAGING not in path.parts
    }


def problems(host: str, repository: str) -> list[str]:
    """What a real registry's tags point at that is not there, or not in its size, asked by nothing of ours."""
    said = _get(host, f"/v2/{repository}/tags/list")
    tags = json.loads(said).get("tags") or [] if said else []
    return [problem for tag in tags for problem in _missing(host, repository, tag)]


def tagged(host: str, repository: str) -> bytes:
    """The manifest under `v1`; empty if there is none."""
    return _get(host, f"/v2/{repository}/manifests/v1")


def _missing(host: str, repository: str, name: str) -> Iterator[str]:
    raw = _get(host, f"/v2/{repository}/manifests/{name}")
    if not raw:
        yield f"manifest {name}"
        return
    document: dict[str, Any] = json.loads(raw)
    for child in document.get("manifests", []):
        yield from _missing(host, repository, child["digest"])
    for blob in filter(None, [document.get("config"), *document.get("layers", [])]):
        size = _get(host, f"/v2/{repository}/blobs/{blob['digest']}", "HEAD")
        if size != str(blob["size"]).encode():
            yield f"blob {blob['digest']}"


def _get(host: str, path: str, method: str = "GET") -> bytes:
    """The content, for HEAD its length; empty if it is not there."""
    request = urllib.request.Request(f"http://{host}{path}", method=method, headers={"Accept": f"{MANIFEST}, {INDEX}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read()) if method == "GET" else str(answer.headers["Content-Length"]).encode()
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 404, error
            return b""


def _tar(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
