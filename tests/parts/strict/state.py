"""What a registry has, and what it was asked."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.parts.strict.mode import STRICT, Mode

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
NOT_KEPT = ("nondistributable", ".foreign.")
"""Parts of the media types whose blobs a registry need not have."""

Authorize = Callable[[Mapping[str, str], str, str], tuple[int, dict[str, str]] | None]
"""Takes headers, method and repository ("" for none); returns the status and headers of a refusal, or None."""


def digest_of(data: bytes | bytearray, like: str = "sha256:") -> str:
    """The digest of some bytes, by the algorithm of another digest."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True)
class Request:
    """A request that was answered; with status 0 one that broke in its body."""

    method: str
    path: str
    status: int
    received: int
    """Bytes of its body."""
    sent: int
    """Bytes of the answer's body."""
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Blob:
    """A blob; without data where it was thrown away."""

    size: int
    data: bytes | None


@dataclass(frozen=True)
class Stored:
    """A manifest, byte for byte as it came."""

    type: str
    data: bytes

    @property
    def document(self) -> dict[str, Any]:
        """What it says."""
        return dict(json.loads(self.data))


@dataclass
class Upload:
    """An upload session; its lock is held while a body comes in."""

    repository: str
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: str = ""
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    first: int | None = None
    """Its size after the first PATCH."""
    short: bool = False
    """A chunk below the least size came: it was the last."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self) -> None:
        """A new state, with characters that a client must not lose on the way: + / =."""
        self.state = "+/" + base64.b64encode(secrets.token_bytes(10)).decode()


@dataclass
class Repository:
    """One name's content; `tags` hold digests."""

    blobs: dict[str, Blob] = field(default_factory=dict)
    manifests: dict[str, Stored] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def missing(self, document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The descriptors in a manifest (its subject is none of them) of what is not here in that size."""
        for descriptor in [document.get("config"), *document.get("layers", [])]:
            if descriptor and not any(part in descriptor["mediaType"] for part in NOT_KEPT):
                blob = self.blobs.get(descriptor["digest"])
                if blob is None or blob.size != descriptor["size"]:
                    yield descriptor
        for descriptor in document.get("manifests", []):
            child = self.manifests.get(descriptor["digest"])
            if child is None or len(child.data) != descriptor["size"]:
                yield descriptor


@dataclass
class StrictRegistry:
    """A running registry. `mode`, `authorize` and `cuts` may be changed while it runs.

    `authorize` is asked before each request, and for a mount once more, about a GET from the other repository; what it
    returns may be any refusal, so it also plays rate limits and outages. Each number in `cuts` ends one connection
    after so many bytes of an upload's body, and those are kept.
    """

    mode: Mode = STRICT
    authorize: Authorize | None = None
    address: str = ""
    storage_address: str = ""
    requests: list[Request] = field(default_factory=list)
    storage_requests: list[Request] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def repository(self, name: str) -> Repository:
        """The repository of this name, made where there is none."""
        with self.lock:
            return self.repositories.setdefault(name, Repository())

    def blobs(self, name: str) -> dict[str, bytes]:
        """Its blobs by digest; those that were thrown away are empty."""
        return {digest: blob.data or b"" for digest, blob in self._known(name).blobs.items()}

    def manifests(self, name: str) -> dict[str, dict[str, Any]]:
        """Its manifests by digest."""
        return {digest: stored.document for digest, stored in self._known(name).manifests.items()}

    def tags(self, name: str) -> dict[str, str]:
        """Its tags, and the digests that they point at."""
        return dict(self._known(name).tags)

    def _known(self, name: str) -> Repository:
        return self.repositories.get(name, Repository())

    def put_blob(self, name: str, data: bytes) -> str:
        """Store a blob without a request; returns its digest."""
        digest = digest_of(data)
        self.repository(name).blobs[digest] = Blob(len(data), data)
        return digest

    def put_manifest(self, name: str, document: Mapping[str, Any], tag: str = "") -> str:
        """Store a manifest without a request and without a check; returns its digest."""
        data = json.dumps(document).encode()
        digest = digest_of(data)
        self.repository(name).manifests[digest] = Stored(str(document["mediaType"]), data)
        if tag:
            self.repository(name).tags[tag] = digest
        return digest

    def uploaded(self) -> int:
        """The bytes of blobs that clients have sent, those of broken and refused requests among them."""
        return sum(request.received for request in self.requests if "/blobs/uploads/" in request.path)

    def blobs_read(self) -> list[Request]:
        """The requests that asked for a blob's content."""
        return [request for request in self.requests if request.method == "GET" and _BLOB.search(request.path)]

    def problems(self) -> list[str]:
        """What points at something that is not there, or not in that size."""
        return [f"{name}: {problem}" for name, one in list(self.repositories.items()) for problem in _problems(one)]


_BLOB = re.compile(r"/blobs/[a-z0-9]+:")


def _problems(repository: Repository) -> Iterator[str]:
    for tag, digest in list(repository.tags.items()):
        if digest not in repository.manifests:
            yield f"tag {tag} points at {digest}, which is not there"
    for digest, stored in list(repository.manifests.items()):
        for descriptor in repository.missing(stored.document):
            yield f"manifest {digest} points at {descriptor['digest']}, which is not there with its size"
