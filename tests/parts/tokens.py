"""A token server, as registries have them beside them: https://distribution.github.io/distribution/spec/auth/token/.

A double, because no package has one. The registry that checks its tokens is real.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import secrets
import ssl
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.parts.tls import Pair, certificates, signed

ISSUER = "test-issuer"
SERVICE = "test-registry"
LEEWAY = 60
"""Seconds for which docker-registry accepts a token that has expired, so ours say that they have."""

FIELDS = ("token", "access_token", "expires_in", "issued_at")

Form = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class User:
    """A password, and actions by a pattern of repositories: {"acme/*": "pull,push"}."""

    password: str
    rights: Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """A request for a token: GET or POST, how it said who asks, what for, and the status that it got.

    `grant` is anonymous, basic, password or refresh_token; `secret` is the password or the refresh token that came.
    """

    method: str
    grant: str
    user: str
    secret: str
    service: str
    client_id: str
    scopes: tuple[str, ...]
    offline: bool
    status: int


@dataclass
class Tokens:
    """What a token server knows, and `asked`, what it was asked for. Tests may change it while it runs.

    A token is good for `life` seconds, and for up to one more, as its times are whole seconds. An answer has `fields`
    alone. Without `post` a server knows no OAuth2, and answers 404. Each of `instead` is the status of one answer.
    """

    pair: Pair
    users: dict[str, User] = field(default_factory=dict)
    anonymous: Mapping[str, str] = field(default_factory=dict)
    life: float = 2
    fields: Collection[str] = FIELDS
    post: bool = True
    instead: list[int] = field(default_factory=list)
    identities: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    realm: str = ""

    def config(self) -> str:
        """The lines of configuration with which docker-registry wants these tokens."""
        names = f"realm: '{self.realm}', service: {SERVICE}, issuer: {ISSUER}"
        return f"auth: {{token: {{{names}, rootcertbundle: '{self.pair.certificate}'}}}}"

    def identity(self, user: str) -> str:
        """A new identity token, which is a refresh token, of a user."""
        token = secrets.token_urlsafe(24)
        self.identities[token] = user
        return token

    def granted(self, user: str, scopes: Sequence[str]) -> list[dict[str, Any]]:
        """What of the scopes a user gets, or nobody, whose name is empty: less than asked for, without a word."""
        rights = self.users[user].rights if user else self.anonymous
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = {
                action for pattern in rights if fnmatchcase(name, pattern) for action in rights[pattern].split(",")
            }
            if given := [action for action in actions.split(",") if action in allowed]:
                access.append({"type": kind, "name": name, "actions": given})
        return access

    def token(self, user: str, *scopes: str) -> str:
        """A signed token for what of the scopes the user gets."""
        now = time.time()
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": math.ceil(now + self.life) - LEEWAY,
            "nbf": int(now) - LEEWAY,
            "iat": int(now),
            "jti": secrets.token_hex(8),
            "access": self.granted(user, scopes),
        }
        return _sign(claims, self.pair)

    def answer(self, user: str, scopes: Sequence[str], *, offline: bool) -> dict[str, Any]:
        """The document with a token."""
        token = self.token(user, *scopes)
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        whole = {"token": token, "access_token": token, "expires_in": math.ceil(self.life), "issued_at": issued}
        document = {key: value for key, value in whole.items() if key in self.fields}
        return {**document, "refresh_token": self.identity(user)} if offline and user else document


@contextlib.contextmanager
def token_server(folder: Path, users: Mapping[str, User], *, tls: bool = False, **more: Any) -> Iterator[Tokens]:
    """A running token server; `more` is what else `Tokens` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokens(signed(folder, "tokens", profile="ca", key="rsa:2048"), dict(users), **more)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(tokens))
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates().server.certificate, certificates().server.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    tokens.realm = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/token"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()


def _handler(tokens: Tokens) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
            name, _, secret = base64.b64decode(encoded).decode().partition(":") if scheme else ("", "", "")
            known = name in tokens.users and tokens.users[name].password == secret
            user = name if known else None if scheme else ""
            grant = "basic" if scheme else "anonymous"
            self._answer(
                query, query.get("scope", []), (grant, name, secret), user, _first(query, "offline_token") == "true"
            )

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            grant, name, password = (_first(form, key) for key in ("grant_type", "username", "password"))
            refresh = _first(form, "refresh_token")
            user = tokens.identities.get(refresh) if grant == "refresh_token" else None
            if grant == "password" and name in tokens.users and tokens.users[name].password == password:
                user = name
            offline = _first(form, "access_type") == "offline"
            self._answer(form, _first(form, "scope").split(), (grant, name, password or refresh), user, offline)

        def _answer(
            self, form: Form, scopes: Sequence[str], who: tuple[str, str, str], user: str | None, offline: bool
        ) -> None:
            status = self._status(form, user)
            service, client = _first(form, "service"), _first(form, "client_id")
            tokens.asked.append(Asked(self.command, *who, service, client, tuple(scopes), offline, status))
            if status == 200 and user is not None:
                self._send(status, tokens.answer(user, scopes, offline=offline))
            else:
                self._send(status, {"errors": [{"code": "UNAUTHORIZED", "message": "no token for this"}]})

        def _status(self, form: Form, user: str | None) -> int:
            if tokens.instead:
                return tokens.instead.pop(0)
            if urlsplit(self.path).path != "/token" or (self.command == "POST" and not tokens.post):
                return 404
            return 400 if _first(form, "service") != SERVICE else 401 if user is None else 200

        def _send(self, status: int, document: Mapping[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _first(form: Form, key: str) -> str:
    return form.get(key, [""])[0]


def _sign(claims: Mapping[str, Any], pair: Pair) -> str:
    """A JWT by RS256 with the certificate of its key in it."""
    certificate = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(certificate).decode()]}
    text = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
    sign = ["openssl", "dgst", "-sha256", "-sign", str(pair.key)]
    return f"{text}.{_encoded(subprocess.run(sign, input=text.encode(), capture_output=True, check=True).stdout)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
