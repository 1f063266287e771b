"""What we write is read by other clients, and what they write by us: oras and cosign, on a registry with referrers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.access import Access
from registry.blob import BytesBlob
from registry.descriptor import Digest
from registry.manifest import Manifest, make_manifest
from registry.referrers import fallback_tag
from registry.remote import Remote
from tests.parts import tiny
from tests.parts.command import events, packer, release
from tests.parts.oci11 import cosign, oci11, oras
from tests.parts.servers import Server, docker_registry

EMPTY = BytesBlob.of("application/vnd.oci.empty.v1+json", b"{}")
CARD = "application/vnd.example.scorecard+json"


@pytest.fixture(params=["right referrers", "poor referrers", "docker-registry"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Of the first two the second lists neither types nor annotations; the last has no such list at all."""
    servers = {
        "right referrers": lambda: oci11(tmp_path / "server", "full"),
        "poor referrers": lambda: oci11(tmp_path / "server", "bare"),
        "docker-registry": lambda: docker_registry(tmp_path / "server"),
    }
    with servers[request.param]() as running:
        yield running


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PACKER_CACHE", str(tmp_path / "cache"))
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    return str(release(model, "--to", f"{server.address}/acme/model:v1")["image"])


def remote(server: Server, repository: str = "acme/model") -> Remote:
    return Remote(server.address, repository, Access(), plain_http=True)


def attach(server: Server, subject: Manifest) -> Manifest:
    """A referrer of ours."""
    place, data = remote(server), BytesBlob.of(CARD, b'{"score": 1}')
    for blob in (EMPTY, data):
        place.push(blob)
    card = make_manifest(EMPTY.descriptor, [data.descriptor], {"org.example.score": "1"}, CARD, subject.descriptor)
    place.put(card)
    return card


def test_referrers_of_ours_and_of_oras(server: Server, published: str, tmp_path: Path) -> None:
    place, digest = remote(server), Digest(published.rpartition("@")[2])
    card = attach(server, place.resolve(digest))  # type: ignore[arg-type]
    shown = json.loads(oras("discover", "--plain-http", published, "--format", "json"))
    assert card.descriptor.digest in {entry["digest"] for entry in shown["manifests"]}
    (tmp_path / "note.txt").write_text("a note")
    oras(
        "attach", "--plain-http", published, "--artifact-type", "text/note", "note.txt:text/plain", cwd=tmp_path
    )  # fmt: skip
    found = {entry.digest: entry for entry in place.referrers(digest)}
    assert len(found) == 2
    assert card.descriptor.digest in found
    # a copy takes both along, and oras finds them there
    packer("copy", f"{server.address}/acme/model:v1", f"{server.address}/other/model:v1")
    there = json.loads(
        oras("discover", "--plain-http", f"{server.address}/other/model:v1", "--format", "json")
    )  # fmt: skip
    assert {entry["digest"] for entry in there["manifests"]} == set(found)
    # and the other way: what oras copies is what we read
    oras("cp", "-r", "--from-plain-http", "--to-plain-http", published, f"{server.address}/third/model:v1")
    third = {entry.digest for entry in remote(server, "third/model").referrers(digest)}
    assert third == set(found)


def test_types_and_annotations_are_listed(server: Server, published: str) -> None:
    place, digest = remote(server), Digest(published.rpartition("@")[2])
    attach(server, place.resolve(digest))  # type: ignore[arg-type]
    (entry,) = place.referrers(digest)
    tags = place.tags()
    if fallback_tag(digest) in tags:  # a registry whose own list is poor gets none, and that is its affair
        assert (entry.artifact_type, dict(entry.annotations)) == (CARD, {"org.example.score": "1"})


def test_signatures_of_cosign_go_along(server: Server, published: str, tmp_path: Path) -> None:
    environment = {"COSIGN_PASSWORD": "", "HOME": str(tmp_path)}
    cosign("generate-key-pair", cwd=tmp_path, env=environment)
    key = ("--key", "cosign.key", "--tlog-upload=false", "--allow-insecure-registry", "--allow-http-registry", "-y")
    cosign("sign", *key, published, cwd=tmp_path, env=environment)
    told = events("copy", published, f"{server.address}/signed/model@{published.rpartition('@')[2]}")
    assert told[-1]["event"] == "copied"
    check = ("--key", "cosign.pub", "--insecure-ignore-tlog", "--allow-insecure-registry", "--allow-http-registry")
    said = cosign(
        "verify", *check, f"{server.address}/signed/{published.partition('/acme/')[2]}", cwd=tmp_path, env=environment
    )
    assert published.rpartition("@")[2] in said
