"""Requests to one repository of a registry: logged in, repeated while they may pass, refused in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from functools import partial
from time import time
from urllib.parse import urlsplit

from registry.access import Access
from registry.auth import PULL, Authenticator, scope
from registry.descriptor import Digest
from registry.errors import ContentError, NotFoundError, ResponseError, TransferError
from registry.manifest import MAX_MANIFEST, parse_json_object
from registry.retry import persistent
from registry.wire import Answer, Buffers, safe_target, same_server, without_query

_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))

_MAX_PAGES = 1000

_SHOWN = 200
"""Bytes of an error that is no JSON which are shown."""

_FIRST = 2
"""Times that a registry is tried again which has never answered: most often its name is wrong."""

_WARNING = re.compile(r'299 - "((?:[^"\\]|\\.){1,512})"')
"""What a registry wants its users to know (distribution specification 1.1, "Warnings")."""

_MAX_WARNINGS = 8

_MAX_LIST = 8 << 20
"""Bytes of all pages of a list."""

_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
"""Names of registries that are not their addresses."""


class Calls:
    """Asks one repository. Its methods may be called by several threads; `auth` may be exchanged for another login."""

    def __init__(self, host: str, repository: str, access: Access, *, plain_http: bool) -> None:
        self.host, self.repository, self._access = host, repository, access
        self.root = f"{'http' if plain_http else 'https'}://{_API_HOSTS.get(host, host)}"
        self.name = f"{host}/{repository}"
        self._warned = set[str]()
        self._unanswered: int | None = 0
        login = partial(access.credentials.find, host, repository)
        self.auth = Authenticator(self.root, login, access.wire, self.name)

    def origin(self, name: str) -> str:
        """What an error is about: a tag or a digest of the repository."""
        return f"{self.name}{'@' if name.startswith('sha256:') else ':'}{name}"

    def pages(self, path: str, origin: str) -> Iterator[dict[str, object]]:
        """The pages of a list, as the links between them say (RFC 8288)."""
        seen, left = set[str](), _MAX_LIST
        while path not in seen and len(seen) < _MAX_PAGES and left > 0:
            seen.add(path)
            answer, raw = self.small(path, origin, {})
            left -= len(raw)
            yield parse_json_object(raw, origin)
            following = next_link(answer.header("Link"))
            if not following:
                return
            path = safe_target(self.root, answer.url, following, origin)
            if not same_server(path, self.root):
                raise ResponseError("the registry's list goes on elsewhere", subject=origin, found=path[:200])
        raise ContentError("the registry's list has no end", subject=origin, found=f"{len(seen)} pages")

    def small(self, path: str, origin: str, headers: Mapping[str, str]) -> tuple[Answer, bytes]:
        """The answer to a GET with its body, of the size of a manifest at most, within one patience for both."""

        def once() -> tuple[Answer, bytes]:
            with closing(self.call("GET", path, origin, headers, repeats=False)) as answer:
                raw = answer.read(MAX_MANIFEST + 1)
                if len(raw) > MAX_MANIFEST:
                    expected = f"at most {MAX_MANIFEST} bytes"
                    raise ContentError("this is too large", subject=origin, expected=expected)
                return answer, raw

        return persistent(once, self._access.retry, self._access.log)

    def head(self, path: str, origin: str, headers: Mapping[str, str]) -> Answer | None:
        """The answer to a HEAD; None where there is nothing, or the registry refuses to say."""
        try:
            answer = self.call("HEAD", path, origin, headers)
        except ResponseError as error:
            if error.retry_after is not None:
                raise
            return None
        except NotFoundError:
            return None
        answer.drain()
        return answer

    def call(
        self,
        method: str,
        path: str,
        origin: str,
        headers: Mapping[str, str],
        body: bytes | Buffers = b"",
        actions: str = PULL,
        *,
        scopes: frozenset[str] | None = None,
        repeats: bool = True,
    ) -> Answer:
        """The answer to a request, its body unread; a `TransferError` naming `origin` unless the status is 2xx.

        With `repeats`, which a body that streams cannot have, what may pass is tried again.
        """
        url = path if "://" in path else f"{self.root}/v2/{self.repository}/{path}"
        wanted = frozenset((scope(self.repository, actions),)) if scopes is None else scopes
        request = partial(self._once, method, url, origin, headers, body, wanted)
        return persistent(request, self._access.retry, self._access.log) if repeats else request()

    def _counted(self, error: TransferError) -> TransferError:
        """A failure; one of a registry that has never answered passes only so often."""
        if self._unanswered is not None:
            self._unanswered += 1
            if self._unanswered > _FIRST:
                error.retry_after = None
        return error

    def _once(
        self,
        method: str,
        url: str,
        origin: str,
        headers: Mapping[str, str],
        body: bytes | Buffers,
        scopes: frozenset[str],
    ) -> Answer:
        """One request, and a second one if a login helps. What proves who we are goes to the registry itself alone."""
        for is_last in (False, True):
            sent: dict[str, str] = {}

            def private(to: str, sent: dict[str, str] = sent) -> Mapping[str, str]:
                proof = self.auth.headers(scopes) if same_server(to, self.root) else {}
                sent.update(proof)
                return proof

            try:
                answer = self._access.wire.send(method, url, headers, origin, body, private)
            except TransferError as error:
                raise self._counted(error) from error.__cause__
            self._unanswered = None
            if answer.status != 401 or is_last or not same_server(answer.url, self.root):
                break  # a challenge from elsewhere is none of our business: a storage host may lie
            answer.drain()
            if not self.auth.answer(answer, sent.get("Authorization", ""), scopes):
                break
            if not isinstance(body, bytes):
                raise _refused(answer, method, origin, self.host).passing()
        for warning in _WARNING.findall(answer.header("Warning"))[:_MAX_WARNINGS]:
            if warning not in self._warned and len(self._warned) < _MAX_WARNINGS:
                self._warned.add(warning)
                self._access.log(f"{self.host} warns: {warning}")
        if answer.status >= 300:
            answer.drain()
            raise _refused(answer, method, origin, self.host)
        return answer

    def location(self, answer: Answer, digest: Digest) -> str:
        """Where an upload goes on: perhaps at another host, which is told no password."""
        if not (location := answer.header("Location")):
            raise ResponseError("the registry opened an upload without a Location", subject=self.origin(digest))
        return safe_target(self.root, answer.url, location, self.origin(digest))


def next_link(header: str) -> str:
    """Where `rel="next"` of a `Link` leads; empty if nowhere (RFC 8288)."""
    for link in header.split(","):
        target, _, parameters = link.strip().partition(";")
        if 'rel="next"' in parameters.replace(" ", "") or "rel=next" in parameters.replace(" ", ""):
            return target.strip().removeprefix("<").removesuffix(">")
    return ""


def _refused(answer: Answer, method: str, origin: str, host: str) -> TransferError:
    if answer.status == 404 and method in ("GET", "HEAD"):
        return NotFoundError("the registry does not have this", subject=origin, hint="check the repository and the tag")
    is_login = answer.status == 401
    error = ResponseError(
        "the registry wants credentials that are missing or wrong"
        if is_login
        else f"the registry refused to {method} {without_query(answer.url)}",
        subject=origin,
        expected="a status of 2xx",
        found=f"{answer.status} {_reasons(answer)}",
        hint=f"log in with: packer login {host}" if is_login else _hint(answer.status, host),
    )
    error.status = answer.status
    if answer.status == 400 and urlsplit(answer.url).scheme == "http":
        error.hint = "if this port speaks TLS, say how to trust it: --ca-file FILE, or --insecure"
    return error.passing(_retry_after(answer)) if answer.status in _PASSING else error


def _hint(status: int, host: str) -> str:
    if status < 400:
        return "writes are not sent on to other addresses; name the registry's own"
    if status == 403:
        return f"the login at {host} does not allow this: check it, and what it may do"
    if status in (405, 501):
        return "this does not speak the registry protocol; check the host and the port"
    if status == 413:
        return "the registry, or a proxy before it, bounds what it takes: raise its limit, or regroup with --max-size"
    return "the fault is on the registry's side: try again later" if status >= 500 else ""


def _retry_after(answer: Answer) -> float:
    """Seconds that a server asks for (RFC 9110, section 10.2.3); 0 if it does not, or not so that one can tell."""
    text = answer.header("Retry-After").strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), 86400))
    try:
        return max(parsedate_to_datetime(text).timestamp() - time(), 0.0) if text else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _reasons(answer: Answer) -> str:
    try:
        errors = json.loads(answer.said())["errors"]
        return "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)[:500]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = answer.said()[:_SHOWN].decode(errors="replace")
        return "" if "<" in text else " ".join(text.split())
