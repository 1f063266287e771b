"""Logging in to one registry: Basic, and Bearer with tokens that are fetched, kept, joined and renewed.

https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from urllib.parse import urlencode, urlsplit

from registry.challenge import Challenge, parse_challenges
from registry.credentials import Login
from registry.errors import ResponseError
from registry.reference import is_loopback
from registry.wire import Answer, Wire, same_server

PULL, PUSH = "pull", "pull,push"

_LIFE = 60
"""Seconds that a token lives if the server does not say."""

_MAX_LIFE = 86400
"""After so many seconds a token is renewed, whatever the server says."""

_MAX_TOKEN = 1 << 20
_CLIENT = "packer"


def scope(repository: str, actions: str) -> str:
    """What a token is to allow: `repository:NAME:ACTIONS`."""
    return f"repository:{repository}:{actions}"


@dataclass(frozen=True)
class _Token:
    text: str = field(repr=False)
    expires: float


@dataclass
class Authenticator:
    """The login at one registry, shared by threads; `login` is asked for once, when the registry wants one.

    A challenge is answered only if the registry itself made it, and the password goes to it, or to the server of tokens
    that it names, over a connection as safe as the registry's own.
    """

    root: str
    login: Callable[[], Login | None]
    wire: Wire
    origin: str
    _challenge: Challenge | None = None
    _tokens: dict[frozenset[str], _Token] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _found: list[Login] = field(default_factory=list)
    _wanted: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)

    def headers(self, scopes: frozenset[str]) -> Mapping[str, str]:
        """What to send along for what is to be done; a token that is about to end is renewed first."""
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return {}
            if challenge.scheme == "basic":
                return {"Authorization": self._login().basic} if self._login().basic else {}
            token = self._tokens.get(scopes)
            if token is None or token.expires <= time.monotonic():
                token = self._tokens[scopes] = self._fetch(challenge, self._wanted.get(scopes, scopes))
            return {"Authorization": f"Bearer {token.text}"} if token.text else {}

    def answer(self, refused: Answer, sent: str, scopes: frozenset[str]) -> bool:
        """Whether there is something new to send after a 401, to a request that had sent `sent` along."""
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(refused.header("WWW-Authenticate"))}
        with self._lock:
            chosen = challenges.get("bearer") or challenges.get("basic")
            if chosen is None:
                return False
            self._challenge = chosen
            if chosen.scheme == "basic":
                return bool(self._login().basic) and sent != self._login().basic
            token = self._tokens.get(scopes)
            if token and sent and sent != f"Bearer {token.text}":
                return True  # another thread has renewed it meanwhile
            self._wanted[scopes] = scopes | frozenset(chosen.parameters.get("scope", "").split())
            self._tokens[scopes] = self._fetch(chosen, self._wanted[scopes])
            return bool(self._tokens[scopes].text)

    @property
    def is_asked(self) -> bool:
        """Whether the registry has wanted to know who asks."""
        return self._challenge is not None

    def _login(self) -> Login:
        if not self._found:
            self._found.append(self.login() or Login())
        return self._found[0]

    def _fetch(self, challenge: Challenge, scopes: frozenset[str]) -> _Token:
        login = self._login()
        if login.bearer:
            return _Token(login.bearer, time.monotonic() + 10 * _LIFE)
        realm = self._realm(challenge)
        fields = {"service": challenge.parameters.get("service", "")}
        began = time.monotonic()
        document = self._by_post(realm, fields, login, scopes) if login.identity_token else None
        if document is None:
            document = self._by_get(realm, fields, login, scopes)
        token = document.get("token") or document.get("access_token")
        life = document.get("expires_in") or _LIFE
        if not isinstance(token, str) or not isinstance(life, int | float) or not life > 0:
            raise ResponseError(
                "the server of tokens sent none", subject=self.origin, expected="token, expires_in", found=realm
            )
        # a request takes time to arrive: nine tenths of its life are safe, and no clock but ours counts
        return _Token(token, began + 0.9 * min(life, _MAX_LIFE))

    def _realm(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        try:
            parts = urlsplit(realm)
            is_plain = parts.scheme == "http" and (
                urlsplit(self.root).scheme == "http" or is_loopback(parts.hostname or "")
            )
        except ValueError:
            parts, is_plain = urlsplit(""), False
        if not parts.netloc or not (parts.scheme == "https" or is_plain):
            raise ResponseError(
                "the registry's challenge cannot be answered: its realm is no server that a password may go to",
                subject=self.origin,
                expected="an https URL",
                found=realm[:200],
            )
        return realm

    def _by_get(self, realm: str, fields: Mapping[str, str], login: Login, scopes: frozenset[str]) -> dict[str, object]:
        query = urlencode([*fields.items(), ("client_id", _CLIENT), *(("scope", scope) for scope in sorted(scopes))])
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{query}"
        private = {"Authorization": login.basic} if login.basic else {}
        answer = self.wire.send(
            "GET", url, {}, self.origin, private=lambda to: private if same_server(to, realm) else {}
        )
        if answer.status in (404, 405) and login.username:
            answer.drain()
            pair = {"username": login.username, "password": login.password}
            answer = self._post(realm, {**fields, "grant_type": "password", **pair}, scopes)
        return self._document(answer, realm)

    def _by_post(
        self, realm: str, fields: Mapping[str, str], login: Login, scopes: frozenset[str]
    ) -> dict[str, object]:
        form = {**fields, "grant_type": "refresh_token", "refresh_token": login.identity_token}
        return self._document(self._post(realm, form, scopes), realm)

    def _post(self, realm: str, form: Mapping[str, str], scopes: frozenset[str]) -> Answer:
        body = urlencode({**form, "client_id": _CLIENT, "scope": " ".join(sorted(scopes))}).encode()
        return self.wire.send("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, self.origin, body)

    def _document(self, answer: Answer, realm: str) -> dict[str, object]:
        try:
            if answer.status != 200:
                raise self._refused(answer, realm)
            document = json.loads(answer.read(_MAX_TOKEN))
        except (ValueError, RecursionError) as error:
            raise ResponseError("the server of tokens sent no JSON", subject=self.origin, found=realm) from error
        finally:
            answer.close()
        if not isinstance(document, dict):
            raise ResponseError("the server of tokens sent no object", subject=self.origin, found=realm)
        return document

    def _refused(self, answer: Answer, realm: str) -> ResponseError:
        host = urlsplit(self.root).netloc
        error = ResponseError(
            "the server of tokens refused the login",
            subject=self.origin,
            expected="200",
            found=f"{answer.status} from {realm}",
            hint=f"log in with: packer login {host}",
        )
        error.status = answer.status
        if answer.status in (408, 429) or answer.status >= 500:
            error.hint = "try again later"
            error.passing()
        return error
