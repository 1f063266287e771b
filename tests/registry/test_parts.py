"""What the tests of transfers stand on does what it says: tokens, TLS, nginx, faults and a registry with referrers."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from tests.parts import oci11 as clients
from tests.parts.containerd import containerd
from tests.parts.faults import KINDS, Fault, Faults, Kind, Place, fault_proxy
from tests.parts.nginx import nginx
from tests.parts.oci11 import oci11
from tests.parts.servers import Server, docker_registry, end, reserved_port
from tests.parts.tls import Certificates, certificates, tls_registry
from tests.parts.tokens import Asked, Tokens, User, token_server

DATA = os.urandom(3_000_000)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
USERS = {"ada": User("secret", {"acme/*": "pull,push"}), "bob": User("hidden", {"acme/open": "pull"})}


def push(base: str, repository: str, data: bytes = DATA, **options: Any) -> requests.Response:
    """Push a blob by one PUT."""
    begun = requests.post(f"{base}/v2/{repository}/blobs/uploads/", timeout=20, **options)
    assert begun.status_code == 202, begun.text
    location = urljoin(base, begun.headers["Location"])
    digest = {"digest": "sha256:" + hashlib.sha256(data).hexdigest()}
    return requests.put(location, params=digest, data=data, timeout=20, **options)


# ports


def test_a_reserved_port_is_for_who_is_told_it() -> None:
    with reserved_port() as port:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            socket.create_connection(("127.0.0.1", port)).close()


# tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokens]:
    with token_server(tmp_path_factory.mktemp("tokens"), USERS, anonymous={"acme/open": "pull"}) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants those tokens."""
    with docker_registry(tmp_path_factory.mktemp("guarded"), tokens.config()) as server:
        yield f"http://{server.address}"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def status(base: str, token: str, path: str = "acme/a/tags/list") -> int:
    return requests.get(f"{base}/v2/{path}", headers=bearer(token), timeout=20).status_code


def test_a_registry_takes_only_the_right_token(tokens: Tokens, guarded: str, tmp_path: Path) -> None:
    refused = requests.get(f"{guarded}/v2/acme/a/tags/list", timeout=20)
    assert refused.status_code == 401
    told = refused.headers["WWW-Authenticate"]
    assert told == f'Bearer realm="{tokens.realm}",service="test-registry",scope="repository:acme/a:pull"'
    good = tokens.token("ada", "repository:acme/a:pull,push")
    assert status(guarded, good) == 404, "no such repository, but allowed"
    assert push(guarded, "acme/a", headers=bearer(good)).status_code == 201
    assert status(guarded, "nonsense") == 401
    assert status(guarded, good[:-8] + "AAAAAAAA") == 401
    assert status(guarded, tokens.token("ada", "repository:acme/b:pull")) == 401
    with token_server(tmp_path, USERS) as stranger:
        assert status(guarded, stranger.token("ada", "repository:acme/a:pull")) == 401


def test_a_token_expires(tokens: Tokens, guarded: str) -> None:
    start = time.monotonic()
    token = tokens.token("ada", "repository:acme/a:pull")
    while time.monotonic() < start + 1.5:
        assert status(guarded, token) in (200, 404)
        time.sleep(0.2)
    time.sleep(start + 3.2 - time.monotonic())
    assert status(guarded, token) == 401


def test_what_a_token_server_answers_and_remembers(tokens: Tokens, guarded: str) -> None:
    tokens.asked.clear()
    scopes = ["repository:acme/a:pull,push", "repository:other/b:pull"]
    query = {"service": "test-registry", "scope": scopes, "client_id": "me"}
    answer = requests.get(tokens.realm, params=query, auth=("ada", "secret"), timeout=20).json()
    assert answer["expires_in"] == 2 and answer["token"] == answer["access_token"] and answer["issued_at"]
    assert status(guarded, answer["token"]) in (200, 404)
    assert status(guarded, answer["token"], "other/b/tags/list") == 401, "less is granted, silently"
    assert requests.get(tokens.realm, params=query, auth=("ada", "wrong"), timeout=20).status_code == 401
    assert tokens.asked == [
        Asked("GET", "basic", "ada", "secret", "test-registry", "me", tuple(scopes), False, 200),
        Asked("GET", "basic", "ada", "wrong", "test-registry", "me", tuple(scopes), False, 401),
    ]


def test_anonymous_tokens(tokens: Tokens, guarded: str) -> None:
    query = {"service": "test-registry", "scope": ["repository:acme/open:pull,push", "repository:acme/a:pull"]}
    token = requests.get(tokens.realm, params=query, timeout=20).json()["token"]
    assert status(guarded, token, "acme/open/tags/list") == 404
    assert status(guarded, token) == 401
    assert requests.post(f"{guarded}/v2/acme/open/blobs/uploads/", headers=bearer(token), timeout=20).status_code == 401


def test_oauth2(tokens: Tokens, guarded: str) -> None:
    tokens.asked.clear()
    scope = {"service": "test-registry", "scope": "repository:acme/a:pull repository:acme/b:pull,push"}
    form = {"grant_type": "password", "username": "ada", "password": "secret", "access_type": "offline", **scope}
    first = requests.post(tokens.realm, data=form, timeout=20).json()
    assert push(guarded, "acme/b", headers=bearer(first["access_token"])).status_code == 201
    again = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], **scope}
    second = requests.post(tokens.realm, data=again, timeout=20).json()
    assert "refresh_token" not in second
    assert status(guarded, second["access_token"], "acme/b/tags/list") in (200, 404)
    wrong = requests.post(tokens.realm, data={**again, "refresh_token": "other"}, timeout=20)
    assert wrong.status_code == 401
    assert [(asked.grant, asked.secret, asked.offline, asked.status) for asked in tokens.asked] == [
        ("password", "secret", True, 200),
        ("refresh_token", first["refresh_token"], False, 200),
        ("refresh_token", "other", False, 401),
    ]
    assert tokens.asked[0].scopes == ("repository:acme/a:pull", "repository:acme/b:pull,push")


def test_a_token_server_of_few_words(tmp_path: Path) -> None:
    """No OAuth2, no life told, an identity that was there before, an answer that is an error."""
    with token_server(tmp_path, USERS, fields=("access_token",), post=False, instead=[503], tls=True) as tokens:
        ca = str(certificates().ca.certificate)
        ask: dict[str, Any] = {"params": {"service": "test-registry"}, "verify": ca, "timeout": 20}
        assert requests.get(tokens.realm, **ask).status_code == 503
        assert list(requests.get(tokens.realm, **ask).json()) == ["access_token"]
        assert requests.post(tokens.realm, data={"service": "test-registry"}, verify=ca, timeout=20).status_code == 404
        tokens.post = True
        form = {"service": "test-registry", "grant_type": "refresh_token", "refresh_token": tokens.identity("bob")}
        assert requests.post(tokens.realm, data=form, verify=ca, timeout=20).status_code == 200


# TLS


def test_tls_is_verified(tmp_path: Path) -> None:
    made = certificates()
    with tls_registry(tmp_path) as server:
        url = f"https://{server.address}/v2/"
        assert requests.get(url, verify=str(made.ca.certificate), timeout=20).status_code == 200
        assert requests.get(url.replace("127.0.0.1", "localhost"), verify=str(made.ca.certificate), timeout=20).ok
        for authority in (True, str(made.stranger.certificate)):
            with pytest.raises(requests.exceptions.SSLError):
                requests.get(url, verify=authority, timeout=20)


def test_tls_with_certificates_of_clients(tmp_path: Path) -> None:
    made = certificates()
    with tls_registry(tmp_path, clients=True) as server:
        url, ca = f"https://{server.address}/v2/", str(made.ca.certificate)
        shown = (str(made.client.certificate), str(made.client.key))
        assert requests.get(url, verify=ca, cert=shown, timeout=20).status_code == 200
        assert not accepted(server, made)


def accepted(server: Server, made: Certificates) -> bool:
    """Whether a client without a certificate gets an answer."""
    context = ssl.create_default_context(cafile=made.ca.certificate)
    connection = http.client.HTTPSConnection(server.address, context=context, timeout=20)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


# nginx


def test_nginx_has_limits(registry: Server, tmp_path: Path) -> None:
    with nginx(tmp_path, registry.address, max_body="1m") as server:
        base = f"http://{server.address}"
        assert push(base, "nginx/a", DATA[:1_000_000]).status_code == 201
        assert push(base, "nginx/a", DATA[:1_100_000]).status_code == 413


@pytest.mark.parametrize("buffering", [True, False])
def test_nginx_passes_on_and_does_not_wait(registry: Server, tmp_path: Path, buffering: bool) -> None:
    with nginx(tmp_path, registry.address, body_timeout="1s", buffering=buffering) as server:
        assert push(f"http://{server.address}", f"nginx/{buffering}".lower()).status_code == 201
        begun = requests.post(f"http://{server.address}/v2/nginx/b/blobs/uploads/", timeout=20)
        host, _, port = server.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            path = begun.headers["Location"].partition(server.address)[2]
            head = f"PATCH {path} HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: 100\r\n\r\nfew"
            connection.sendall(head.encode())
            start = time.monotonic()
            while connection.recv(4096):
                pass
            assert 0.8 < time.monotonic() - start < 8


# faults


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A registry that holds a blob, and says places without its own name."""
    with docker_registry(tmp_path_factory.mktemp("far"), http="relativeurls: true") as server:
        assert push(f"http://{server.address}", "faults/a").status_code == 201
        yield server


def faults_of(kind: Kind, place: Place, act: Callable[[str], Any], target: str) -> tuple[Any, Fault]:
    """What came of a request with one fault of this kind in this place, by the first seed that has it."""
    for seed in range(100):
        faults = Faults(seed, 1, [kind], stall=0.5, delay=0.3, retry_after=7, limit=1)
        trial = Faults(seed, 1, [kind]).plan("GET", "", ranged=True)
        if trial and trial.place == place:
            with fault_proxy(target, faults) as address:
                outcome = act(f"http://{address}")
            assert len(faults.done) == 1, faults
            return outcome, faults.done[0]
    raise AssertionError(f"no seed has {kind} in {place}")


BLOB = f"/v2/faults/a/blobs/{DIGEST}"


def fetch(base: str, **headers: str) -> tuple[requests.Response | Exception, float]:
    """A blob's answer, or the error instead, and how long it took."""
    start = time.monotonic()
    try:
        return requests.get(base + BLOB, headers=headers, timeout=20), time.monotonic() - start
    except requests.RequestException as error:
        return error, time.monotonic() - start


def begin(base: str) -> str:
    """The path of an upload that has begun."""
    return requests.post(f"{base}/v2/faults/b/blobs/uploads/", timeout=20).headers["Location"]


def stored(server: Server, path: str) -> int:
    """How many bytes of an upload the registry has; it tells that only to who knows the Location that it gave last."""
    upload = path.partition("?")[0].rpartition("/")[2]
    file = server.log.parent / "data/docker/registry/v2/repositories/faults/b/_uploads" / upload / "data"
    return file.stat().st_size if file.exists() else 0


def test_without_faults_all_goes_through(far: Server) -> None:
    """Every shape of body, on one connection."""
    faults = Faults(1, 0)
    with fault_proxy(far.address, faults) as address, requests.Session() as session:
        base = f"http://{address}"
        assert session.get(base + BLOB, timeout=20).content == DATA
        assert session.head(base + BLOB, timeout=20).headers["Content-Length"] == str(len(DATA))
        ranged = session.get(base + BLOB, headers={"Range": "bytes=10-19"}, timeout=20)
        assert (ranged.status_code, ranged.content) == (206, DATA[10:20])
        pieces = (DATA[start : start + 70_000] for start in range(0, len(DATA), 70_000))
        path = session.post(f"{base}/v2/faults/c/blobs/uploads/", timeout=20).headers["Location"]
        assert path.startswith("/v2/")
        path = session.patch(base + path, data=pieces, timeout=20).headers["Location"]
        assert session.put(base + path, params={"digest": DIGEST}, timeout=20).status_code == 201
        assert session.delete(f"{base}{BLOB}", timeout=20).status_code == 405
        assert not faults.done
        assert faults.requests[0] == ("GET", BLOB)
        assert len(faults.requests) == 7


def test_bodies_stream_both_ways(far: Server) -> None:
    """Half of a body is there before the other half is sent."""
    with fault_proxy(far.address, Faults(1, 0)) as address:
        path = begin(f"http://{address}")
        connection = http.client.HTTPConnection(address, timeout=20)
        connection.putrequest("PATCH", path)
        connection.putheader("Content-Length", str(len(DATA)))
        connection.endheaders(DATA[:2_000_000])
        end = time.monotonic() + 10
        while stored(far, path) < 1_000_000:
            assert time.monotonic() < end
            time.sleep(0.05)
        connection.send(DATA[2_000_000:])
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(DATA) - 1}")
        connection.close()


@pytest.mark.parametrize("place", ["request", "between", "answer"])
def test_reset(far: Server, place: Place) -> None:
    (error, _), fault = faults_of("reset", place, fetch, far.address)
    assert isinstance(error, requests.RequestException)
    assert "reset by peer" in repr(error).lower()
    assert fault == Fault("reset", "GET", BLOB, place)


def test_a_reset_inside_a_request_leaves_a_part(far: Server) -> None:
    path = begin(f"http://{far.address}")

    def send(base: str) -> None:
        with pytest.raises(requests.ConnectionError):
            requests.patch(base + path, data=DATA, timeout=20)

    faults_of("reset", "request", send, far.address)
    time.sleep(0.2)
    assert 0 < stored(far, path) < len(DATA)


@pytest.mark.parametrize("kind", ["reset", "500", "502"])
def test_what_was_done_though_the_answer_is_lost(far: Server, kind: Kind) -> None:
    path = begin(f"http://{far.address}")

    def send(base: str) -> int:
        try:
            return requests.patch(base + path, data=DATA, timeout=20).status_code
        except requests.ConnectionError:
            return 0

    code, _ = faults_of(kind, "between", send, far.address)
    assert code == int(kind.replace("reset", "0"))
    assert stored(far, path) == len(DATA)


@pytest.mark.parametrize("place", ["request", "between", "answer"])
def test_stall(far: Server, place: Place) -> None:
    (answer, seconds), fault = faults_of("stall", place, fetch, far.address)
    assert answer.content == DATA
    assert seconds >= 0.5
    assert fault.place == place


def test_delay(far: Server) -> None:
    (answer, seconds), _ = faults_of("delay", "between", fetch, far.address)
    assert answer.content == DATA
    assert seconds >= 0.3


def test_truncate(far: Server) -> None:
    def read(base: str) -> int:
        with requests.get(base + BLOB, stream=True, timeout=20) as answer:
            assert answer.headers["Content-Length"] == str(len(DATA))
            got = b""
            with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
                for piece in answer.iter_content(10_000):
                    got += piece
            assert DATA.startswith(got)
            return len(got)

    size, _ = faults_of("truncate", "answer", read, far.address)
    assert size < len(DATA)


@pytest.mark.parametrize(("kind", "after"), [("429", None), ("429-after", "7"), ("500", None), ("502", None)])
def test_statuses(far: Server, kind: Kind, after: str | None) -> None:
    (answer, _), fault = faults_of(kind, "request", fetch, far.address)
    assert answer.status_code == int(kind.removesuffix("-after"))
    assert answer.headers.get("Retry-After") == after
    assert fault.place == "request"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_status_before_or_after_the_body(far: Server, at_once: bool) -> None:
    seeds = ((seed, Faults(seed, 1, ["429"]).plan("PATCH", "", ranged=False)) for seed in range(100))
    seed = next(seed for seed, plan in seeds if plan and plan.at_once == at_once)
    path = begin(f"http://{far.address}")
    with fault_proxy(far.address, Faults(seed, 1, ["429"])) as address:
        answer = requests.patch(f"http://{address}{path}", data=DATA, timeout=20)
    assert answer.status_code == 429
    assert answer.headers.get("Connection") == ("close" if at_once else None)
    assert stored(far, path) == 0


def ranged(base: str) -> Any:
    return fetch(base, Range="bytes=1000-1999")[0]


def test_lies_about_ranges(far: Server) -> None:
    whole, _ = faults_of("range-whole", "request", ranged, far.address)
    assert (whole.status_code, whole.content) == (200, DATA)
    header, _ = faults_of("range-header", "answer", ranged, far.address)
    assert (header.status_code, header.content) == (206, DATA[1000:2000])
    assert header.headers["Content-Range"] == f"bytes 1001-2000/{len(DATA)}"
    other, _ = faults_of("range-bytes", "answer", ranged, far.address)
    assert other.headers["Content-Range"] == f"bytes 1000-1999/{len(DATA)}"
    assert len(other.content) == 1000 and other.content != DATA[1000:2000]


def some(base: str) -> None:
    """Twenty requests, whatever comes of them."""
    for _ in range(20):
        fetch(base, Range="bytes=1000-1999")


def test_the_same_seed_does_the_same(far: Server) -> None:
    def trial(seed: int) -> list[Fault]:
        faults = Faults(seed, 0.7, stall=0.01, delay=0.01)
        with fault_proxy(far.address, faults) as address:
            some(f"http://{address}")
        return faults.done

    assert trial(5) == trial(5) != trial(6)
    assert {fault.kind for seed in range(8) for fault in trial(seed)} == set(KINDS)


def test_faults_have_a_limit_and_a_place(far: Server) -> None:
    limited = Faults(1, 1, ["502"], limit=3)
    elsewhere = Faults(1, 1, ["502"], where=lambda method, path: method == "PUT" and "uploads" in path)
    for faults, count in ((limited, 3), (elsewhere, 0)):
        with fault_proxy(far.address, faults) as address:
            some(f"http://{address}")
        assert len(faults.done) == count


# referrers


def put_manifest(base: str, tag: str, **more: Any) -> dict[str, Any]:
    """Push a manifest without layers, and return its descriptor."""
    kind = "application/vnd.oci.image.manifest.v1+json"
    assert push(base, "acme/a", b"{}").status_code == 201
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:" + EMPTY, "size": 2}
    document = {"schemaVersion": 2, "mediaType": kind, "config": empty, "layers": [empty], **more}
    body = json.dumps(document).encode()
    done = requests.put(f"{base}/v2/acme/a/manifests/{tag}", body, headers={"Content-Type": kind}, timeout=20)
    assert done.status_code == 201, done.text
    assert ("OCI-Subject" in done.headers) == ("subject" in more)
    return {"mediaType": kind, "digest": "sha256:" + hashlib.sha256(body).hexdigest(), "size": len(body)}


EMPTY = hashlib.sha256(b"{}").hexdigest()


def test_referrers(tmp_path: Path) -> None:
    with oci11(tmp_path) as server:
        base = f"http://{server.address}"
        subject = put_manifest(base, "v1", artifactType="application/x-model")
        more = {"artifactType": "application/x-card", "annotations": {"org.example.score": "7"}}
        card = put_manifest(base, "card", subject=subject, **more)
        answer = requests.get(f"{base}/v2/acme/a/referrers/{subject['digest']}", timeout=20)
        assert answer.headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
        assert answer.json()["manifests"] == [{**card, **more}]
        nobody = requests.get(f"{base}/v2/acme/a/referrers/{card['digest']}", timeout=20)
        assert nobody.status_code == 200
        assert not nobody.json()["manifests"]
        attached = clients.oras(
            "attach", "--plain-http", f"{server.address}/acme/a:v1", "--artifact-type", "a/b", "-a", "k=v"
        )
        assert "Attached" in attached
        found = clients.oras("discover", "--plain-http", f"{server.address}/acme/a:v1", "--format", "json")
        types = {entry["artifactType"] for entry in json.loads(found)["manifests"]}
        assert types == {"application/x-card", "a/b"}
        assert "GitVersion" in clients.cosign("version")


def test_poor_referrers_and_none(tmp_path: Path) -> None:
    with oci11(tmp_path / "bare", "bare") as bare, oci11(tmp_path / "none", "none") as none:
        for server, code in ((bare, 200), (none, 404)):
            base = f"http://{server.address}"
            subject = put_manifest(base, "v1", artifactType="application/x-model")
            card = put_manifest(base, "card", subject=subject, artifactType="application/x-card")
            answer = requests.get(f"{base}/v2/acme/a/referrers/{subject['digest']}", timeout=20)
            assert answer.status_code == code
            assert code == 404 or answer.json()["manifests"] == [card]


def test_a_server_that_does_not_listen_to_reason_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    end(process, patience=0.1)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_a_containerd_that_does_not_start_is_told(tmp_path: Path) -> None:
    (tmp_path / "socket").mkdir()
    with pytest.raises(AssertionError, match=r"socket"), containerd(tmp_path):
        pytest.fail("it began")
