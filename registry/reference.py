"""The names of artifacts: in a registry, and in a folder with the OCI image layout.

Distribution specification 1.1, "Pulling manifests" (the grammar of names and tags).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from registry.descriptor import Digest, parse_digest
from registry.errors import UsageError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
MAX_NAME = 255
"""Characters of a repository, together with its host."""

MAX_TAG = 128
"""Characters of a tag."""

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Reference:
    """`HOST[:PORT]/REPOSITORY` with a tag or a digest."""

    host: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """What selects the manifest in the repository: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        selector = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.host}/{self.repository}{selector}"

    def at(self, digest: Digest) -> Reference:
        """The same repository, pinned to `digest`."""
        return replace(self, tag="", digest=digest)


@dataclass(frozen=True)
class LayoutReference:
    """`oci:FOLDER` with a tag or a digest."""

    folder: Path
    tag: str = ""
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """What selects the manifest in the layout: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"oci:{self.folder}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    def at(self, digest: Digest) -> LayoutReference:
        """The same layout, pinned to `digest`."""
        return replace(self, tag="", digest=digest)


def is_host(text: str) -> bool:
    """Whether `text` can stand before the first slash of a reference."""
    return bool(_HOST.fullmatch(text)) and ("." in text or ":" in text or text == "localhost")


def is_loopback(host: str) -> bool:
    """Whether a host name or address, with or without a port, is this machine's own."""
    name = re.sub(r":[0-9]+$", "", host) if host.count(":") == 1 or host.startswith("[") else host
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def parse_reference(text: str) -> Reference | LayoutReference:
    """The place that `text` names; the tag is `latest` where none is given.

    `oci:FOLDER[:TAG]` is a layout, `HOST[:PORT]/REPO[:TAG|@DIGEST]` a registry; also after `oci://`, and after
    `modelpack://`, which KServe gives to our image. `UsageError` for anything else.
    """
    if text.startswith("oci:") and not text.startswith("oci://"):
        return _parse_layout(text.removeprefix("oci:"))
    return _parse_registry(text.removeprefix("oci://").removeprefix("modelpack://"))


def _parse_layout(text: str) -> LayoutReference:
    folder, _, digest = text.partition("@sha256:")
    if digest:
        return LayoutReference(Path(folder), digest=parse_digest(f"sha256:{digest}"))
    head, colon, tail = text.rpartition(":")
    if not colon or "/" in tail:
        head, tail = text, "latest"
    if not head:
        raise UsageError("this layout has no folder", expected="oci:FOLDER[:TAG]", found=f"oci:{text}")
    return LayoutReference(Path(head), tag=checked_tag(tail))


def _parse_registry(text: str) -> Reference:
    name, _, digest = text.partition("@")
    host, _, path = name.partition("/")
    repository, colon, tag = path.partition(":")
    if "://" in text:
        raise _wrong(text, f"leave out what stands before ://, as in {text.partition('://')[2] or 'HOST/REPO:TAG'}")
    if is_host(host) and not path:
        raise _wrong(text, "name a repository on this host, such as HOST/models/name:v1")
    if not is_host(host):
        raise _wrong(
            text, "the host must come first, such as registry.example.com or 127.0.0.1:5000; no host is assumed"
        )
    if not is_repository(repository) or len(host) + len(repository) > MAX_NAME:
        raise _wrong(text, "the repository must be lower case: letters, digits and single . _ - between them")
    if digest:
        return Reference(host, repository, checked_tag(tag) if colon else "", parse_digest(digest))
    return Reference(host, repository, checked_tag(tag if colon else "latest"))


def is_repository(text: str) -> bool:
    """Whether a text follows the grammar of repositories."""
    return len(text) <= MAX_NAME and bool(_REPOSITORY.fullmatch(text))


def is_tag(text: str) -> bool:
    """Whether a text follows the grammar of tags."""
    return bool(_TAG.fullmatch(text))


def checked_tag(tag: str) -> str:
    """The tag; `UsageError` if it is none."""
    if not is_tag(tag):
        raise UsageError(
            "this is not a tag",
            expected="up to 128 letters, digits, '_', '.' and '-', not starting with . or -",
            found=tag,
        )
    return tag


def _wrong(text: str, hint: str) -> UsageError:
    return UsageError(
        "this is not a reference", expected="HOST[:PORT]/REPO[:TAG|@DIGEST] or oci:FOLDER[:TAG]", found=text, hint=hint
    )
