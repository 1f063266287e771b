"""Pulling: in parts, side by side, hashed as it comes, gone on with after a kill; and what other tools have made."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from containers import unpack as module
from containers.layers import FILEPATH
from containers.unpack import unpack
from registry import download
from registry.access import Access
from registry.blob import Blob, BytesBlob, TypedBlob
from registry.descriptor import IMAGE_CONFIG, IMAGE_LAYER, Descriptor
from registry.errors import ContentError, PackerError, UsageError
from registry.folder import STAGING
from registry.manifest import Manifest, make_manifest
from registry.remote import Remote
from registry.retry import Retry
from registry.store import Store
from tests.parts.interrupt import interrupted
from tests.parts.strict import STRICT, StrictRegistry, strict_registry

PART = 64 << 10
QUICK = Retry(count=6, first=0.01, most=0.05, total=20)
RAW = "application/vnd.cncf.model.weight.v1.raw"
BIG = Random(3).randbytes(5 * PART + 999)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (module, download):
        monkeypatch.setattr(place, "PART_SIZE", PART)


@pytest.fixture
def registry() -> Iterator[StrictRegistry]:
    with strict_registry() as server:
        yield server


def remote(registry: StrictRegistry) -> Remote:
    return Remote(registry.address, "a/b", Access(retry=QUICK), plain_http=True)


def tar(files: Mapping[str, bytes], form: int = tarfile.GNU_FORMAT, prefix: str = "models/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def layer(data: bytes, media_type: str = IMAGE_LAYER, path: str = "") -> Blob:
    return TypedBlob.of(BytesBlob.of(media_type, data), media_type, {FILEPATH: path} if path else {})


def publish(store: Remote, *layers: Blob, config: str = IMAGE_CONFIG) -> Manifest:
    blobs = [BytesBlob.of(config, b"{}"), *layers]
    for blob in blobs:
        store.push(blob)
    manifest = make_manifest(blobs[0].descriptor, [blob.descriptor for blob in layers], {})
    store.put(manifest)
    return manifest


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LAYERS = {
    "raw": layer(BIG, RAW, "model.safetensors"),
    "tar": layer(tar({"model.safetensors": BIG})),
    "small": layer(tar({"config.json": b"{}", "empty": b"", "deep/er/x": b"x"})),
}


@pytest.mark.parametrize("ranges", [True, False])
def test_layers_of_all_kinds(ranges: bool, tmp_path: Path) -> None:
    with strict_registry(replace(STRICT, ranges=ranges)) as registry:
        for kind in ("raw", "tar"):
            store = remote(registry)
            manifest = publish(store, LAYERS[kind], LAYERS["small"])
            out = tmp_path / kind
            written = unpack(manifest, store, out)
            expected = {"model.safetensors": BIG, "config.json": b"{}", "empty": b"", "deep/er/x": b"x"}
            assert contents(out) == expected
            assert sorted(map(str, written)) == sorted(str(out / name) for name in expected)
        ranged = [request for request in registry.requests if request.status == 206]
    assert bool(ranged) == ranges


def test_several_large_files_in_one_layer(registry: StrictRegistry, tmp_path: Path) -> None:
    files = {f"{name}.bin": Random(name).randbytes(2 * PART + 7) for name in "abc"}
    store = remote(registry)
    unpack(publish(store, layer(tar(files))), store, tmp_path / "out")
    assert contents(tmp_path / "out") == files


def test_include_fetches_only_the_layers_it_needs(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    manifest = publish(store, LAYERS["raw"], layer(b"{}", RAW, "config.json"))
    unpack(manifest, store, tmp_path / "out", ["*.json"])
    assert contents(tmp_path / "out") == {"config.json": b"{}"}
    read = sum(request.sent for request in registry.requests if request.method == "GET" and "/blobs/" in request.path)
    assert read < 100


def spoil(registry: StrictRegistry, digest: str, at: int) -> None:
    """Change a bit of a blob that lies in a registry."""
    blobs = registry.repository("a/b").blobs
    data = bytearray(registry.blobs("a/b")[digest])
    data[at] ^= 1
    blobs[digest] = replace(blobs[digest], data=bytes(data))


@pytest.mark.parametrize("kind", ["raw", "tar"])
@pytest.mark.parametrize("at", [0, PART - 1, PART + 700, len(BIG) - 1])
def test_wrong_bytes_are_refused_and_nothing_is_kept(kind: str, at: int, tmp_path: Path) -> None:
    with strict_registry() as registry:
        store = remote(registry)
        manifest = publish(store, LAYERS[kind])
        digest = manifest.layers[0].digest
        spoil(registry, digest, at + (512 if kind == "tar" else 0))
        with pytest.raises(ContentError, match="not what its descriptor promises"):
            unpack(manifest, store, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_fetch_that_failed_goes_on(registry: StrictRegistry, tmp_path: Path) -> None:
    store, fails = remote(registry), [True]
    manifest = publish(store, LAYERS["raw"])

    def answer(headers: Mapping[str, str], method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        last = headers.get("Range", "").startswith(f"bytes={4 * PART}-")
        return (403, {}) if last and fails[0] else None

    registry.authorize = answer
    with pytest.raises(PackerError, match="refused to GET"):
        unpack(manifest, store, tmp_path / "out", workers=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [STAGING]
    fails[0], before = False, len(registry.requests)
    unpack(manifest, store, tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == {"model.safetensors": BIG}
    again = [request.headers.get("Range") for request in registry.requests[before:] if "/blobs/" in request.path]
    assert [text for text in again if text and text != "bytes=0-0"] == [
        f"bytes={4 * PART}-{5 * PART - 1}",
        f"bytes={5 * PART}-{len(BIG) - 1}",
    ]


@pytest.mark.parametrize("damage", ["a byte", "a note", "a file", "half a line"])
def test_what_an_earlier_run_left_is_not_trusted(damage: str, registry: StrictRegistry, tmp_path: Path) -> None:
    store, fails = remote(registry), [True]
    manifest = publish(store, LAYERS["tar"])

    def answer(headers: Mapping[str, str], method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        return (403, {}) if headers.get("Range", "").startswith(f"bytes={4 * PART}-") and fails[0] else None

    registry.authorize = answer
    with pytest.raises(PackerError):
        unpack(manifest, store, tmp_path / "out", workers=1)
    (note,) = (tmp_path / "out" / STAGING).glob("*.parts")
    (file,) = (path for path in (tmp_path / "out" / STAGING).iterdir() if path != note)
    if damage == "a byte":
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    elif damage == "a note":
        note.write_text("{}\n[0, {}]\n")
    elif damage == "half a line":
        note.write_text(note.read_text()[:-5])
    else:
        file.unlink()
    fails[0] = False
    unpack(manifest, store, tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == {"model.safetensors": BIG}


_PULL = """
import sys
from pathlib import Path
from containers import unpack
from registry import download
from registry.access import Access
from registry.remote import Remote
unpack.PART_SIZE = download.PART_SIZE = int(sys.argv[3])
store = Remote(sys.argv[1], "a/b", Access(), plain_http=True)
unpack.unpack(store.resolve("v1"), store, Path(sys.argv[2]))
"""


def test_killed_for_real(registry: StrictRegistry, tmp_path: Path) -> None:
    store, random = remote(registry), Random(5)
    files = {f"model-{number}": random.randbytes(20 * PART) for number in range(3)}
    manifest = publish(store, *(layer(tar({name: data})) for name, data in files.items()))
    store.tag(manifest, "v1")
    out = tmp_path / "out"

    def fetched() -> int:
        return sum(request.sent for request in registry.requests if request.status == 206)

    def pull() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _PULL, registry.address, out, str(PART)], stderr=subprocess.PIPE)

    kills = 0
    for _ in range(4):
        process, aim = pull(), fetched() + random.randrange(PART, 20 * PART)
        deadline = time.monotonic() + 30
        while fetched() < aim and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        if contents(out) == files:
            break
        assert {path.name for path in out.iterdir()} <= {STAGING}
    last = pull()
    _, said = last.communicate(timeout=60)
    assert last.returncode == 0, said
    assert contents(out) == files
    total = sum(len(data) for data in files.values())
    # four parts were on their way at each kill, and headers are asked for again
    assert fetched() - total <= (kills + 1) * (4 * PART + 3 * (64 << 10)) + 4 * PART


FOREIGN = {
    "modctl": ("application/vnd.cncf.model.weight.v1.tar", ""),
    "modctl before 2025-07": ("application/vnd.cnai.model.weight.v1.tar", ""),
    "KitOps": ("application/vnd.kitops.modelkit.model.v1.tar+gzip", ""),
    "KitOps zstd": ("application/vnd.cncf.model.weight.v1.tar+zstd", ""),
    "olot": (IMAGE_LAYER + "+gzip", "models/"),
    "docker": ("application/vnd.docker.image.rootfs.diff.tar.gzip", "models/"),
}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("tool", FOREIGN)
def test_what_other_tools_have_made(tool: str, form: int, registry: StrictRegistry, tmp_path: Path) -> None:
    from backports import zstd

    media_type, prefix = FOREIGN[tool]
    files = {"model.safetensors": BIG, "long/" * 30 + "config.json": b"{}", "ümlaut": b"x"}
    data = tar(files, form, prefix)
    if media_type.endswith("gzip"):
        data = gzip.compress(data)
    elif media_type.endswith("zstd"):
        data = zstd.compress(data)
    store = remote(registry)
    unpack(publish(store, layer(data, media_type)), store, tmp_path / "out")
    assert contents(tmp_path / "out") == files


def test_a_later_layer_removes(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    first = layer(tar({"a": b"1", "b": b"1", "d/x": b"1", "d/y": b"1", "dx": b"1"}))
    second = layer(tar({".wh.a": b"", "b": b"2", ".wh.d": b""}))
    unpack(publish(store, first, second), store, tmp_path / "out")
    assert contents(tmp_path / "out") == {"b": b"2", "dx": b"1"}


def test_a_bomb_in_a_foreign_layer(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    bomb = gzip.compress(tar({"zeros": bytes(300 << 20)}))
    manifest = publish(store, layer(bomb, "application/vnd.cncf.model.weight.v1.tar+gzip"))
    with pytest.raises(ContentError, match="decompresses"):
        unpack(manifest, store, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_same_layer_twice(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    manifest = publish(store, LAYERS["small"], LAYERS["raw"], LAYERS["raw"], LAYERS["tar"], LAYERS["small"])
    unpack(manifest, store, tmp_path / "out")
    expected = {"model.safetensors": BIG, "config.json": b"{}", "empty": b"", "deep/er/x": b"x"}
    assert contents(tmp_path / "out") == expected
    fetched = sum(
        request.sent for request in registry.requests if request.method == "GET" and "/blobs/" in request.path
    )
    assert fetched < 2.5 * len(BIG)


@pytest.mark.parametrize("data", [b"", b"{}", BIG], ids=["empty", "small", "large"])
def test_equal_files(data: bytes, registry: StrictRegistry, tmp_path: Path) -> None:
    store, names = remote(registry), [f"{name}/config.json" for name in "abc"]
    manifest = publish(store, *(layer(data, RAW, name) for name in names))
    assert len({layer.digest for layer in manifest.layers}) == 1
    unpack(manifest, store, tmp_path / "out")
    assert contents(tmp_path / "out") == dict.fromkeys(names, data)


@dataclass
class Lying:
    """A store that shows other headers to whoever looks into a blob."""

    inner: Remote
    shown: bytes

    def ranged(self, descriptor: Descriptor) -> Blob:
        return BytesBlob.of(descriptor.media_type, self.shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


HEADERS = {
    "another name": tar({"evil.safetensors": BIG}),
    "another size": tar({"model.safetensors": BIG[:-700]}) + bytes(1 << 10),
    "another start": tar({"x": b"", "model.safetensors": BIG[512:]}),
    "none": bytes(20 << 10) + tar({"model.safetensors": BIG})[20 << 10 :],
}


@pytest.mark.parametrize("lie", HEADERS)
def test_forged_headers(lie: str, registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    manifest = publish(store, LAYERS["tar"])
    shown = HEADERS[lie].ljust(manifest.layers[0].size, b"\0")[: manifest.layers[0].size]
    with pytest.raises(ContentError, match="cut into files by other headers"):
        unpack(manifest, cast(Store, Lying(store, shown)), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    unpack(manifest, store, tmp_path / "out")
    assert contents(tmp_path / "out") == {"model.safetensors": BIG}


def failing(registry: StrictRegistry, digest: str) -> list[bool]:
    """A registry that refuses the last part of a blob, until the first of these is false."""
    fails = [True]

    def answer(headers: Mapping[str, str], method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        return (403, {}) if headers.get("Range", "").startswith(f"bytes={5 * PART}-") and fails[0] else None

    registry.authorize = answer
    return fails


def test_what_is_whole_of_others_outlasts_a_layer_that_was_refused(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    manifest = publish(store, LAYERS["raw"], layer(tar({"other": BIG[::-1]})))
    right = registry.repository("a/b").blobs[manifest.layers[1].digest]
    spoil(registry, manifest.layers[1].digest, PART)
    with pytest.raises(ContentError, match="not what its descriptor promises"):
        unpack(manifest, store, tmp_path / "out")
    left = {path.name.partition("-")[0] for path in (tmp_path / "out" / STAGING).iterdir()}
    assert left == {manifest.layers[0].digest.partition(":")[2]}
    registry.repository("a/b").blobs[manifest.layers[1].digest] = right
    before = len(registry.requests)
    unpack(manifest, store, tmp_path / "out")
    assert contents(tmp_path / "out") == {"model.safetensors": BIG, "other": BIG[::-1]}
    again = [request.path for request in registry.requests[before:] if "/blobs/" in request.path]
    assert sum(manifest.layers[0].digest in path for path in again) <= 1  # whether the server takes ranges


def test_a_note_without_what_goes_to_no_file(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    manifest = publish(store, LAYERS["tar"])
    fails = failing(registry, manifest.layers[0].digest)
    with pytest.raises(PackerError):
        unpack(manifest, store, tmp_path / "out", workers=1)
    (note,) = (tmp_path / "out" / STAGING).glob("*.parts")
    first, *rest = note.read_text().splitlines()
    note.write_text("\n".join([first, *(json.dumps([json.loads(line)[0], {"0": ""}]) for line in rest), ""]))
    fails[0] = False
    unpack(manifest, store, tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == {"model.safetensors": BIG}


GZIPPED = "application/vnd.cncf.model.weight.v1.tar+gzip"


@pytest.mark.parametrize("kind", ["in parts", "as streams", "raw"])
def test_too_many_files(kind: str, registry: StrictRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 20)

    def made(first: int, count: int) -> list[Blob]:
        names = [f"{number}" for number in range(first, first + count)]
        if kind == "raw":
            return [layer(name.encode(), RAW, name) for name in names]
        data = (
            tar({"big": BIG} | dict.fromkeys(names[1:], b"")) if kind == "in parts" else tar(dict.fromkeys(names, b"x"))
        )
        return [layer(data) if kind == "in parts" else layer(gzip.compress(data), GZIPPED)]

    store = remote(registry)
    unpack(publish(store, *made(0, 10), *made(10, 10)), store, tmp_path / "enough")
    with pytest.raises(ContentError, match="too many files"):
        unpack(publish(store, *made(0, 10), *made(10, 11)), store, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_headers_that_are_too_large_for_parts_count_once(
    registry: StrictRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 20)
    monkeypatch.setattr(module, "MAX_LOOSE", 100)
    store, files = remote(registry), {"big": BIG} | {f"{number}": b"" for number in range(19)}
    unpack(publish(store, layer(tar(files))), store, tmp_path / "out")
    assert contents(tmp_path / "out") == files


def test_a_layer_that_hides_a_folder(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    first = layer(tar({"a": b"1", "d/x": b"1", "d/e/y": b"1", "dx": b"1", "d.": b"1"}))
    second = layer(tar({"d/new": b"2", "d/.wh..wh..opq": b"", ".wh..wh.plnk": b""}))
    unpack(publish(store, first, second), store, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": b"1", "d/new": b"2", "dx": b"1", "d.": b"1"}
    top = layer(tar({".wh..wh..opq": b"", "b": b"3"}))
    unpack(publish(store, first, second, top, first), store, tmp_path / "again")
    assert contents(tmp_path / "again") == {"b": b"3", "a": b"1", "d/x": b"1", "d/e/y": b"1", "dx": b"1", "d.": b"1"}
    unpack(publish(store, first, second, top), store, tmp_path / "top")
    assert contents(tmp_path / "top") == {"b": b"3"}


def test_include_does_not_bring_back_what_was_removed(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    first = layer(tar({"model.safetensors": b"old", "d/x.safetensors": b"1", "e/y.safetensors": b"1"}))
    second = layer(tar({".wh.model.safetensors": b"", ".wh.d": b"", "new.safetensors": b"2", "other": b""}))
    unpack(publish(store, first, second), store, tmp_path / "out", ["*.safetensors"])
    assert contents(tmp_path / "out") == {"e/y.safetensors": b"1", "new.safetensors": b"2"}


@dataclass
class Silent:
    """A store whose blobs, when one looks into them, do not answer."""

    inner: Remote

    def ranged(self, descriptor: Descriptor) -> Blob:
        time.sleep(30)
        return self.inner.ranged(descriptor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_an_interruption_does_not_wait_for_headers(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    manifest, began = publish(store, LAYERS["tar"]), time.monotonic()
    with interrupted(0.5), pytest.raises(KeyboardInterrupt):
        unpack(manifest, cast(Store, Silent(store)), tmp_path / "out")
    assert time.monotonic() - began < 15


def test_a_hidden_folder_that_is_a_link_is_refused(registry: StrictRegistry, tmp_path: Path) -> None:
    store = remote(registry)
    manifest = publish(store, LAYERS["raw"])
    for folder in ("theirs", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "theirs/precious").write_bytes(b"1")
    (tmp_path / "out" / STAGING).symlink_to(tmp_path / "theirs")
    with pytest.raises(UsageError, match="something else has the name"):
        unpack(manifest, store, tmp_path / "out")
    assert contents(tmp_path / "theirs") == {"precious": b"1"}


@pytest.mark.parametrize("kind", ["raw", "tar", "small"])
def test_nothing_is_written_through_links_in_the_hidden_folder(
    kind: str, registry: StrictRegistry, tmp_path: Path
) -> None:
    store = remote(registry)
    manifest = publish(store, LAYERS[kind])
    (tmp_path / "theirs").mkdir()
    staging, made = tmp_path / "out" / STAGING, list[str]()

    def noting(descriptor: int) -> None:
        made.extend(path.name for path in staging.iterdir())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", noting)
        unpack(manifest, store, tmp_path / "out")
    staging.mkdir()
    for name in {*made, *(name.partition(".")[0] + ".parts" for name in made)}:
        (tmp_path / "theirs" / name).write_bytes(b"1")
        (staging / name).symlink_to(tmp_path / "theirs" / name)
    unpack(manifest, store, tmp_path / "out")
    assert set(contents(tmp_path / "theirs").values()) == {b"1"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
