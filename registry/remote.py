"""A repository in an OCI registry, as a store.

Distribution specification 1.1. oras finds the credentials and answers the challenges
(`docs/adr/0004-oras.md`); requests and answers are ours, because bodies must stream.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from typing import Any, BinaryIO, cast
from urllib.parse import urljoin, urlsplit

import oras.container
import oras.provider
import requests
import urllib3.exceptions

from registry.blob import CHUNK, Blob, verified
from registry.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST, OCTETS, Descriptor, Digest, digest_of
from registry.errors import ContentError, NotFoundError, ResponseError, TransferError, UsageError
from registry.http import Body, prepare, range_answer, range_header
from registry.manifest import MAX_MANIFEST, Index, Manifest, decode
from registry.ranged import Allowance, Answer, RangedBlob

_ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
"""Names of registries that are not their addresses."""

MAX_ERROR = 64 << 10
"""Bytes of an error's body that are read."""


class Remote:
    """One repository of one registry."""

    def __init__(self, host: str, repository: str, *, plain_http: bool = False) -> None:
        self._host, self._repository, self._plain_http = host, repository, plain_http
        self._authorization: Mapping[str, str] = {}
        self._unranged = Allowance()
        self._root = f"{'http' if plain_http else 'https'}://{_API_HOSTS.get(host, host)}"
        self._base = f"{self._root}/v2/{repository}"

    @cached_property
    def _oras(self) -> oras.provider.Registry:
        provider = oras.provider.Registry(self._host, insecure=self._plain_http)
        prepare(provider.session)
        try:
            provider.auth.load_configs(oras.container.Container(f"{self._host}/{self._repository}"))
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise UsageError(
                f"docker's credentials cannot be read ({error})", subject="~/.docker/config.json", hint="mend the file"
            ) from error
        return provider

    def resolve(self, name: str) -> Manifest | Index:
        """The manifest under a tag or digest."""
        origin = f"{self._host}/{self._repository}{'@' if name.startswith('sha256:') else ':'}{name}"
        response = self._request("GET", f"manifests/{name}", origin, headers={"Accept": _ACCEPT})
        with closing(Body(response, origin)) as body:
            raw = body.read(MAX_MANIFEST + 1)
        if len(raw) > MAX_MANIFEST:
            raise ContentError("this manifest is too large", subject=origin, expected=f"at most {MAX_MANIFEST} bytes")
        if name.startswith("sha256:") and digest_of(raw) != name:
            raise ContentError(
                "the registry sent another manifest", subject=origin, expected=name, found=digest_of(raw)
            )
        return decode(raw, origin)

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor."""
        return _RemoteBlob(self, descriptor)

    def ranged(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor, read in ranges."""
        origin = f"{self._host}/{self._repository}@{descriptor.digest}"

        def request(start: int, end: int) -> Answer:
            response = self._request("GET", f"blobs/{descriptor.digest}", origin, headers=range_header(start, end))
            return range_answer(response, start, end, descriptor.size, origin)

        hint = f"packer pull {self._host}/{self._repository}:TAG DIR fetches it all; then validate DIR"
        return RangedBlob(request, descriptor.size, origin, hint, descriptor, self._unranged)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """A stream over a blob of the repository, checked as it comes."""
        origin = f"{self._host}/{self._repository}@{descriptor.digest}"
        response = self._request("GET", f"blobs/{descriptor.digest}", origin, headers={"Accept-Encoding": "identity"})
        return verified(cast(BinaryIO, Body(response, origin)), descriptor, origin)

    def push(self, blob: Blob) -> bool:
        """Upload the blob in one streamed PUT, unless the repository has it."""
        descriptor = blob.descriptor
        if self._exists("blobs", descriptor.digest):
            return False
        origin = f"{self._host}/{self._repository}@{descriptor.digest}"
        session = self._request("POST", "blobs/uploads/", origin, headers={"Content-Length": "0"})
        location = self._upload_location(session, origin)
        url = f"{location}{'&' if urlsplit(location).query else '?'}digest={descriptor.digest}"
        headers = {"Content-Type": OCTETS, "Content-Length": str(descriptor.size)}
        with blob.open() as stream:
            self._request("PUT", url, origin, headers=headers, data=_Sized(stream, descriptor.size))
        return True

    def put(self, manifest: Manifest | Index) -> bool:
        """Put the manifest under its digest."""
        if self._exists("manifests", manifest.descriptor.digest):
            return False
        self._put_manifest(manifest, manifest.descriptor.digest)
        return True

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """Put the manifest under a tag too."""
        if self._exists("manifests", tag) == manifest.descriptor.digest:
            return False
        self._put_manifest(manifest, tag)
        return True

    def _put_manifest(self, manifest: Manifest | Index, name: str) -> None:
        headers = {"Content-Type": manifest.media_type}
        self._request("PUT", f"manifests/{name}", f"{self._host}/{self._repository}:{name}", headers, manifest.raw)

    def _exists(self, kind: str, name: str) -> Digest | None:
        try:
            headers = {"Accept": _ACCEPT} if kind == "manifests" else {"Accept-Encoding": "identity"}
            response = self._request("HEAD", f"{kind}/{name}", f"{self._host}/{self._repository}", headers)
        except (NotFoundError, ResponseError):
            return None  # some registries refuse to answer about what is not there; the write that follows tells
        return Digest(response.headers.get("Docker-Content-Digest") or name)

    def _upload_location(self, response: requests.Response, origin: str) -> str:
        if not (location := response.headers.get("Location")):
            raise ResponseError("the registry opened an upload without a Location", subject=origin)
        try:
            return urljoin(response.url, location)
        except ValueError as error:
            raise ResponseError(
                "the registry opened an upload at no URL", subject=origin, found=location[:200]
            ) from error

    def _request(
        self, method: str, path: str, origin: str, headers: Mapping[str, str], data: Any = None
    ) -> requests.Response:
        """The answer to a request, its body unread; a `TransferError` naming `origin` unless the status is 2xx."""
        url = path if "://" in path else f"{self._base}/{path}"
        try:
            response = self._send(method, url, headers, data)
            if response.status_code == 401 and not isinstance(data, _Sized):
                with closing(response):
                    answered = self._log_in(response, origin)
                    _drain(response)
                response = self._send(method, url, headers, data) if answered else response
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            raise _unreachable(self._host, origin, error) from error
        if response.status_code >= 300:
            with closing(response):
                refusal = _refused(response, method, origin, self._host)
                _drain(response)
            raise refusal
        if method != "GET":
            with closing(response):
                _drain(response)
        return response

    def _send(self, method: str, url: str, headers: Mapping[str, str], data: Any) -> requests.Response:
        """One request. What proves who we are goes to the registry itself, and no write follows a redirect."""
        proof = self._authorization if self._is_registry(url) else {}
        reads = method in ("GET", "HEAD")
        response: requests.Response = self._oras.session.request(
            method, url, headers={**headers, **proof}, data=data, stream=True, allow_redirects=reads
        )
        return response

    def _is_registry(self, url: str) -> bool:
        return urlsplit(url)[:2] == urlsplit(self._root)[:2]

    def _log_in(self, response: requests.Response, origin: str) -> bool:
        """Answer the challenge of a 401, with the credentials that docker keeps; False if there are none.

        A challenge from anywhere but the registry is none of our business: a storage host behind a redirect may lie.
        """
        challenge = response.headers.get("WWW-Authenticate", "")
        if not self._is_registry(response.url) or ("http://" in challenge and not self._plain_http):
            return False
        auth = self._oras.auth
        basic = getattr(auth, "_basic_auth", None)
        if challenge.lower().startswith("basic"):
            self._authorization = {"Authorization": f"Basic {basic}"} if basic else {}
            return bool(basic)
        try:
            headers, answered = auth.authenticate_request(response, {}, refresh=True)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise ResponseError(
                f"the registry's challenge cannot be answered ({error})", subject=origin, found=challenge[:200]
            ) from error
        self._authorization = headers if answered else {}
        return bool(answered)


class _RemoteBlob:
    def __init__(self, remote: Remote, descriptor: Descriptor) -> None:
        self._remote, self.descriptor = remote, descriptor

    def open(self) -> BinaryIO:
        return self._remote.open_blob(self.descriptor)


class _Sized:
    """A stream whose length is known, as requests wants it for a Content-Length."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Any:
        return iter(lambda: self._stream.read(CHUNK), b"")

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


def _drain(response: requests.Response) -> None:
    """Read a body that nobody needs, within a bound, so that its connection serves the next request too."""
    response.raw.read(MAX_ERROR)


def _unreachable(host: str, origin: str, error: Exception) -> TransferError:
    cause = getattr(error.args[0] if error.args else error, "reason", error)
    return TransferError(
        f"{host} cannot be reached or broke off ({cause})",
        subject=origin,
        hint="check the name, the port and the network; a registry without TLS beyond this machine needs --plain-http",
    )


def _unauthorized(host: str, origin: str) -> ResponseError:
    return ResponseError(
        "the registry wants credentials that are missing or wrong",
        subject=origin,
        hint=f"log in with: docker login {host}  (or podman login --authfile ~/.docker/config.json {host})",
    )


def _refused(response: requests.Response, method: str, origin: str, host: str) -> TransferError:
    if response.status_code == 404 and method in ("GET", "HEAD"):
        return NotFoundError("the registry does not have this", subject=origin, hint="check the repository and the tag")
    if response.status_code == 401:
        return _unauthorized(host, origin)
    return ResponseError(
        f"the registry refused to {method} {_without_query(response.url)}",
        subject=origin,
        expected="a status of 2xx",
        found=f"{response.status_code} {_reasons(response)}",
        hint=_hint(response.status_code),
    )


def _hint(status: int) -> str:
    if status < 400:
        return "writes are not sent on to other addresses; name the registry's own"
    if status in (405, 501):
        return "this does not speak the registry protocol; check the host and the port"
    return "the fault is on the registry's side: try again later" if status >= 500 else ""


def _reasons(response: requests.Response) -> str:
    try:
        errors = json.loads(response.raw.read(MAX_ERROR, decode_content=True))["errors"]
        return "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)[:500]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, urllib3.exceptions.HTTPError):
        return str(response.reason)


def _without_query(url: str) -> str:
    return urlsplit(url)._replace(query="").geturl()
