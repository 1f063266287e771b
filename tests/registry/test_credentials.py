"""A password goes to the registry that asked for it, and nowhere else.

The servers are doubles: no real registry can be made to misbehave like these.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from registry.access import Access
from registry.blob import BytesBlob
from registry.credentials import Credentials
from registry.descriptor import IMAGE_CONFIG, OCTETS, Descriptor, digest_of
from registry.errors import ContentError, TransferError
from registry.manifest import make_manifest
from registry.remote import Remote
from registry.retry import Retry

Answer = tuple[int, dict[str, str], bytes]
SECRET = base64.b64encode(b"user:SECRET").decode()


class QuietServer(ThreadingHTTPServer):
    """A server that does not complain when a client has heard enough."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Recorder:
    """A server on loopback whose answers a test decides, and which remembers what it was told."""

    def __init__(self) -> None:
        self.answer: Callable[[str, str, str], Answer] = lambda method, path, proof: (404, {}, b"")
        self.proofs: list[str] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

            def handle_any(self) -> None:
                proof = self.headers.get("Authorization", "")
                recorder.proofs.append(proof)
                status, headers, body = recorder.answer(self.command, self.path, proof)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = handle_any

        self.server = QuietServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Recorder]:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()


@pytest.fixture
def servers() -> Iterator[list[Recorder]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Recorder().running()) for _ in range(3)]


@pytest.fixture
def remote(servers: list[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A repository of the first server, with a password for it, and a wrong one in ~/.netrc."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {servers[0].host: {"auth": SECRET}}}))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password NETRC\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    credentials = Credentials.of({}, tmp_path)
    return Remote(servers[0].host, "a/b", Access(credentials, retry=Retry(count=1, first=0.01)), plain_http=True)


def test_no_challenge_is_answered_but_the_registrys_own(servers: list[Recorder], remote: Remote) -> None:
    registry, storage, evil = servers
    registry.answer = lambda method, path, proof: (307, {"Location": f"http://{storage.host}/blob"}, b"")
    challenge = f'Bearer realm="http://{evil.host}/token",service="x"'
    storage.answer = lambda method, path, proof: (401, {"WWW-Authenticate": challenge}, b"")
    with pytest.raises(TransferError):
        remote.blob(Descriptor(OCTETS, digest_of(b"x"), 1)).open().read()
    assert (storage.proofs, evil.proofs) == ([""], [])


def test_a_login_stays_with_the_registry_when_content_lies_elsewhere(servers: list[Recorder], remote: Remote) -> None:
    registry, storage, _ = servers

    def guarded(method: str, path: str, proof: str) -> Answer:
        if proof != f"Basic {SECRET}":
            return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
        return 307, {"Location": f"http://{storage.host}/blob"}, b""

    registry.answer = guarded
    storage.answer = lambda method, path, proof: (200, {}, b"x")
    assert remote.blob(Descriptor(OCTETS, digest_of(b"x"), 1)).open().read() == b"x"
    assert registry.proofs == ["", f"Basic {SECRET}"]
    assert storage.proofs == [""]


def test_an_upload_elsewhere_goes_without_the_login(servers: list[Recorder], remote: Remote) -> None:
    registry, storage, _ = servers

    def guarded(method: str, path: str, proof: str) -> Answer:
        if proof != f"Basic {SECRET}":
            return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
        return (404, {}, b"") if method == "HEAD" else (202, {"Location": f"http://{storage.host}/up?state=1"}, b"")

    registry.answer = guarded
    storage.answer = lambda method, path, proof: (201, {}, b"")
    assert remote.push(BytesBlob.of(OCTETS, b"some bytes"))
    assert storage.proofs == [""]


def test_a_write_that_is_redirected_has_failed(servers: list[Recorder], remote: Remote) -> None:
    registry, storage, _ = servers
    login = {"Location": f"http://{storage.host}/login"}
    registry.answer = lambda method, path, proof: (404, {}, b"") if method == "HEAD" else (302, login, b"")
    storage.answer = lambda method, path, proof: (200, {}, b"<html>")
    manifest = make_manifest(BytesBlob.of(IMAGE_CONFIG, b"{}").descriptor, [], {})
    with pytest.raises(TransferError, match="refused to PUT"):
        remote.put(manifest)
    with pytest.raises(TransferError, match="refused to PUT"):
        remote.tag(manifest, "v1")
    assert storage.proofs == []


@pytest.mark.parametrize(
    "challenge",
    [
        "Negotiate",
        "Bearer",
        "Bearer realm=",
        'Bearer realm="http://{evil}/list"',
        'Bearer realm="http://127.0.0.1:9/"',
        "",
    ],
)
def test_challenges_that_make_no_sense(servers: list[Recorder], remote: Remote, challenge: str) -> None:
    registry, _, evil = servers
    header = challenge.format(evil=evil.host)
    registry.answer = lambda method, path, proof: (401, {"WWW-Authenticate": header}, b"")
    evil.answer = lambda method, path, proof: (200, {}, b"[]")
    with pytest.raises(TransferError):
        remote.resolve("v1")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"layers": 5}', b'{"manifests": [1]}', b'{"a": "\\ud800"}', b"[" * 100_000]
)
def test_manifests_that_are_none(servers: list[Recorder], remote: Remote, body: bytes) -> None:
    servers[0].answer = lambda method, path, proof: (200, {}, body)
    with pytest.raises(ContentError):
        remote.resolve("v1")


def test_endless_manifests_and_errors_are_read_within_bounds(servers: list[Recorder], remote: Remote) -> None:
    servers[0].answer = lambda method, path, proof: (200, {}, bytes(5 << 20))
    with pytest.raises(ContentError, match="too large"):
        remote.resolve("v1")
    servers[0].answer = lambda method, path, proof: (500, {}, bytes(5 << 20))
    with pytest.raises(TransferError, match="500"):
        remote.resolve("v1")


def test_cut_manifest(servers: list[Recorder], remote: Remote) -> None:
    servers[0].answer = lambda method, path, proof: (200, {"Content-Length": "100"}, b"{")
    with pytest.raises(TransferError):
        remote.resolve("v1")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": null}', '{"auths": {"127.0.0.1": "x"}}'])
def test_dockers_file_is_damaged(remote: Remote, tmp_path: Path, text: str) -> None:
    (tmp_path / ".docker/config.json").write_text(text)
    with pytest.raises(Exception, match=r"credentials cannot be read|does not have this"):
        remote.resolve("v1")
