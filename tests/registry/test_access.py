"""Who we are and whom we trust: credentials, tokens, TLS, proxies, against real registries and a server of tokens."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import ssl
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, ClassVar

import pytest

from packer.options import access
from registry.access import Access
from registry.auth import scope
from registry.blob import BytesBlob
from registry.challenge import Challenge, parse_challenges
from registry.credentials import Credentials, Login
from registry.descriptor import OCTETS, digest_of
from registry.errors import ResponseError, TransferError, UsageError
from registry.memory import Memory
from registry.outcome import Outcome
from registry.remote import Remote
from registry.retry import Retry
from registry.upload import Session
from registry.wire import Limits, Tls, Wire, same_server
from tests.parts.command import PACKER, packer, run
from tests.parts.faults import Faults, fault_proxy
from tests.parts.nginx import nginx
from tests.parts.servers import Server, docker_registry
from tests.parts.strict import strict_registry
from tests.parts.tls import certificates, tls_registry
from tests.parts.tokens import Tokens, User, token_server

QUICK = Retry(count=3, first=0.01, most=0.05, total=10)
USERS = {"ada": User("s3cret", {"acme/*": "pull,push"}), "bob": User("hidden", {"acme/open": "pull"})}


def auths(**entries: dict[str, str]) -> str:
    return json.dumps({"auths": entries})


def pair(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def files(tmp_path: Path, **texts: str) -> Credentials:
    """The files of podman (runtime, config) and docker (docker, old), those that are given."""
    places = {
        "runtime": "run/containers/auth.json",
        "config": "home/.config/containers/auth.json",
        "docker": "home/.docker/config.json",
        "old": "home/.dockercfg",
    }
    for name, text in texts.items():
        path = tmp_path / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Credentials.of({"XDG_RUNTIME_DIR": str(tmp_path / "run")}, tmp_path / "home")


def found(credentials: Credentials, host: str = "r.example.com", repository: str = "a/b") -> str:
    login = credentials.find(host, repository)
    return f"{login.username}:{login.password}" if login else ""


def test_the_files_are_searched_in_podmans_order(tmp_path: Path) -> None:
    texts = {
        "old": json.dumps({"r.example.com": pair("o:4")}),
        "docker": auths(**{"r.example.com": pair("d:3")}),
        "config": auths(**{"r.example.com": pair("c:2")}),
        "runtime": auths(**{"r.example.com": pair("r:1")}),
    }
    for count, expected in enumerate(("o:4", "d:3", "c:2", "r:1"), 1):
        assert found(files(tmp_path, **dict(list(texts.items())[:count]))) == expected


def test_the_longest_path_counts(tmp_path: Path) -> None:
    entries = {"r.example.com": pair("all:1"), "r.example.com/a": pair("a:2"), "r.example.com/a/b": pair("ab:3")}
    credentials = files(tmp_path, config=auths(**entries))
    repositories = {"x": "all:1", "a/c": "a:2", "a/b": "ab:3", "a/b/c": "ab:3", "ab": "all:1"}
    assert {name: found(credentials, repository=name) for name in repositories} == repositories
    assert found(credentials, "other.example.com") == ""
    assert found(credentials, "r.example.com:5000") == ""


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_hub_has_many_names(tmp_path: Path, key: str) -> None:
    assert found(files(tmp_path, docker=auths(**{key: pair("hub:1")})), "docker.io") == "hub:1"


def test_an_explicit_file_and_dockers_own_folder(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(auths(**{"r.example.com": pair("x:1")}))
    (tmp_path / "config.json").write_text(auths(**{"r.example.com": pair("folder:2")}))
    assert found(Credentials.of({"REGISTRY_AUTH_FILE": str(tmp_path / "x.json")}, tmp_path)) == "x:1"
    assert found(Credentials.of({"DOCKER_CONFIG": str(tmp_path)}, tmp_path / "home")) == "folder:2"


def test_tokens_in_files(tmp_path: Path) -> None:
    entries = {"r.example.com": {**pair("ada:x"), "identitytoken": "ID"}, "s.example.com": {"registrytoken": "REG"}}
    credentials = files(tmp_path, docker=auths(**entries))
    assert credentials.find("r.example.com", "a") == Login(identity_token="ID")
    assert credentials.find("s.example.com", "a") == Login(bearer="REG")
    shown = repr([credentials.find("r.example.com", "a"), Login("u", "PW")])
    assert "ID" not in shown
    assert "PW" not in shown


HELPER = """#!/bin/sh
read -r server
echo "$1 $server" >> "$(dirname "$0")/calls"
case "$1 $server" in
"get r.example.com") echo '{"ServerURL":"r.example.com","Username":"helped","Secret":"H"}';;
"get id.example.com") echo '{"Username":"<token>","Secret":"IDENTITY"}';;
"get bad.example.com") echo 'no json';;
"get broken.example.com") echo "the vault is locked" >&2; exit 1;;
"get "*) echo "credentials not found in native keychain"; exit 1;;
"store "*) cat >> "$(dirname "$0")/stored"; echo "$server" >> "$(dirname "$0")/stored";;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper on the PATH: the protocol is one of programs, so this is one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("vault", "other"):
        (folder / f"docker-credential-{name}").write_text(HELPER)
        (folder / f"docker-credential-{name}").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_helpers(tmp_path: Path, helper: Path) -> None:
    document = {
        "auths": {"r.example.com": pair("file:1"), "none.example.com": pair("file:2")},
        "credsStore": "vault",
        "credHelpers": {"own.example.com": "other"},
    }
    credentials = files(tmp_path, docker=json.dumps(document))
    assert found(credentials) == "helped:H"
    assert found(credentials, "none.example.com") == "file:2"
    assert found(credentials, "own.example.com") == ""
    assert credentials.find("id.example.com", "a") == Login(identity_token="IDENTITY")
    for host, said in (("bad.example.com", "something else than a login"), ("broken.example.com", "get failed")):
        with pytest.raises(UsageError, match=said):
            credentials.find(host, "a")
    missing = files(tmp_path, docker=json.dumps({"credsStore": "absent"}))
    with pytest.raises(UsageError, match="not installed"):
        missing.find("r.example.com", "a")


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"auths": []}', '{"auths": {"r.example.com": []}}', '{"auths": {"r.example.com": {"auth": 5}}}',
        '{"auths": {"r.example.com": {"auth": "///"}}}', '{"credHelpers": []}', '{"credsStore": "../evil"}',
        '{"credsStore": 5}',
    ],
)  # fmt: skip
def test_damaged_files_are_told_by_name(tmp_path: Path, text: str) -> None:
    credentials = files(tmp_path, docker=text)
    with pytest.raises(UsageError, match="credentials cannot be read") as caught:
        credentials.find("r.example.com", "a/b")
    assert caught.value.subject.endswith(".docker/config.json")


def test_challenges() -> None:
    header = 'Bearer realm="https://a/t",service="s, x",scope="repository:a/b:pull,push", Basic realm="a \\"b\\""'
    assert parse_challenges(header) == [
        Challenge("bearer", {"realm": "https://a/t", "service": "s, x", "scope": "repository:a/b:pull,push"}),
        Challenge("basic", {"realm": 'a "b"'}),
    ]
    assert parse_challenges("Negotiate, basic REALM=x") == [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]
    for text in ("", "=", ",,,", 'Bearer realm="', "\x00", "a" * 100_000, 'Bearer x="' + "\\" * 100_000):
        assert parse_challenges(text) is not None


# tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    with token_server(tmp_path / "tokens", USERS, anonymous={"acme/open": "pull"}) as server:
        yield server


@pytest.fixture
def guarded(tokens: Tokens, tmp_path: Path) -> Iterator[Server]:
    with docker_registry(tmp_path / "registry", tokens.config()) as server:
        yield server


def as_user(server: Server, login: Login, repository: str = "acme/model", **more: object) -> Remote:
    access = Access(_Known(login), retry=QUICK, **more)  # type: ignore[arg-type]
    return Remote(server.address, repository, access, plain_http=True)


class _Known(Credentials):
    """Credentials that a test decides."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        object.__setattr__(self, "login", login)

    def find(self, host: str, repository: str) -> Login | None:
        return self.login  # type: ignore[attr-defined, no-any-return]


def test_a_password_is_exchanged_for_a_token(guarded: Server, tokens: Tokens) -> None:
    place = as_user(guarded, Login("ada", "s3cret"))
    assert place.push(BytesBlob.of(OCTETS, b"x")) is Outcome.SENT
    asked = tokens.asked
    assert {(one.method, one.grant, one.user, one.service) for one in asked} == {
        ("GET", "basic", "ada", "test-registry")
    }
    # one token for reading, one for writing, whatever the number of requests
    assert [one.scopes for one in asked] == [(scope("acme/model", "pull"),), (scope("acme/model", "pull,push"),)]


def test_an_identity_token_goes_by_post(guarded: Server, tokens: Tokens) -> None:
    place = as_user(guarded, Login(identity_token=tokens.identity("ada")))
    assert place.push(BytesBlob.of(OCTETS, b"x")) is Outcome.SENT
    assert {(one.method, one.grant) for one in tokens.asked} == {("POST", "refresh_token")}


def test_a_bearer_is_shown_as_it_is(guarded: Server, tokens: Tokens) -> None:
    token = tokens.token("ada", scope("acme/model", "pull,push"))
    assert as_user(guarded, Login(bearer=token)).push(BytesBlob.of(OCTETS, b"x")) is Outcome.SENT
    assert tokens.asked == []


def test_anonymous_reads(guarded: Server, tokens: Tokens) -> None:
    blob = BytesBlob.of(OCTETS, b"x")
    as_user(guarded, Login("ada", "s3cret"), "acme/open").push(blob)
    assert as_user(guarded, Login(), "acme/open").blob(blob.descriptor).open().read() == b"x"
    with pytest.raises(TransferError, match="credentials that are missing or wrong"):
        as_user(guarded, Login(), "acme/open").push(BytesBlob.of(OCTETS, b"y"))


@pytest.mark.parametrize("login", [Login("ada", "wrong"), Login("bob", "hidden"), Login(identity_token="wrong")])
def test_a_login_that_is_wrong_or_may_not(guarded: Server, login: Login) -> None:
    with pytest.raises(ResponseError) as caught:
        as_user(guarded, login).push(BytesBlob.of(OCTETS, b"x"))
    assert "packer login" in caught.value.hint
    for secret in ("wrong", "hidden"):
        assert secret not in str(caught.value).replace("missing or wrong", "")


class _Slow(io.BytesIO):
    """A stream that takes its time."""

    def readinto(self, buffer: object) -> int:
        time.sleep(0.7)
        return super().readinto(buffer)  # type: ignore[arg-type]


class _SlowBlob(BytesBlob):
    def open(self) -> BinaryIO:
        return _Slow(self.data)


def test_tokens_are_renewed_in_the_middle_of_an_upload(
    guarded: Server, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token lives for two seconds; the upload, a chunk after the other, takes longer."""
    monkeypatch.setattr("registry.remote._DISTRIBUTION", "X-Nobody")  # it would get one PATCH
    place = as_user(guarded, Login("ada", "s3cret"))
    place._habits.chunk, data = 1000, os.urandom(6000)
    assert place.push(_SlowBlob(BytesBlob.of(OCTETS, data).descriptor, data)) is Outcome.SENT
    writes = [one for one in tokens.asked if one.scopes == (scope("acme/model", "pull,push"),)]
    assert len(writes) >= 2


def test_a_mount_asks_for_both_repositories(guarded: Server, tokens: Tokens) -> None:
    blob = BytesBlob.of(OCTETS, b"x")
    source = as_user(guarded, Login("ada", "s3cret"), "acme/one")
    source.push(blob)
    assert as_user(guarded, Login("ada", "s3cret"), "acme/two").push(source.blob(blob.descriptor)) is Outcome.MOUNTED
    assert {scope("acme/one", "pull"), scope("acme/two", "pull,push")} in [set(one.scopes) for one in tokens.asked]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_of_tokens_that_fails_for_a_moment(guarded: Server, tokens: Tokens, status: int) -> None:
    tokens.instead.append(status)
    assert as_user(guarded, Login("ada", "s3cret")).push(BytesBlob.of(OCTETS, b"x")) is Outcome.SENT


def test_many_threads_share_a_token(guarded: Server, tokens: Tokens) -> None:
    place = as_user(guarded, Login("ada", "s3cret"))
    place.push(BytesBlob.of(OCTETS, b"first"))
    before = len(tokens.asked)
    threads = [threading.Thread(target=place.push, args=(BytesBlob.of(OCTETS, bytes([n])),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens.asked) - before <= 2  # the old ones may have ended meanwhile


# login


def test_login_is_proved_and_kept(guarded: Server, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    config = tmp_path / "home/.docker/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"HttpHeaders": {"a": "b"}, "auths": {"other.example.com": {"auth": "eDp5"}}}')
    login = ("login", guarded.address, "-u", "ada", "--password-stdin")
    wrong = packer(*login, input="wrong\n", env=home, check=False)
    assert wrong.returncode == 5
    assert config.read_text().count("auth") == 2
    done = packer(*login, input="s3cret\n", env=home)
    assert "s3cret" not in done.stdout + done.stderr
    document = json.loads(config.read_text())
    assert document["auths"] == {"other.example.com": {"auth": "eDp5"}, guarded.address: pair("ada:s3cret")}
    assert document["HttpHeaders"] == {"a": "b"}
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    # another client finds it there
    done = run("skopeo", "list-tags", "--tls-verify=false", f"docker://{guarded.address}/acme/x", env=home, check=False)
    assert "unauthorized" not in done.stderr.lower()


def test_login_keeps_it_with_the_helper(guarded: Server, tmp_path: Path, helper: Path) -> None:
    home = {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    (tmp_path / "home/.docker").mkdir(parents=True)
    (tmp_path / "home/.docker/config.json").write_text('{"credsStore": "vault"}')
    done = packer("login", guarded.address, "-u", "ada", "--password-stdin", input="s3cret", env=home)
    assert "docker-credential-vault" in done.stdout
    assert json.loads((helper / "stored").read_text().splitlines()[-1])["Secret"] == "s3cret"
    assert json.loads((tmp_path / "home/.docker/config.json").read_text()) == {"credsStore": "vault"}


def test_login_stays_with_the_registry() -> None:
    """Neither a redirect of the registry nor a challenge from where it leads gets the password."""
    seen: list[dict[str, str]] = []

    def elsewhere(headers: Mapping[str, str], method: str, repository: str) -> tuple[int, dict[str, str]]:
        seen.append(dict(headers))
        return 401, {"WWW-Authenticate": f'Bearer realm="http://{other.address}/token"'}

    with strict_registry(authorize=elsewhere) as other, strict_registry() as registry:
        away = {"Location": f"http://{other.address}/v2/"}
        place = Remote(registry.address, "", Access(retry=QUICK), plain_http=True)
        registry.authorize = lambda *_: (302, away)
        with pytest.raises(TransferError):
            place.check(Login("ada", "s3cret"))
        asked = iter([(401, {"WWW-Authenticate": 'Basic realm="x"'})])
        registry.authorize = lambda *_: next(asked, (302, away))
        with pytest.raises(TransferError):
            place.check(Login("ada", "s3cret"))
    assert len(seen) == 2
    assert not any("Authorization" in headers for headers in seen)


# TLS


def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    known = certificates()
    blob = BytesBlob.of(OCTETS, b"x")
    with tls_registry(tmp_path / "registry") as server:
        trusting = Access(wire=Wire(Tls(ca_file=known.ca.certificate)), retry=QUICK)
        assert Remote(server.address, "a/b", trusting).push(blob) is Outcome.SENT
        unverified = Access(wire=Wire(Tls(verify=False)), retry=QUICK)
        assert Remote(server.address, "a/b", unverified).has(blob.descriptor.digest)
        for tls in (Tls(), Tls(ca_file=known.stranger.certificate)):
            with pytest.raises(TransferError, match="cannot be trusted") as caught:
                Remote(server.address, "a/b", Access(wire=Wire(tls), retry=QUICK)).resolve("v1")
            assert "--ca-file" in caught.value.hint
        tags = packer("tags", f"{server.address}/a/b", "--ca-file", known.ca.certificate, check=False)
        assert "does not have this" in tags.stderr
        said = packer("tags", f"{server.address}/a/b", "--insecure", check=False)
        assert "--insecure: whoever answers" in said.stderr


def test_client_certificates(tmp_path: Path) -> None:
    known = certificates()
    blob = BytesBlob.of(OCTETS, b"x")
    with tls_registry(tmp_path / "registry", clients=True) as server:
        proved = Tls(known.ca.certificate, known.client.certificate, known.client.key)
        assert Remote(server.address, "a/b", Access(wire=Wire(proved), retry=QUICK)).push(blob) is Outcome.SENT
        with pytest.raises(TransferError):
            Remote(server.address, "a/b", Access(wire=Wire(Tls(known.ca.certificate)), retry=QUICK)).resolve("v1")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_tls_that_breaks_in_the_middle_is_tried_again(how: str, tmp_path: Path) -> None:
    """The server is a double: no real one breaks off when it is told to."""
    known, notes = certificates(), list[str]()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(known.server.certificate, known.server.key)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                raw, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(raw, server_side=True) as tls:
                    tls.recv(100)
                    inner = tls.detach()
                    with socket.socket(fileno=inner) as plain:
                        if how == "reset":
                            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        access = Access(wire=Wire(Tls(known.ca.certificate)), retry=QUICK, log=notes.append)
        with pytest.raises(TransferError) as caught:
            Remote(f"127.0.0.1:{listener.getsockname()[1]}", "a/b", access).resolve("v1")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)
    assert "cannot be reached or broke off" in caught.value.what
    assert sum("trying again" in note for note in notes) == 2  # it has never answered


@pytest.mark.parametrize("name", ["absent.pem", "empty.pem"])
def test_certificates_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.pem").write_text("")
    done = packer("tags", "127.0.0.1:9/a", "--ca-file", tmp_path / name, check=False)
    assert (done.returncode, name in done.stderr, "Traceback" in done.stderr) == (2, True, False)


# proxies


class _Proxy(BaseHTTPRequestHandler):
    """A double that remembers which hosts it was asked for: what goes through a proxy is all that matters here."""

    asked: ClassVar[list[str]] = []

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


def test_proxies(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    _Proxy.asked.clear()
    env = {"HTTPS_PROXY": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "no.invalid", "HOME": str(tmp_path)}
    wire = Wire(proxies={"https": env["HTTPS_PROXY"], "no": env["NO_PROXY"]}, limits=Limits(connect=1))
    try:
        for host in ("yes.invalid", "no.invalid"):
            with pytest.raises(TransferError):
                Remote(host, "a/b", Access(wire=wire, retry=Retry(count=0))).resolve("v1")
        assert _Proxy.asked == ["yes.invalid:443"]
    finally:
        server.shutdown()
        server.server_close()


# nginx


def test_behind_nginx(tmp_path: Path) -> None:
    blob = BytesBlob.of(OCTETS, os.urandom(3 << 20))
    with docker_registry(tmp_path / "registry", http="relativeurls: true") as server:
        with nginx(tmp_path / "small", server.address, max_body="1m") as small:
            access = Access(retry=QUICK)
            with pytest.raises(ResponseError, match="refused") as caught:
                Remote(small.address, "a/b", access, plain_http=True).push(blob)
            assert "--max-size" in caught.value.hint
            assert (caught.value.exit_code, caught.value.status) == (5, 413)
        with nginx(tmp_path / "large", server.address, buffering=False) as large:
            place = Remote(large.address, "a/b", Access(retry=QUICK), plain_http=True)
            assert place.push(blob) is Outcome.SENT
            assert place.blob(blob.descriptor).open().read() == blob.data


def test_a_proxy_that_gives_up_on_a_slow_registry(tmp_path: Path) -> None:
    """nginx waits two seconds for what is behind it; that takes three, once."""
    blob, notes = BytesBlob.of(OCTETS, os.urandom(1 << 20)), list[str]()
    faults = Faults(1, 1, ("stall",), stall=3, limit=1, where=lambda method, _: method == "PUT")
    with (
        docker_registry(tmp_path / "registry", http="relativeurls: true") as server,
        fault_proxy(server.address, faults) as slow,
        nginx(tmp_path / "nginx", slow) as front,
    ):
        place = Remote(front.address, "a/b", Access(retry=QUICK, log=notes.append), plain_http=True)
        assert place.push(blob) is Outcome.SENT
        assert place.has(blob.descriptor.digest)
    assert len(faults.done) == 1
    assert any("trying again" in note for note in notes)


# redirects and secrets


def test_redirects_to_places_that_are_none_of_a_registrys_business(tmp_path: Path) -> None:
    targets = {
        "file:///etc/passwd": "another scheme",
        "ftp://127.0.0.1/": "another scheme",
        "http://169.254.169.254/latest/meta-data": "none of its business",
        "http://[fe80::1]/": "none of its business",
        "http://0.0.0.0:1/": "none of its business",
        "http://[": "no URL",
    }
    with strict_registry() as registry:
        for target, said in targets.items():
            registry.authorize = lambda *_, target=target: (307, {"Location": target})
            with pytest.raises(ResponseError, match=said):
                Remote(registry.address, "a/b", Access(retry=QUICK), plain_http=True).resolve("v1")


def test_redirects_without_end() -> None:
    with strict_registry(authorize=lambda *_: (307, {"Location": "/v2/"})) as registry:
        with pytest.raises(ResponseError, match="without end"):
            Remote(registry.address, "a/b", Access(retry=QUICK), plain_http=True).resolve("v1")
        assert len(registry.requests) < 10


def test_no_secret_is_ever_shown(guarded: Server, tmp_path: Path) -> None:
    """Whatever goes wrong, in text and in JSON."""
    home = {"HOME": str(tmp_path / "home")}
    (tmp_path / "home/.docker").mkdir(parents=True)
    (tmp_path / "home/.docker/config.json").write_text(auths(**{guarded.address: pair("ada:s3cret")}))
    for command in (("tags", f"{guarded.address}/other/x"), ("pull", f"{guarded.address}/acme/x:v1", tmp_path / "out")):
        for extra in ((), ("--json",)):
            done = run(PACKER, *command, *extra, env=home, check=False)
            assert done.returncode == 5
            for secret in ("s3cret", pair("ada:s3cret")["auth"], "Bearer ey"):
                assert secret not in done.stdout + done.stderr


def test_the_same_server() -> None:
    assert same_server("https://Reg.example.com/a", "https://reg.example.com:443/b?c")
    assert same_server("http://[::1]:5000/", "http://[::1]:5000/x")
    for other in (
        "http://reg.example.com/",
        "https://reg.example.com:444/",
        "https://reg.example.com.evil/",
        "https://[",
    ):
        assert not same_server("https://reg.example.com/", other)


def test_this_machine_is_reached_without_a_proxy() -> None:
    with strict_registry() as registry:
        wire = Wire(proxies={"http": "http://127.0.0.1:9", "all": "http://127.0.0.1:9"}, limits=Limits(connect=1))
        place = Remote(registry.address, "a/b", Access(wire=wire, retry=QUICK), plain_http=True)
        assert place.push(BytesBlob.of(OCTETS, b"x")) is Outcome.SENT


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As clusters run containers: under a user id that nobody has entered anywhere."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for name in ("HOME", "PACKER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    notes = list[str]()
    with strict_registry() as registry:
        place = Remote(registry.address, "a/b", access({}, notes.append), plain_http=True)
        assert place.push(BytesBlob.of(OCTETS, b"x")) is Outcome.SENT
    assert not Path("/nonexistent").exists()
    assert len(notes) <= 1


def test_the_memory_is_for_its_owner(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db")
    journal = memory.journal("root", "a/b")
    journal.open_session(digest_of(b""))
    journal.keep(digest_of(b""), Session("http://x/?_state=secret"))
    assert stat.S_IMODE((tmp_path / "memory.db").stat().st_mode) == 0o600
