"""A repository in an OCI registry, as a store.

Distribution specification 1.1. oras finds the credentials and answers the challenges
(`docs/adr/0004-oras.md`); requests and answers are ours, because bodies must stream.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from functools import cached_property
from typing import Any, BinaryIO, cast
from urllib.parse import urljoin, urlsplit

import oras.container
import oras.provider
import requests
from requests.adapters import HTTPAdapter

from registry.blob import CHUNK, Blob, verified
from registry.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST, OCTETS, Descriptor, Digest, digest_of
from registry.errors import ContentError, NotFoundError, ResponseError, TransferError
from registry.manifest import MAX_MANIFEST, Index, Manifest, decode

_ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_TIMEOUT = (10.0, 120.0)
"""Seconds: to connect, and between two bytes of an answer."""


class Remote:
    """One repository of one registry."""

    def __init__(self, host: str, repository: str, *, plain_http: bool = False) -> None:
        self._host, self._repository, self._plain_http = host, repository, plain_http
        self._authorization: Mapping[str, str] = {}
        self._base = f"{'http' if plain_http else 'https'}://{host}/v2/{repository}"

    @cached_property
    def _oras(self) -> oras.provider.Registry:
        provider = oras.provider.Registry(self._host, insecure=self._plain_http)
        provider.auth.load_configs(oras.container.Container(f"{self._host}/{self._repository}"))
        for scheme in ("http://", "https://"):
            provider.session.mount(scheme, _Adapter())
        return provider

    def resolve(self, name: str) -> Manifest | Index:
        """The manifest under a tag or digest."""
        origin = f"{self._host}/{self._repository}{'@' if name.startswith('sha256:') else ':'}{name}"
        response = self._request("GET", f"manifests/{name}", origin, headers={"Accept": _ACCEPT}, stream=True)
        raw = response.raw.read(MAX_MANIFEST + 1, decode_content=True)
        response.close()
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

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """A stream over a blob of the repository, checked as it comes."""
        origin = f"{self._host}/{self._repository}@{descriptor.digest}"
        headers = {"Accept-Encoding": "identity"}
        response = self._request("GET", f"blobs/{descriptor.digest}", origin, headers=headers, stream=True)
        return verified(cast(BinaryIO, _Body(response, origin)), descriptor, origin)

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
        except NotFoundError:
            return None
        return Digest(response.headers.get("Docker-Content-Digest") or name)

    def _upload_location(self, response: requests.Response, origin: str) -> str:
        if not (location := response.headers.get("Location")):
            raise ResponseError("the registry opened an upload without a Location", subject=origin)
        return urljoin(response.url, location)

    def _request(
        self, method: str, path: str, origin: str, headers: Mapping[str, str], data: Any = None, *, stream: bool = False
    ) -> requests.Response:
        response: requests.Response
        url = path if "://" in path else f"{self._base}/{path}"
        try:
            response = self._send(method, url, headers, data, stream=stream)
            if response.status_code == 401 and not isinstance(data, _Sized) and self._log_in(response):
                response = self._send(method, url, headers, data, stream=stream)
        except (requests.RequestException, http.client.HTTPException) as error:
            raise _unreachable(self._host, origin, error) from error
        if response.ok:
            return response
        raise _refused(response, method, origin, self._host)

    def _send(self, method: str, url: str, headers: Mapping[str, str], data: Any, *, stream: bool) -> requests.Response:
        """One request. What proves who we are goes to the registry's own host, and to no other."""
        proof = self._authorization if urlsplit(url).netloc == self._host else {}
        response: requests.Response = self._oras.session.request(
            method, url, headers={**headers, **proof}, data=data, stream=stream
        )
        return response

    def _log_in(self, response: requests.Response) -> bool:
        """Answer the challenge of a 401, with the credentials that docker and podman keep; False if there are none."""
        auth = self._oras.auth
        basic = getattr(auth, "_basic_auth", None)
        if response.headers.get("WWW-Authenticate", "").lower().startswith("basic"):
            self._authorization = {"Authorization": f"Basic {basic}"} if basic else {}
            return bool(basic)
        headers, answered = auth.authenticate_request(response, {}, refresh=True)
        self._authorization = headers if answered else {}
        return bool(answered)


class _RemoteBlob:
    def __init__(self, remote: Remote, descriptor: Descriptor) -> None:
        self._remote, self.descriptor = remote, descriptor

    def open(self) -> BinaryIO:
        return self._remote.open_blob(self.descriptor)


class _Adapter(HTTPAdapter):
    """Large writes and a time limit for every request."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, blocksize=CHUNK)

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = kwargs.get("timeout") or _TIMEOUT
        return super().send(request, *args, **kwargs)


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


class _Body:
    """The body of an answer as a stream whose failures are ours."""

    def __init__(self, response: requests.Response, origin: str) -> None:
        self._response, self._origin = response, origin

    def read(self, size: int = -1) -> bytes:
        import urllib3.exceptions

        try:
            return cast(bytes, self._response.raw.read(size))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransferError(
                f"the connection broke while the content came ({error})", subject=self._origin, hint="run it again"
            ) from error

    def close(self) -> None:
        self._response.close()


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
        hint="" if response.status_code < 500 else "the fault is on the registry's side: try again later",
    )


def _reasons(response: requests.Response) -> str:
    try:
        errors = response.json()["errors"]
        return "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)[:500]
    except (ValueError, LookupError, TypeError, AttributeError):
        return str(response.reason)


def _without_query(url: str) -> str:
    return urlsplit(url)._replace(query="").geturl()
