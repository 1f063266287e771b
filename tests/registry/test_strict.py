"""The strict registry itself, rule by rule over plain HTTP, and with real clients."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oras.client
import pytest

from registry.blob import BytesBlob
from registry.descriptor import IMAGE_CONFIG, OCTETS, digest_of
from registry.layout import Layout
from registry.manifest import encode, make_manifest
from tests.parts.command import run
from tests.parts.strict import ECR, GAR, GHCR, StrictRegistry, strict_registry
from tests.parts.strict.manifests import EMPTY, IMAGE, INDEX

MIB = 1 << 20
DATA = bytes(range(256)) * 4
UPLOAD = {"Content-Type": "application/octet-stream"}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def location(self) -> str:
        return self.headers["Location"]

    @property
    def codes(self) -> list[str]:
        return [error["code"] for error in json.loads(self.body)["errors"]]

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def next(self) -> str:
        return re.fullmatch(r'<(.+)>; rel="next"', self.headers["Link"])[1]  # type: ignore[index]


class Client:
    """One kept connection."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=20)

    def __call__(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}, **options: Any
    ) -> Reply:
        self.connection.request(method, path, body, dict(headers), **options)
        with self.connection.getresponse() as response:
            return Reply(response.status, response.headers, response.read())

    def start(self, repository: str = "a", query: str = "") -> Reply:
        return self("POST", f"/v2/{repository}/blobs/uploads/{query}", headers={"Content-Length": "0"})

    def chunk(self, location: str, said: str, data: bytes, method: str = "PATCH") -> Reply:
        return self(method, location, data, {**UPLOAD, "Content-Range": said})

    def push(self, data: bytes, repository: str = "a") -> Reply:
        return self("PUT", f"{self.start(repository).location}&digest={digest(data)}", data, UPLOAD)

    def put(self, document: Mapping[str, Any], reference: str, kind: str = IMAGE, **headers: str) -> Reply:
        return self("PUT", f"/v2/a/manifests/{reference}", json.dumps(document), {"Content-Type": kind, **headers})


Open = Callable[..., tuple[StrictRegistry, Client]]


@pytest.fixture
def open_registry() -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def opened(*mode: Any, **switches: Any) -> tuple[StrictRegistry, Client]:
            registry = stack.enter_context(strict_registry(*mode, **switches))
            client = Client(registry.address)
            stack.callback(client.connection.close)
            return registry, client

        yield opened


def descriptor(data: bytes, kind: str = OCTETS) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def manifest(config: bytes = b"{}", layers: tuple[bytes, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(config, IMAGE_CONFIG),
        "layers": [descriptor(layer) for layer in layers],
        **more,
    }


def test_a_kept_connection_answers_more_than_once(open_registry: Open) -> None:
    _, client = open_registry()
    assert [client("GET", "/v2/").status, client("GET", "/v2/").status] == [200, 200]
    assert client("GET", "/v2/UPPER/tags/list").codes == ["NAME_INVALID"]
    assert client("GET", "/v2/nowhere").status == 404
    assert client("PATCH", "/v2/a/tags/list", b"body").status == 405


def test_monolithic_put_then_head_and_get(open_registry: Open) -> None:
    registry, client = open_registry()
    pushed = client.push(DATA)
    assert (pushed.status, pushed.headers["Docker-Content-Digest"]) == (201, digest(DATA))
    head = client("HEAD", pushed.location)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "1024", b"")
    assert client("GET", pushed.location).body == DATA
    assert client("GET", f"/v2/b/blobs/{digest(DATA)}").codes == ["BLOB_UNKNOWN"]
    assert registry.blobs("a") == {digest(DATA): DATA}
    assert (registry.uploaded(), len(registry.blobs_read())) == (1024, 2)


@pytest.mark.parametrize(
    ("asked", "status", "said", "data"),
    [
        ("bytes=10-19", 206, "bytes 10-19/1024", DATA[10:20]),
        ("bytes=1000-", 206, "bytes 1000-1023/1024", DATA[1000:]),
        ("bytes=1000-5000", 206, "bytes 1000-1023/1024", DATA[1000:]),
        ("bytes=-4", 206, "bytes 1020-1023/1024", DATA[-4:]),
        ("bytes=1024-", 416, "bytes */1024", b""),
        ("bytes=-0", 416, "bytes */1024", b""),
        ("bytes=5-4", 200, None, DATA),
    ],
)
def test_ranges_of_a_blob(open_registry: Open, asked: str, status: int, said: str | None, data: bytes) -> None:
    registry, client = open_registry()
    reply = client("GET", f"/v2/a/blobs/{registry.put_blob('a', DATA)}", headers={"Range": asked})
    assert (reply.status, reply.headers.get("Content-Range"), reply.body) == (status, said, data)


def test_chunks_come_in_order_each_at_a_new_location(open_registry: Open) -> None:
    registry, client = open_registry()
    first = client.start().location
    reply = client.chunk(first, "0-9", DATA[:10])
    assert (reply.status, reply.headers["Range"]) == (202, "0-9")
    assert reply.location != first
    assert client.chunk(first, "10-19", DATA[10:20]).codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert client("PUT", f"{first}&digest={digest(DATA)}", DATA, UPLOAD).status == 404
    done = client.chunk(f"{reply.location}&digest={digest(DATA)}", "10-1023", DATA[10:], "PUT")
    assert (done.status, registry.blobs("a")) == (201, {digest(DATA): DATA})
    assert client("GET", reply.location).codes == ["BLOB_UPLOAD_UNKNOWN"]


@pytest.mark.parametrize("said", ["0-9", "11-20", "10-20", "10-18", "bytes 10-19", "10-", "bytes=10-19/1024"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_wrong_chunk_is_refused_and_the_upload_goes_on(open_registry: Open, said: str, method: str) -> None:
    _, client = open_registry()
    location = client.chunk(client.start().location, "0-9", DATA[:10]).location
    reply = client.chunk(f"{location}&digest={digest(DATA)}", said, DATA[10:20], method)
    assert (reply.status, reply.headers["Range"], reply.location) == (416, "0-9", location)
    reply = client.chunk(location, "10-1023", DATA[10:])
    assert client("PUT", f"{reply.location}&digest={digest(DATA)}").status == 201


def test_a_chunk_of_unknown_length_is_refused(open_registry: Open) -> None:
    _, client = open_registry()
    headers = {**UPLOAD, "Content-Range": "0-9"}
    assert client("PATCH", client.start().location, iter([DATA[:10]]), headers, encode_chunked=True).status == 416


def test_streams_append(open_registry: Open) -> None:
    registry, client = open_registry()
    reply = client("PATCH", client.start().location, iter([DATA[:5], DATA[5:10]]), UPLOAD, encode_chunked=True)
    assert (reply.status, reply.headers["Range"]) == (202, "0-9")
    reply = client("PATCH", reply.location, DATA[10:20], UPLOAD)
    assert reply.headers["Range"] == "0-19"
    put = f"{reply.location}&digest={digest(DATA)}"
    assert client("PUT", put, iter([DATA[20:]]), UPLOAD, encode_chunked=True).status == 201
    assert registry.blobs("a") == {digest(DATA): DATA}
    assert registry.uploaded() == len(DATA)


def test_status_is_told_at_any_location(open_registry: Open) -> None:
    _, client = open_registry()
    first = client.start()
    assert first.headers["Range"] == "0-0"
    second = client.chunk(first.location, "0-9", DATA[:10])
    for location in (first.location, second.location):
        reply = client("GET", location)
        assert (reply.status, reply.location, reply.headers["Range"]) == (204, second.location, "0-9")
    assert client("GET", first.location.replace("/a/", "/b/")).status == 404


def test_a_cancelled_upload_is_gone(open_registry: Open) -> None:
    registry, client = open_registry()
    location = client.start().location
    assert [client("DELETE", location).status, client("DELETE", location).status] == [204, 404]
    assert client.chunk(location, "0-9", DATA[:10]).status == 404
    assert registry.uploads == {}


def test_a_wrong_digest_ends_the_upload(open_registry: Open) -> None:
    registry, client = open_registry()
    location = client.start().location
    assert client("PUT", location, DATA, UPLOAD).codes == ["DIGEST_INVALID"]
    reply = client("PUT", f"{location}&digest={digest(b'other')}", DATA, UPLOAD)
    assert (reply.status, reply.codes) == (400, ["DIGEST_INVALID"])
    assert client("GET", location).status == 404
    assert registry.blobs("a") == {}


def test_other_digests_are_followed(open_registry: Open) -> None:
    _, client = open_registry()
    name = "sha512:" + hashlib.sha512(DATA).hexdigest()
    assert client("PUT", f"{client.start().location}&digest={name}", DATA, UPLOAD).status == 201
    assert client("GET", f"/v2/a/blobs/{name}").body == DATA


def test_a_blob_is_octets(open_registry: Open) -> None:
    _, client = open_registry()
    assert client("PATCH", client.start().location, DATA, {"Content-Type": "text/plain"}).status == 415
    _, lenient = open_registry(octets=False)
    assert lenient("PATCH", lenient.start().location, DATA).status == 202


def test_post_with_a_digest_only_opens_a_session(open_registry: Open) -> None:
    registry, client = open_registry()
    reply = client("POST", f"/v2/a/blobs/uploads/?digest={digest(DATA)}", DATA, UPLOAD)
    assert (reply.status, registry.blobs("a")) == (202, {})
    assert client("PUT", f"{reply.location}&digest={digest(DATA)}", DATA, UPLOAD).status == 201


def test_only_the_last_chunk_may_be_short(open_registry: Open) -> None:
    _, client = open_registry(min_chunk=100)
    started = client.start()
    assert started.headers["OCI-Chunk-Min-Length"] == "100"
    reply = client.chunk(started.location, "0-99", DATA[:100])
    reply = client.chunk(reply.location, "100-109", DATA[100:110])
    assert client.chunk(reply.location, "110-1023", DATA[110:]).status == 416
    assert client("PUT", f"{reply.location}&digest={digest(DATA[:110])}").status == 201


def test_old_and_absolute_locations_by_choice(open_registry: Open) -> None:
    registry, client = open_registry(old_locations=True, absolute=True)
    location = client.start().location
    assert location.startswith(f"http://{registry.address}/v2/a/")
    assert [client.chunk(location, said, DATA[:5]).status for said in ("0-4", "5-9")] == [202, 202]


def broken(address: str, method: str, path: str, data: bytes, length: int) -> None:
    """Send the beginning of a body, and go away."""
    with socket.create_connection(address.split(":")) as sock:  # type: ignore[arg-type]
        head = f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {OCTETS}\r\nContent-Length: {length}\r\n"
        sock.sendall(f"{head}\r\n".encode() + data)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_resumes_after_a_disconnect(open_registry: Open, method: str) -> None:
    registry, client = open_registry()
    location = client.start().location
    broken(registry.address, method, f"{location}&digest={digest(DATA)}", DATA[:300], len(DATA))
    for _ in range(100):
        reply = client("GET", location)
        if reply.headers["Range"] != "0-0":
            break
    assert (reply.location, reply.headers["Range"]) == (location, "0-299")
    reply = client.chunk(reply.location, "300-1023", DATA[300:])
    assert client("PUT", f"{reply.location}&digest={digest(DATA)}").status == 201
    assert [(one.status, one.received) for one in registry.requests if one.status == 0] == [(0, 300)]
    assert registry.uploaded() == len(DATA)


@pytest.mark.parametrize("size", [len(DATA), 64 * MIB])
def test_a_cut_ends_the_connection_in_the_body(open_registry: Open, size: int) -> None:
    registry, client = open_registry()
    registry.cuts.append(300)
    location = client.start().location
    with pytest.raises(OSError):
        client("PATCH", location, bytes(size), UPLOAD)
    client.connection.close()
    assert client("GET", location).headers["Range"] == "0-299"
    assert registry.cuts == []


def test_mounts(open_registry: Open) -> None:
    registry, client = open_registry()
    name = registry.put_blob("source", DATA)
    reply = client.start(query=f"?mount={name}&from=source")
    assert (reply.status, reply.location) == (201, f"/v2/a/blobs/{name}")
    assert (registry.blobs("a"), registry.uploaded()) == ({name: DATA}, 0)
    for query in (f"?mount={name}&from=other", f"?mount={digest(b'')}&from=source", f"?mount={name}"):
        assert client.start("b", query).status == 202
    assert client.start("b", "?mount=nonsense&from=source").status == 202
    registry, client = open_registry(anonymous_mounts=True)
    assert client.start(query=f"?mount={registry.put_blob('source', DATA)}").status == 201


def test_a_mount_needs_a_right_to_read(open_registry: Open) -> None:
    def authorize(headers: Mapping[str, str], method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        return (403, {}) if repository == "secret" else None

    registry, client = open_registry(authorize=authorize)
    assert client.start(query=f"?mount={registry.put_blob('secret', DATA)}&from=secret").status == 202


def test_deletes(open_registry: Open) -> None:
    registry, client = open_registry()
    path = f"/v2/a/blobs/{registry.put_blob('a', DATA)}"
    assert [client("DELETE", path).status, client("DELETE", path).status] == [202, 404]
    registry, client = open_registry(deletes=False)
    assert client("DELETE", f"/v2/a/blobs/{registry.put_blob('a', DATA)}").status == 405


def test_a_manifest_by_tag_and_by_digest(open_registry: Open) -> None:
    registry, client = open_registry()
    registry.put_blob("a", b"{}")
    text = json.dumps(manifest())
    name = digest(text.encode())
    reply = client.put(manifest(), "v1")
    assert (reply.status, reply.headers["Docker-Content-Digest"]) == (201, name)
    assert reply.location == f"/v2/a/manifests/{name}"
    for reference in ("v1", name):
        got = client("GET", f"/v2/a/manifests/{reference}", headers={"Accept": f"{INDEX}, {IMAGE}"})
        assert (got.status, got.body.decode(), got.headers["Content-Type"]) == (200, text, IMAGE)
        head = client("HEAD", f"/v2/a/manifests/{reference}")
        assert (head.headers["Content-Length"], head.headers["Docker-Content-Digest"]) == (str(len(text)), name)
    assert client("GET", "/v2/a/manifests/v1", headers={"Accept": INDEX}).status == 404
    assert client("GET", "/v2/a/manifests/v2").codes == ["MANIFEST_UNKNOWN"]
    assert client.put(manifest(), name).status == 201
    assert client.put(manifest(annotations={}), name).codes == ["DIGEST_INVALID"]
    assert (registry.tags("a"), registry.problems()) == ({"v1": name}, [])


@pytest.mark.parametrize(
    ("document", "reference", "kind"),
    [
        (manifest(), "v1", INDEX),
        (manifest(), "v1", "application/json"),
        (manifest(), "-v1", IMAGE),
        (manifest(schemaVersion=1), "v1", IMAGE),
        ({**manifest(), "config": descriptor(b"{}", EMPTY)}, "v1", IMAGE),
        ({**manifest(), "layers": [{}]}, "v1", IMAGE),
        ({"mediaType": INDEX, "schemaVersion": 2}, "v1", INDEX),
    ],
)
def test_wrong_manifests(open_registry: Open, document: dict[str, Any], reference: str, kind: str) -> None:
    registry, client = open_registry()
    registry.put_blob("a", b"{}")
    reply = client.put(document, reference, kind)
    assert (reply.status, reply.codes) == (400, ["MANIFEST_INVALID"])


def test_children_come_first(open_registry: Open) -> None:
    registry, client = open_registry()
    whole = manifest(layers=(b"one", b"two"))
    registry.put_blob("a", b"one")
    reply = client.put(whole, "v1")
    assert (reply.status, reply.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"] * 2)
    details = [error["detail"]["digest"] for error in reply.document["errors"]]
    assert details == [digest(b"{}"), digest(b"two")]
    registry.put_blob("a", b"{}")
    registry.put_blob("a", b"two")
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(json.dumps(whole).encode(), IMAGE)]}
    assert client.put(index, "all", INDEX).codes == ["MANIFEST_BLOB_UNKNOWN"]
    assert client.put(whole, digest(json.dumps(whole).encode())).status == 201
    assert client.put(index, "all", INDEX).status == 201
    wrong = manifest(layers=(b"one",))
    wrong["layers"][0]["size"] = 4
    assert client.put(wrong, "v1").status == 404


def test_a_manifest_has_at_most_4_mib(open_registry: Open) -> None:
    registry, client = open_registry()
    registry.put_blob("a", b"{}")
    room = 4 * MIB - len(json.dumps(manifest(annotations={"a": ""})))
    assert client.put(manifest(annotations={"a": "x" * room}), "v1").status == 201
    assert client.put(manifest(annotations={"a": "x" * (room + 1)}), "v1").status == 413


def test_deleting_manifests(open_registry: Open) -> None:
    registry, client = open_registry()
    name = registry.put_manifest("a", manifest(), "v1")
    registry.put_manifest("a", manifest(), "v2")
    assert client("DELETE", "/v2/a/manifests/v1").status == 202
    assert registry.tags("a") == {"v2": name}
    assert client("DELETE", f"/v2/a/manifests/{name}").status == 202
    assert (registry.tags("a"), registry.manifests("a")) == ({}, {})
    assert client("DELETE", f"/v2/a/manifests/{name}").codes == ["MANIFEST_UNKNOWN"]


def test_etags(open_registry: Open) -> None:
    registry, client = open_registry(etag=True)
    registry.put_blob("a", b"{}")
    assert client.put(manifest(), "v1", **{"If-Match": "*"}).status == 412
    assert client.put(manifest(), "v1", **{"If-None-Match": "*"}).status == 201
    etag = client("HEAD", "/v2/a/manifests/v1").headers["ETag"]
    changed = manifest(annotations={"a": "b"})
    assert client.put(changed, "v1", **{"If-None-Match": "*"}).status == 412
    assert client.put(changed, "v1", **{"If-Match": etag}).status == 201
    assert client.put(manifest(), "v1", **{"If-Match": etag}).status == 412
    assert list(registry.tags("a").values()) == [digest(json.dumps(changed).encode())]


def test_tags_come_in_pages(open_registry: Open) -> None:
    registry, client = open_registry(page=2)
    assert client("GET", "/v2/a/tags/list").codes == ["NAME_UNKNOWN"]
    for tag in ("c", "a", "e", "b", "d"):
        registry.put_manifest("a", manifest(), tag)
    path, pages = "/v2/a/tags/list?n=10", []
    while path:
        reply = client("GET", path)
        pages.append(reply.document["tags"])
        path = reply.next if "Link" in reply.headers else ""
    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    assert client("GET", "/v2/a/tags/list?n=1&last=b").document == {"name": "a", "tags": ["c"]}
    nothing = client("GET", "/v2/a/tags/list?n=0")
    assert (nothing.document["tags"], "Link" in nothing.headers) == ([], False)
    assert client("GET", "/v2/a/tags/list?n=two").status == 400


def test_a_subject_has_referrers(open_registry: Open) -> None:
    registry, client = open_registry(page=1)
    registry.put_blob("a", b"{}")
    subject = descriptor(b"not there yet", IMAGE)
    path = f"/v2/a/referrers/{subject['digest']}"
    empty = client("GET", path)
    assert (empty.status, empty.headers["Content-Type"], empty.document["manifests"]) == (200, INDEX, [])
    card = manifest(subject=subject, artifactType="application/card", annotations={"a": "b", "c": "d"})
    reply = client.put(card, "card")
    assert (reply.status, reply.headers["OCI-Subject"]) == (201, subject["digest"])
    client.put(manifest(subject=subject), "image")
    client.put({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": subject}, "index", INDEX)
    assert "OCI-Subject" not in client.put(manifest(), "other").headers
    found, link = [], path
    while link:
        page = client("GET", link)
        found += page.document["manifests"]
        link = page.next if "Link" in page.headers else ""
    kinds = {one.get("artifactType"): one for one in found}
    assert (len(found), set(kinds)) == (3, {"application/card", IMAGE_CONFIG, None})
    expected = {**descriptor(json.dumps(card).encode(), IMAGE), "artifactType": "application/card"}
    assert kinds["application/card"] == {**expected, "annotations": {"a": "b", "c": "d"}}
    filtered = client("GET", f"{path}?artifactType=application%2Fcard")
    assert filtered.document["manifests"] == [kinds["application/card"]]
    assert (filtered.headers["OCI-Filters-Applied"], "Link" in filtered.headers) == ("artifactType", False)
    assert client("GET", "/v2/a/referrers/latest").codes == ["DIGEST_INVALID"]
    assert registry.problems() == []


def test_referrers_may_be_unknown(open_registry: Open) -> None:
    registry, client = open_registry(referrers="none")
    registry.put_blob("a", b"{}")
    subject = descriptor(b"subject", IMAGE)
    assert client("GET", f"/v2/a/referrers/{subject['digest']}").status == 404
    assert "OCI-Subject" not in client.put(manifest(subject=subject), "v1").headers
    registry, client = open_registry(filters=False)
    registry.put_manifest("a", manifest(subject=subject))
    reply = client("GET", f"/v2/a/referrers/{subject['digest']}?artifactType=other")
    assert (len(reply.document["manifests"]), "OCI-Filters-Applied" in reply.headers) == (1, False)


def test_ghcr(open_registry: Open) -> None:
    registry, client = open_registry(GHCR)
    data = bytes(4 * MIB + 1)
    location = client.start().location
    assert client.chunk(location, f"0-{4 * MIB}", data).status == 416
    assert client.chunk(location, f"0-{4 * MIB - 1}", data[:-1]).status == 202
    assert client("PATCH", client.start().location, data, UPLOAD).status == 202
    assert client.push(data).status == 201
    assert client.start("b", f"?mount={digest(data)}&from=a").status == 202
    page = client("GET", f"/v2/a/referrers/{digest(data)}")
    assert (page.status, registry.storage_address in page.location) == (303, True)
    other = Client(registry.storage_address)
    html = other("GET", page.location)
    other.connection.close()
    assert (html.status, html.headers["Content-Type"]) == (404, "text/html")


def test_ecr(open_registry: Open) -> None:
    registry, client = open_registry(ECR)
    reply = client.chunk(client.start().location, "0-9", DATA[:10])
    assert (reply.status, reply.headers["Range"]) == (201, "0-9")
    reply = client.chunk(reply.location, "10-1023", DATA[10:])
    assert (reply.status, reply.headers["Range"]) == (201, "0-9")
    assert client("GET", reply.location).headers["Range"] == "0-9"
    assert client("PUT", f"{reply.location}&digest={digest(DATA)}").status == 201
    assert client.push(b"monolithic").status == 201
    assert registry.blobs("a") == {digest(DATA): DATA, digest(b"monolithic"): b"monolithic"}


def test_gar(open_registry: Open) -> None:
    _, client = open_registry(GAR)
    reply = client("PATCH", client.start().location, DATA, UPLOAD)
    assert (reply.status, reply.codes) == (405, ["UNSUPPORTED"])
    assert client.push(DATA).status == 201


@pytest.mark.parametrize("known", [True, False])
def test_a_layer_may_be_too_long(open_registry: Open, known: bool) -> None:
    registry, client = open_registry(max_layer=1000)
    body = DATA if known else iter([DATA[:600], DATA[600:]])
    location = client.start().location
    assert client("PATCH", location, body, UPLOAD, encode_chunked=not known).status == 413
    assert (registry.uploaded(), registry.uploads) == (1024, {})
    assert client.push(DATA[:1000]).status == 201


def test_a_refusal_may_come_early(open_registry: Open) -> None:
    registry, client = open_registry(GAR, drains=False)
    path = client.start().location
    assert client("PATCH", path, b"", UPLOAD).status == 405
    reply = client("PATCH", path, b"little", UPLOAD)
    assert (reply.status, reply.headers["Connection"], registry.uploaded()) == (405, "close", 0)


def test_the_object_storage_refuses_credentials(open_registry: Open) -> None:
    registry, client = open_registry(redirects=True)
    reply = client("GET", f"/v2/a/blobs/{registry.put_blob('a', DATA)}", headers={"Authorization": "Bearer x"})
    assert (reply.status, reply.body) == (307, b"")
    storage = Client(registry.storage_address)
    whole = storage("GET", reply.location)
    part = storage("GET", reply.location, headers={"Range": "bytes=0-9"})
    refused = storage("GET", reply.location, headers={"Authorization": "Bearer x"})
    unsigned = storage("GET", reply.location.partition("?")[0])
    storage.connection.close()
    assert [one.status for one in (whole, part, refused, unsigned)] == [200, 206, 400, 403]
    assert (whole.body, part.body) == (DATA, DATA[:10])
    assert [("Authorization" in one.headers) for one in registry.storage_requests] == [False, False, True, False]


def test_authorization_comes_first(open_registry: Open) -> None:
    asked = []

    def authorize(headers: Mapping[str, str], method: str, repository: str) -> tuple[int, dict[str, str]] | None:
        asked.append((method, repository))
        return None if headers.get("Authorization") == "Bearer x" else (401, {"WWW-Authenticate": 'Bearer realm="r"'})

    registry, client = open_registry(authorize=authorize)
    reply = client("GET", "/v2/")
    assert (reply.status, reply.codes) == (401, ["UNAUTHORIZED"])
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="r"'
    reply = client(
        "PATCH", client("POST", "/v2/a/blobs/uploads/", headers={"authorization": "Bearer x"}).location, DATA
    )
    assert (reply.status, registry.requests[-1].received) == (401, 1024)
    assert asked == [("GET", ""), ("POST", "a"), ("PATCH", "a")]


def test_a_sink_counts(open_registry: Open) -> None:
    registry, client = open_registry(sink=True)
    reply = client("PATCH", client.start().location, bytes(10 * MIB), UPLOAD)
    assert client("PUT", f"{reply.location}&digest={digest(b'any')}").status == 201
    head = client("HEAD", f"/v2/a/blobs/{digest(b'any')}")
    assert (head.headers["Content-Length"], registry.uploaded()) == (str(10 * MIB), 10 * MIB)
    assert registry.blobs("a") == {digest(b"any"): b""}


def test_problems_are_told() -> None:
    registry = StrictRegistry()
    name = registry.put_manifest("a", manifest(layers=(b"one",)), "v1")
    registry.put_blob("a", b"{}")
    registry.repository("a").tags["v2"] = digest(b"nothing")
    assert registry.problems() == [
        f"a: tag v2 points at {digest(b'nothing')}, which is not there",
        f"a: manifest {name} points at {digest(b'one')}, which is not there with its size",
    ]


def small_layout(folder: Path) -> Layout:
    """A layout with one image, tagged v1."""
    layout = Layout(folder)
    layer = BytesBlob.of("application/vnd.oci.image.layer.v1.tar", bytes(20 * MIB))
    history = {"diff_ids": [digest_of(bytes(20 * MIB))], "type": "layers"}
    config = BytesBlob.of(IMAGE_CONFIG, encode({"os": "linux", "architecture": "amd64", "rootfs": history}))
    for blob in (layer, config):
        layout.push(blob)
    image = make_manifest(config.descriptor, [layer.descriptor], {})
    layout.put(image)
    layout.tag(image, "v1")
    return layout


@pytest.mark.parametrize("switches", [{}, {"absolute": True}, {"redirects": True}])
def test_skopeo_copies_there_and_back(open_registry: Open, tmp_path: Path, switches: dict[str, bool]) -> None:
    registry, _ = open_registry(**switches)
    layout = small_layout(tmp_path / "layout")
    remote = f"docker://{registry.address}/deep/a:v1"
    copy = ("skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", "--src-tls-verify=false")
    run(*copy, f"oci:{tmp_path / 'layout'}:v1", remote)
    run(*copy, remote, f"oci:{tmp_path / 'back'}:v1")
    digests = [layout.resolve("v1").descriptor.digest, Layout(tmp_path / "back").resolve("v1").descriptor.digest]
    assert digests == [registry.tags("deep/a")["v1"]] * 2
    assert registry.problems() == []
    assert bool(registry.storage_requests) == ("redirects" in switches)


def test_skopeo_streams_to_ghcr(open_registry: Open, tmp_path: Path) -> None:
    registry, _ = open_registry(GHCR)
    small_layout(tmp_path / "layout")
    target = f"docker://{registry.address}/a:v1"
    run("skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{tmp_path / 'layout'}:v1", target)
    assert (list(registry.tags("a")), registry.problems()) == (["v1"], [])
    assert max(one.received for one in registry.requests if one.method == "PATCH") == 20 * MIB


@pytest.mark.parametrize("chunked", [True, False])
def test_oras_pushes_and_pulls(
    open_registry: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    registry, _ = open_registry()
    monkeypatch.chdir(tmp_path)
    Path("file.bin").write_bytes(bytes(17 * MIB))
    client = oras.client.OrasClient(hostname=registry.address, insecure=True)
    client.push(target=f"{registry.address}/a/b:v1", files=["file.bin"], do_chunked=chunked)
    client.pull(target=f"{registry.address}/a/b:v1", outdir=str(tmp_path / "out"))
    assert (tmp_path / "out/file.bin").read_bytes() == bytes(17 * MIB)
    assert registry.problems() == []
