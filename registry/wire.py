"""HTTP as this project speaks it: one request, streamed, within time limits, redirected only where that is safe.

urllib3 keeps the connections, speaks TLS and goes through proxies; it neither repeats nor redirects anything here.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from registry.errors import ContentError, ResponseError, TransferError, UsageError
from registry.reference import is_loopback

if TYPE_CHECKING:
    import urllib3
    from urllib3.response import BaseHTTPResponse

MAX_ERROR = 64 << 10
"""Bytes of an error's body that are read."""

MAX_REDIRECTS = 5
_HEADERS = {"User-Agent": "packer", "Accept-Encoding": "identity"}
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

Private = Callable[[str], Mapping[str, str]]
"""Gives the headers that only one server may see: it is asked for each URL that a request goes to."""

Buffers = Iterable[bytes | memoryview]
"""A body that is made while it is sent."""


@dataclass(frozen=True)
class Tls:
    """How servers are verified, and how this client proves itself to them. The system's authorities always count."""

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    verify: bool = True

    @property
    def is_wanted(self) -> bool:
        """Whether somebody has said something about TLS."""
        return bool(self.ca_file or self.client_cert or not self.verify)

    def context(self) -> ssl.SSLContext:
        """For new connections; `UsageError` for files that cannot be used."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
            if self.client_cert:
                context.load_cert_chain(self.client_cert, self.client_key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(path) for path in (self.ca_file, self.client_cert, self.client_key) if path)
            hint = "name PEM files; a --client-cert without its key inside needs --client-key"
            raise UsageError(f"a certificate or key cannot be used ({error})", subject=files, hint=hint) from error
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class Limits:
    """Seconds to connect, seconds between two bytes, and connections that are kept to one host."""

    connect: float = 10.0
    silence: float = 120.0
    connections: int = 64


class Answer:
    """What came back, its body unread; `url` is where it came from in the end. The reader closes it."""

    def __init__(self, response: BaseHTTPResponse, url: str, origin: str) -> None:
        self.status, self.headers, self.url = response.status, response.headers, url
        self._response, self._origin, self._error = response, origin, b""

    @property
    def status_code(self) -> int:
        """The status, as other libraries name it."""
        return self.status

    def header(self, name: str) -> str:
        """The value of a header; empty if it did not come."""
        return self.headers.get(name) or ""

    def read(self, size: int) -> bytes:
        """The next bytes of the body, at most `size`; none at the end. A broken connection is a `TransferError`."""
        with network_errors(urlsplit(self.url).netloc, self._origin):
            return self._response.read(size, decode_content=False)

    def drain(self) -> None:
        """Read what nobody needs, within a bound, so that the connection serves the next request too."""
        with suppress(TransferError):
            self._error = self._error or self.read(MAX_ERROR)
        self.close()

    def said(self) -> bytes:
        """The front of a body that was drained: what an error says."""
        self.drain()
        return self._error

    def close(self) -> None:
        """End it; the connection serves again only if the body was read to its end."""
        self._response.close()


@dataclass(frozen=True)
class Wire:
    """Sends requests. `proxies` are as `urllib.request.getproxies_environment` gives them."""

    tls: Tls = Tls()
    proxies: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        origin: str,
        body: bytes | Buffers = b"",
        private: Private = lambda _: {},
    ) -> Answer:
        """The answer, whatever its status. Only reads follow redirects; `private` gives each URL its own headers.

        `TransferError` naming `origin` if the server cannot be reached or breaks off, marked as passing.
        """
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._once(method, url, {**headers, **private(url)}, origin, body)
            location = answer.header("Location")
            if answer.status not in _REDIRECTS or method not in ("GET", "HEAD") or not location:
                return answer
            answer.drain()
            url = safe_target(first, url, location, origin)
        raise ResponseError("the server redirects without end", subject=origin, found=without_query(url))

    def _once(self, method: str, url: str, headers: Mapping[str, str], origin: str, body: bytes | Buffers) -> Answer:
        if not all(_VALUE.fullmatch(value) for value in headers.values()):
            raise ResponseError("the server wants something said that no header can hold", subject=origin)
        with network_errors(urlsplit(url).netloc, origin):
            response = self._pool(url).request(
                method,
                url,
                headers={**_HEADERS, **headers},
                body=cast(Any, body or None),
                redirect=False,
                retries=False,
                preload_content=False,
            )
        if response.status < 200:
            response.close()
            raise ResponseError("the server gives no final answer", subject=origin, found=response.status)
        return Answer(response, url, origin)

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = self.proxies.get(parts.scheme) or self.proxies.get("all")
        is_here = is_loopback(parts.hostname or "")
        if not proxy or is_here or proxy_bypass_environment(parts.netloc, cast(dict[str, str], self.proxies)):
            return self._direct(parts.scheme)
        return self._proxy(proxy if "://" in proxy else f"http://{proxy}")

    def _proxy(self, proxy: str) -> urllib3.PoolManager:
        import urllib3

        if proxy not in self._pools:
            parts = urlsplit(proxy)
            if parts.scheme not in ("http", "https"):
                raise UsageError("proxies of this kind are not supported", found=parts.scheme, expected="http or https")
            login = urllib3.make_headers(proxy_basic_auth=parts.netloc.rpartition("@")[0]) if "@" in proxy else None
            address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            manager = urllib3.ProxyManager(address, proxy_headers=login, ssl_context=self._context, **self._options)
            self._pools[proxy] = self._guarded(manager)
        return self._pools[proxy]

    def _direct(self, scheme: str) -> urllib3.PoolManager:
        import urllib3

        if scheme not in self._pools:
            # the system's authorities take a while to read, and plain HTTP needs none
            context = self._context if scheme == "https" else None
            self._pools[scheme] = self._guarded(urllib3.PoolManager(ssl_context=context, **self._options))
        return self._pools[scheme]

    @cached_property
    def _pools(self) -> dict[str, urllib3.PoolManager]:
        return {}

    def _guarded(self, manager: urllib3.PoolManager) -> urllib3.PoolManager:
        from registry.guard import guarded

        return guarded(manager, self.limits.silence)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        import urllib3

        if not self.tls.verify:  # the user has said so, and has been told
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return self.tls.context()

    @cached_property
    def _options(self) -> dict[str, Any]:
        import urllib3

        return {
            "maxsize": self.limits.connections,
            "timeout": urllib3.Timeout(connect=self.limits.connect, read=self.limits.silence),
        }


class network_errors:  # noqa: N801 - reads as the statement that it is
    """A block in which failures of the network to `host` become `TransferError`s about `origin`, marked as passing."""

    def __init__(self, host: str, origin: str) -> None:
        self._host, self._origin = host, origin

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Translate what went wrong."""
        from urllib3.exceptions import HTTPError, LocationParseError, LocationValueError

        if error is None or not isinstance(error, HTTPError | OSError | http.client.HTTPException | UnicodeError):
            return
        cause = getattr(error, "reason", None) or error
        if isinstance(error, LocationParseError | LocationValueError | UnicodeError | http.client.InvalidURL):
            raise ResponseError("this is no address", subject=self._origin, found=self._host) from error
        if _is_distrust(error):
            raise TransferError(
                f"{self._host} cannot be trusted or does not speak TLS ({_plain(cause)})",
                subject=self._origin,
                hint="prove who you are with --client-cert and --client-key"
                if "BAD_CERTIFICATE" in str(cause) or "CERTIFICATE_REQUIRED" in str(cause)
                else "name its authority with --ca-file; a registry without TLS needs --plain-http",
            ) from error
        raise TransferError(
            f"{self._host} cannot be reached or broke off ({_plain(cause)})",
            subject=self._origin,
            hint="check the name, the port and the network; a registry without TLS beyond this machine needs "
            "--plain-http",
        ).passing() from error


def _is_distrust(error: BaseException) -> bool:
    """Whether TLS failed for a reason that stays; a connection that ends in its midst is one that broke."""
    causes: list[object] = [error]
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            broke = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
            return not broke and cause.reason not in _BROKEN
        if isinstance(cause, BaseException):
            more = (getattr(cause, "reason", None), *cause.args, cause.__cause__)
            causes += [one for one in more if isinstance(one, BaseException) and one not in causes]
    return False


_BROKEN = frozenset(("UNEXPECTED_EOF_WHILE_READING", "BAD_RECORD_TYPE", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"))
"""What TLS says of a connection that was cut, or into which something else was written."""


def _plain(error: object) -> str:
    """What happened, without the names of Python's objects."""
    from urllib3.exceptions import HTTPError

    last = error.args[-1] if isinstance(error, HTTPError) and error.args else None
    text = str(last if isinstance(last, Exception) else error)
    return re.sub(r"^(<[^>]*>|\w+\(host='[^']*', port=\d+\)): ", "", text)


def safe_target(first: str, url: str, location: str, origin: str) -> str:
    """Where a Location from `url` leads, on behalf of what was asked of `first`.

    `ResponseError` for another scheme than HTTP, less safety, or a place inside.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        host = parts.hostname or ""
    except ValueError as error:
        raise ResponseError("the server sends us to no URL", subject=origin, found=location[:200]) from error
    secure = urlsplit(first).scheme == "https"
    if parts.scheme not in (("https",) if secure else ("http", "https")):
        raise ResponseError(
            "the server sends us to another scheme",
            subject=origin,
            expected="https" if secure else "http or https",
            found=parts.scheme[:20],
        )
    home = urlsplit(first).hostname or ""
    if host != home and _is_inside(host, allows_loopback=is_loopback(home)):
        raise ResponseError(
            "the server sends us to an address that is none of its business",
            subject=origin,
            expected="a host beyond this machine and its link",
            found=host,
        )
    return target


def _is_inside(host: str, *, allows_loopback: bool) -> bool:
    """Whether a host is this machine or its link, where metadata services answer. Names that nobody knows are not."""
    with suppress(OSError, UnicodeError):
        for *_, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            address = ipaddress.ip_address(str(place[0]).partition("%")[0])
            address = getattr(address, "ipv4_mapped", None) or address
            if address.is_link_local or address.is_unspecified or (address.is_loopback and not allows_loopback):
                return True
    return False


def same_server(one: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port, said or not."""
    with suppress(ValueError):
        return _server(one) == _server(other)
    return False


def _server(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def without_query(url: str) -> str:
    """A URL without its query, which may hold secrets."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def range_header(start: int, end: int) -> dict[str, str]:
    """The header that asks for the bytes from `start` up to `end` (RFC 9110, section 14.2)."""
    return {"Range": f"bytes={start}-{end - 1}"}


def check_range(answer: Answer, start: int, end: int, size: int, origin: str) -> bool:
    """Whether an answer to `range_header` holds the range, and not the whole; `ContentError` if it is neither.

    RFC 9110, sections 14.4 and 15.3.7. A server that ignores Range sends the whole, and says so by its length.
    """
    is_partial = answer.status == 206
    if is_partial:
        expected, found = f"bytes {start}-{end - 1}/{size}", answer.header("Content-Range") or "no Content-Range"
        is_right = found in (expected, f"bytes {start}-{end - 1}/*")
    else:
        expected, found = f"{size} bytes", f"{answer.header('Content-Length') or size} bytes"
        is_right = found == expected
    if not is_right or answer.header("Content-Encoding") not in ("", "identity"):
        answer.close()
        what = "the server sent another range" if is_partial else "the server sent something else than this content"
        error = ContentError(what, subject=origin, expected=expected, found=found[:200])
        raise error.passing() if is_partial else error  # one server of many may be out of step for a moment
    return is_partial
