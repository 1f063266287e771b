"""What registries differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20


@dataclass(frozen=True)
class Mode:
    """The switches of a strict registry; as they stand they are the specification, with all that is optional in it."""

    patch: bool = True
    """Without, PATCH answers 405: only a monolithic PUT uploads."""
    patch_status: int = 202
    stale_range: bool = False
    """Every Range header of an upload stays at the end of its first chunk, though all is stored."""
    min_chunk: int = 0
    """Announced in OCI-Chunk-Min-Length; nothing may follow a ranged chunk that is shorter."""
    max_chunk: int | None = None
    """A longer ranged PATCH answers 416."""
    old_locations: bool = False
    """PATCH and PUT also work at a location that a newer one replaced."""
    absolute: bool = False
    """Locations have scheme and host."""
    octets: bool = True
    """A body that uploads a blob must be application/octet-stream, else 415."""
    mounts: bool = True
    anonymous_mounts: bool = False
    """`mount` without `from` finds the blob in any repository."""
    deletes: bool = True
    max_layer: int | None = None
    """A longer blob answers 413, and its upload is gone."""
    max_manifest: int = 4 * MIB
    etag: bool = False
    """Manifests have an ETag, and If-Match and If-None-Match are heeded: 412."""
    referrers: Literal["api", "none", "page"] = "api"
    """The API; 404; or 303 to an HTML page, which itself answers `page_status`."""
    page_status: int = 404
    filters: bool = True
    """The referrers API filters by artifactType and says so."""
    page: int | None = None
    """At most so many tags or referrers at once, however many are asked for."""
    ranges: bool = True
    """Without, a blob's Range is ignored."""
    redirects: bool = False
    """A blob's GET answers 307 to the object storage, another server, which refuses any Authorization."""
    drains: bool = True
    """Without, a refusal is sent before the body was read, and the connection closed."""
    sink: bool = False
    """Uploaded bytes are counted and thrown away, and any digest is right: for measuring a client."""


STRICT = Mode()
GHCR = Mode(max_chunk=4 * MIB, mounts=False, referrers="page", max_layer=10 * 10**9)
ECR = Mode(patch_status=201, stale_range=True, max_layer=52_000 * MIB)
GAR = Mode(patch=False)
