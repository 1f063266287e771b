"""Looking into artifacts that are far away: the same files as unpacking writes, for the price of headers."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from containers import tar
from containers.artifact import CARD
from containers.layers import FILEPATH
from containers.look import model_snapshot
from containers.tar import Member, folder
from containers.unpack import unpack
from formats.examine import examine
from formats.snapshot import Snapshot
from packer.look import look
from registry.access import Access
from registry.blob import BytesBlob, FileBlob, TypedBlob
from registry.descriptor import IMAGE_CONFIG, IMAGE_LAYER, Descriptor, Digest, digest_of
from registry.errors import ContentError, PackerError
from registry.layout import Layout
from registry.manifest import Manifest, encode, make_manifest
from registry.remote import Remote
from registry.store import Store
from tests.containers.test_tar import HOSTILE, hostile
from tests.parts import tiny
from tests.parts.command import packer, run
from tests.parts.proxy import counting_proxy
from tests.parts.servers import Server, docker_registry

RAW = "application/vnd.cncf.model.weight.v1.raw"


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    found = {}
    for file in snapshot.files:
        with file.open() as stream:
            found[str(file.name)] = stream.read()
        assert len(found[str(file.name)]) == file.size
    return found


def unpacked(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def push(store: Store, layers: Sequence[BytesBlob | FileBlob], media_type: str = IMAGE_LAYER) -> Manifest:
    """An image of layers without annotations, as others make it."""
    blobs = [TypedBlob.of(layer, media_type, {}) for layer in layers]
    config = BytesBlob.of(IMAGE_CONFIG, encode({"os": "linux", "architecture": "amd64"}))
    for blob in blobs:
        store.push(blob)
    store.push(config)
    manifest = make_manifest(config.descriptor, [blob.descriptor for blob in blobs], {})
    store.put(manifest)
    return manifest


@pytest.fixture(params=["layout", "registry"])
def store(request: pytest.FixtureRequest, registry: Server, tmp_path: Path) -> Store:
    if request.param == "layout":
        return Layout(tmp_path / "layout")
    return Remote(
        registry.address, "look/" + tmp_path.name.lower().replace("[", "-").strip("-]_"), Access(), plain_http=True
    )


def test_an_image_that_gnu_tar_made(store: Store, tmp_path: Path) -> None:
    """A base, the model with a long name, a link and an owner, and a layer that replaces a file."""
    long = "models/" + "/".join(["long" * 20] * 3) + "/model.safetensors"
    tiny.write_folder(tmp_path / "base", {"etc/passwd": b"root"})
    tiny.write_folder(tmp_path / "model", {long: tiny.GOOD, "models/config.json": b"{}"})
    (tmp_path / "model/models/link").symlink_to("config.json")
    tiny.write_folder(tmp_path / "later", {"models/config.json": b'{"model_type": "tiny"}'})
    layers = []
    for name, top in (("base", "etc"), ("model", "models"), ("later", "models")):
        run("tar", "--format=gnu", "--owner=me:1234", "-cf", tmp_path / f"{name}.tar", "-C", tmp_path / name, top)
        layers.append(FileBlob.at(tmp_path / f"{name}.tar"))
    manifest = push(store, layers)
    unpack(manifest, store, tmp_path / "out")
    seen = contents(model_snapshot(manifest, store))
    assert seen == unpacked(tmp_path / "out")
    assert seen == {long.removeprefix("models/"): tiny.GOOD, "config.json": b'{"model_type": "tiny"}'}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_pull_refuses_is_refused(tmp_path: Path, name: str) -> None:
    layout = hostile(tmp_path, *HOSTILE[name])
    with pytest.raises(PackerError):
        look(f"oci:{layout}:v1", (), Access())


def nothing() -> BinaryIO:
    return io.BytesIO()


def sized(size: int) -> bytes:
    """A header that claims `size` bytes, and none of them."""
    header = bytearray(Member("models/a", 9 << 30, nothing).header())
    header[124:136], header[148:156] = b"\x80" + size.to_bytes(11, "big"), b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(2048)


@pytest.mark.parametrize("size", [5000, 1 << 62, 1 << 80])
def test_a_member_that_its_layer_does_not_hold(store: Store, tmp_path: Path, size: int) -> None:
    """The header is whole, so that nothing but the size of the layer tells."""
    manifest = push(store, [BytesBlob.of(IMAGE_LAYER, sized(size))])
    for refused in (lambda: model_snapshot(manifest, store), lambda: unpack(manifest, store, tmp_path / "out")):
        with pytest.raises(ContentError, match="truncated"):
            refused()


def test_a_file_in_the_last_blocks_is_seen(store: Store) -> None:
    """Where every other layer has two blocks of zeros."""
    member = Member("models/evil.py", 4, nothing)
    layer = Member("models/a", 0, nothing).header() + member.header() + b"evil" + bytes(member.padding)
    assert contents(model_snapshot(push(store, [BytesBlob.of(IMAGE_LAYER, layer)]), store)) == {
        "a": b"",
        "evil.py": b"evil",
    }


def test_more_members_than_are_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_MEMBERS", 10)
    headers = [Member(f"models/{at}", 0, nothing).header() for at in range(11)]
    for count, is_refused in ((10, False), (11, True)):
        manifest = push(store, [BytesBlob.of(IMAGE_LAYER, b"".join(headers[:count]) + bytes(1024))])
        with pytest.raises(ContentError, match="too many members") if is_refused else nullcontext():
            assert len(model_snapshot(manifest, store).files) == count


def test_more_files_in_many_layers_than_are_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("containers.look.MAX_MEMBERS", 10)
    layers = [
        BytesBlob.of(IMAGE_LAYER, b"".join(Member(f"models/{at}/{name}", 0, nothing).header() for name in "abc"))
        for at in range(4)
    ]
    assert len(model_snapshot(push(store, layers[:3]), store).files) == 9
    with pytest.raises(ContentError, match="too many files"):
        model_snapshot(push(store, layers), store)


def test_what_a_later_layer_removes_is_not_seen(store: Store, tmp_path: Path) -> None:
    def layer(*names: str) -> BytesBlob:
        headers = b"".join(Member(f"models/{name}", 0, nothing).header() for name in names)
        return BytesBlob.of(IMAGE_LAYER, headers + bytes(1024))

    manifest = push(store, [layer("a", "b", "d/x", "e/x"), layer(".wh.a", ".wh.d", "e/.wh..wh..opq", "e/y")])
    unpack(manifest, store, tmp_path / "out")
    assert contents(model_snapshot(manifest, store)) == unpacked(tmp_path / "out") == {"b": b"", "e/y": b""}


def test_compressed_layers_cannot_be_looked_at(store: Store) -> None:
    manifest = push(store, [BytesBlob.of(IMAGE_LAYER, b"\x1f\x8b")], IMAGE_LAYER + "+gzip")
    with pytest.raises(ContentError, match="cannot be looked at from afar"):
        model_snapshot(manifest, store)


def test_the_base_is_not_asked_for(registry: Server, tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    packer("build", model, "--to", f"{registry.address}/look/based:v1")
    shown = json.loads(packer("inspect", f"{registry.address}/look/based:v1", "--json").stdout)
    base = next(layer["digest"] for layer in shown["layers"] if not layer["path"])
    before = len(registry.log.read_text())
    assert examine(look(f"{registry.address}/look/based:v1", (), Access())).ok
    said = registry.log.read_text()[before:]
    assert all(layer["digest"] in said for layer in shown["layers"] if layer["path"])
    assert base not in said


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A registry of its own, and the folder with its storage, into which sparse blobs are laid."""
    with docker_registry(tmp_path / "registry") as server:
        yield server, tmp_path / "registry/data/docker/registry/v2"


SHARDS, SHARD = 200, 100 << 20


def plant(storage: Path, repository: str, digest: Digest, head: bytes, size: int) -> None:
    """A sparse blob under a digest that is not its own: nobody reads it whole here."""
    digits = digest.removeprefix("sha256:")
    data = storage / "blobs/sha256" / digits[:2] / digits / "data"
    link = storage / "repositories" / repository / "_layers/sha256" / digits / "link"
    for path in (data, link):
        path.parent.mkdir(parents=True)
    data.write_bytes(head)
    os.truncate(data, size)
    link.write_text(digest)


def shard(at: int) -> tuple[str, bytes, int]:
    """The name, the header and the size of a shard with 64 tensors."""
    each = SHARD // 64
    tensors = {f"layer.{at}.{place}": tiny.tensor(place * each, (place + 1) * each) for place in range(64)}
    head = tiny.safetensors_bytes(tensors, b"")
    return f"model-{at:05}-of-{SHARDS:05}.safetensors", head, len(head) + 64 * each


def _layer(form: str, name: str, size: int) -> tuple[Descriptor, bytes]:
    """The descriptor of a layer with one file, and what stands before the file."""
    start = folder("models").header() + Member(f"models/{name}", size, nothing).header() if form == "tar" else b""
    whole = len(start) + size + -size % 512 + 1024 if form == "tar" else size
    media_type = IMAGE_LAYER if form == "tar" else RAW
    return Descriptor(media_type, digest_of(name.encode()), whole, {FILEPATH: f"models/{name}"}), start


@pytest.mark.parametrize("form", ["tar", "raw"])
def test_twenty_gigabytes_are_judged_from_some_megabytes(
    planted: tuple[Server, Path], tmp_path: Path, form: str
) -> None:
    server, storage = planted
    remote, layers = Remote(server.address, "big/model", Access(), plain_http=True), []
    (tmp_path / "local").mkdir()
    for at in range(1, SHARDS + 1):
        name, head, size = shard(at)
        (tmp_path / "local" / name).write_bytes(head)
        os.truncate(tmp_path / "local" / name, size)
        layer, start = _layer(form, name, size)
        plant(storage, "big/model", layer.digest, start + head, layer.size)
        layers.append(layer)
    config = BytesBlob.of(IMAGE_CONFIG, b"{}")
    remote.push(config)
    manifest = make_manifest(config.descriptor, layers, {CARD: "{}"} if form == "tar" else {})
    remote.put(manifest)
    remote.tag(manifest, "v1")
    with counting_proxy(server.address) as wire:
        far = examine(look(f"{wire.address}/big/model:v1", (), Access()))
        assert SHARDS * 1000 < wire.bytes_down < 20 << 20
    near = examine(look(str(tmp_path / "local"), (), Access()))
    prefix = "" if form == "tar" else "models/"
    assert [(each.name, each.dtype, each.shape, each.start, each.end, each.file) for each in far.tensors] == [
        (each.name, each.dtype, each.shape, each.start, each.end, prefix + each.file) for each in near.tensors
    ]
    told = tuple(replace(finding, file=prefix + finding.file) for finding in near.findings)
    assert (far.ok, far.findings, far.snapshot.size) == (True, told, near.snapshot.size)
    assert far.snapshot.size > 20_000_000_000


def test_a_registry_without_range_is_not_read_for_its_tars(planted: tuple[Server, Path]) -> None:
    """What stands behind the weights cannot be seen from the front: that is refused, at once and with its price."""
    server, storage = planted
    name, head, size = shard(1)
    layer, start = _layer("tar", name, size)
    plant(storage, "big/model", layer.digest, start + head, layer.size)
    manifest = make_manifest(BytesBlob.of(IMAGE_CONFIG, b"{}").descriptor, [layer], {})
    with counting_proxy(server.address) as wire:
        wire.drops_range = True
        with pytest.raises(PackerError, match=r"does not answer Range requests.* 100 MiB"):
            model_snapshot(manifest, Remote(wire.address, "big/model", Access(), plain_http=True))
        assert wire.bytes_down < 50 << 20
