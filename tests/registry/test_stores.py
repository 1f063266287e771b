"""One contract for every store, and what only a registry does."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.access import Access
from registry.blob import BytesBlob
from registry.descriptor import IMAGE_CONFIG, OCTETS, Descriptor, digest_of
from registry.errors import ContentError, NotFoundError, SpaceError, UsageError
from registry.layout import Layout
from registry.manifest import MAX_MANIFEST, encode, make_index, make_manifest
from registry.outcome import Outcome
from registry.reference import LayoutReference, Reference, parse_reference
from registry.remote import Remote
from registry.store import Store
from registry.transfer import push_blobs
from tests.parts import tiny
from tests.parts.command import packer
from tests.parts.servers import Server, docker_registry

USER, PASSWORD = "tester", "correct horse"
HTPASSWD = f"{USER}:$2b$05$dsHFsFvTBwUgOgoe6JJ/6e8JE2463JkQRChlW5n74at9X.DdjWU6q\n"


@pytest.fixture(params=["layout", "registry"])
def store(request: pytest.FixtureRequest, registry: Server, tmp_path: Path) -> Store:
    if request.param == "layout":
        return Layout(tmp_path / "layout")
    name = tmp_path.name.lower().replace("[", "-").strip("-]")
    return Remote(registry.address, f"contract/{name.rstrip('_-')}", Access(), plain_http=True)


def test_what_is_pushed_is_there_and_is_not_sent_again(store: Store) -> None:
    blob = BytesBlob.of(OCTETS, b"some bytes")
    assert [store.push(blob), store.push(blob)] == [Outcome.SENT, Outcome.PRESENT]
    assert store.blob(blob.descriptor).open().read() == b"some bytes"


def test_empty_blob(store: Store) -> None:
    blob = BytesBlob.of(OCTETS, b"")
    assert store.push(blob)
    assert store.blob(blob.descriptor).open().read() == b""


def test_manifests_and_tags(store: Store) -> None:
    config = BytesBlob.of(IMAGE_CONFIG, encode({"os": "linux", "architecture": "amd64"}))
    store.push(config)
    manifest = make_manifest(config.descriptor, [], {"a": "ü"})
    index = make_index([manifest.descriptor], {})
    assert [store.put(manifest), store.put(manifest), store.put(index)] == [True, False, True]
    assert [store.tag(index, "v1"), store.tag(index, "v1")] == [True, False]
    assert store.resolve("v1") == store.resolve(index.descriptor.digest) == index
    assert store.tag(manifest, "v1")
    assert store.resolve("v1") == manifest


def test_what_is_not_there(store: Store) -> None:
    store.push(BytesBlob.of(OCTETS, b"x"))
    for name in ("v9", digest_of(b"never")):
        with pytest.raises(NotFoundError):
            store.resolve(name)
    with pytest.raises(NotFoundError):
        store.blob(Descriptor(OCTETS, digest_of(b"never"), 5)).open().read()


def test_wrong_size_is_noticed(store: Store) -> None:
    blob = BytesBlob.of(OCTETS, b"some bytes")
    store.push(blob)
    for size in (9, 11):
        with pytest.raises(ContentError):
            store.blob(Descriptor(OCTETS, blob.descriptor.digest, size)).open().read()


def test_blob_that_lies_is_not_kept(store: Store) -> None:
    liar = BytesBlob(Descriptor(OCTETS, digest_of(b"promised"), 9), b"delivered")
    with pytest.raises(Exception, match=r"not what its descriptor|DIGEST"):
        store.push(liar)
    with pytest.raises(NotFoundError):
        store.blob(liar.descriptor).open().read()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A registry that wants a password."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}"
    with docker_registry(tmp_path / "registry", auth) as server:
        yield server


def test_password_from_dockers_file(guarded: Server, tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    home = {"HOME": str(tmp_path / "home")}
    build = ("build", model, "--to", f"{guarded.address}/a/b:v1")
    done = packer(*build, env=home, check=False)
    assert (done.returncode, "packer login" in done.stderr) == (5, True)
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "home/.docker").mkdir(parents=True)
    (tmp_path / "home/.docker/config.json").write_text(json.dumps({"auths": {guarded.address: {"auth": secret}}}))
    packer(*build, env=home)
    packer("pull", f"{guarded.address}/a/b:v1", tmp_path / "out", env=home)
    (tmp_path / "home/.docker/config.json").write_text(json.dumps({"auths": {guarded.address: {"auth": "eDp5"}}}))
    done = packer(*build, env=home, check=False)
    assert (done.returncode, "Traceback" in done.stderr, secret in done.stderr) == (5, False, False)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("reg.example.com/a/b", Reference("reg.example.com", "a/b", "latest")),
        ("localhost:5000/a:v1", Reference("localhost:5000", "a", "v1")),
        ("oci://127.0.0.1:5000/a__b/c-d:V.1", Reference("127.0.0.1:5000", "a__b/c-d", "V.1")),
        (f"r.io/a@{digest_of(b'')}", Reference("r.io", "a", "", digest_of(b""))),
        ("oci:out", LayoutReference(Path("out"), "latest")),
        ("oci:./out/x:v1", LayoutReference(Path("out/x"), "v1")),
        (f"oci:/out@{digest_of(b'')}", LayoutReference(Path("/out"), "", digest_of(b""))),
    ],
)
def test_references(text: str, parsed: Reference | LayoutReference) -> None:
    assert parse_reference(text) == parsed
    assert parse_reference(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model",
        "a/b",
        "r.io/",
        "r.io/A",
        "r.io/a:",
        "r.io/a:-x",
        "r.io/a@sha256:12",
        "r.io/a..b",
        "oci:",
        "http://r.io/a",
    ],
)
def test_references_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


def test_what_a_killed_writer_left_in_a_layout_is_removed(tmp_path: Path) -> None:
    def partial(name: str, age: int) -> Path:
        path = tmp_path / "blobs/sha256" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    Layout(tmp_path).push(BytesBlob.of(OCTETS, b"first"))
    abandoned, young, held = partial(".partial-a", 3600), partial(".partial-b", 0), partial(".partial-c", 3600)
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Layout(tmp_path).push(BytesBlob.of(OCTETS, b"second"))
    assert [path.exists() for path in (abandoned, young, held)] == [False, True, True]


def test_a_pipe_in_a_layout_stops_nobody(tmp_path: Path) -> None:
    Layout(tmp_path).push(BytesBlob.of(OCTETS, b"first"))
    os.mkfifo(tmp_path / "blobs/sha256/.partial-pipe")
    assert Layout(tmp_path).push(BytesBlob.of(OCTETS, b"second"))


def test_a_layout_never_gets_an_index_that_it_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    manifest = make_manifest(BytesBlob.of(IMAGE_CONFIG, b"{}").descriptor, [], {})
    layout.put(manifest)
    monkeypatch.setattr("registry.layout.MAX_MANIFEST", 4096)
    with pytest.raises(UsageError, match="too many tags"):
        for number in range(100):
            layout.tag(manifest, f"v{number}")
    assert layout.tags()


def test_room_is_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    halves = [BytesBlob(Descriptor(OCTETS, digest_of(bytes([n])), 1 << 60), b"") for n in range(2)]
    small = BytesBlob.of(OCTETS, b"small")
    with pytest.raises(SpaceError, match="too full"):
        push_blobs([small, *halves], Layout(tmp_path / "layout"), 1)
    assert not (tmp_path / "layout").exists()


def test_an_absurd_index_of_a_layout(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text("{}")
    (tmp_path / "index.json").write_bytes(b" " * (MAX_MANIFEST + 1))
    with pytest.raises(ContentError, match="too large"):
        Layout(tmp_path).tags()
