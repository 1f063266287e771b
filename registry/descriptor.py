"""Digests and descriptors: the names of bytes.

Image specification 1.1, `descriptor.md`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from registry.errors import ContentError, UsageError

Digest = NewType("Digest", str)
"""`sha256:` and 64 hexadecimal digits; what comes from outside becomes one by `parse_digest` alone."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCTETS = "application/octet-stream"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NO_ANNOTATIONS: Mapping[str, str] = {}


def is_digest(text: str) -> bool:
    """Whether a text is a whole sha256 digest."""
    return bool(_DIGEST.fullmatch(text))


def parse_digest(text: object) -> Digest:
    """The digest that `text` spells; `UsageError` for anything but a whole sha256 digest."""
    if not isinstance(text, str) or not is_digest(text):
        raise UsageError("this is not a digest", expected="sha256: and 64 hexadecimal digits", found=repr(text)[:100])
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """The sha256 digest of `data`."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, order=True)
class Platform:
    """An operating system and a processor architecture, in Go's words (`linux/amd64`)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that `OS/ARCH[/VARIANT]` names; `UsageError` otherwise."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9._-]+", part) for part in parts):
            raise UsageError("this is not a platform", expected="OS/ARCH[/VARIANT], such as linux/amd64", found=text)
        return cls(*parts)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Platform:
        """The platform of a descriptor's `platform` object or of an image config."""
        return cls(*(str(document.get(key, "")) for key in ("os", "architecture", "variant")))

    def to_json(self) -> dict[str, str]:
        """The `platform` object of a descriptor."""
        pairs = {"architecture": self.architecture, "os": self.os, "variant": self.variant}
        return {key: value for key, value in pairs.items() if value}


@dataclass(frozen=True)
class Descriptor:
    """The name of a run of bytes: its digest, its size in bytes and what it is."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: _NO_ANNOTATIONS)
    artifact_type: str = ""
    platform: Platform | None = None

    def to_json(self) -> dict[str, Any]:
        """The descriptor as a manifest holds it, without the members that are not set."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.platform:
            document["platform"] = self.platform.to_json()
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        return document

    @classmethod
    def from_json(cls, document: object) -> Descriptor:
        """The descriptor in a manifest that came from outside; `ContentError` if it is malformed."""
        try:
            if not isinstance(document, dict):
                raise TypeError("not an object")
            size, annotations = document["size"], document.get("annotations") or {}
            if type(size) is not int or not 0 <= size < 1 << 63:
                raise TypeError(f"size is {size!r}")
            if not all(isinstance(text, str) for pair in annotations.items() for text in pair):
                raise TypeError("annotations are not all strings")
            platform = document.get("platform")
            return cls(
                media_type=str(document["mediaType"]),
                digest=parse_digest(document["digest"]),
                size=size,
                annotations=annotations,
                artifact_type=str(document.get("artifactType") or ""),
                platform=Platform.from_json(platform) if platform else None,
            )
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise ContentError(
                f"a descriptor is malformed ({error})",
                expected="an object with mediaType, digest and size",
                found=str(document)[:200],
            ) from error
