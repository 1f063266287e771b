"""Who may tell of events: whoever knows the secret, shown in a header or as a signature of the body.

Secrets are bytes. They are in no text of these values, and compared in a time that does not tell them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from registry.errors import UsageError


class Trust(Protocol):
    """Decides whether a request is from whom it should be."""

    def judge(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether a request is genuine; the names of `headers` are in lower case, `body` is as it was received."""


@dataclass(frozen=True)
class Signature:
    """HMAC-SHA256 over the body, in hexadecimal digits after a prefix."""

    header: str
    secret: bytes = field(repr=False)
    prefix: str = "sha256="

    def __post_init__(self) -> None:
        _check(self.header, self.secret)

    def judge(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether the header is the signature of this body."""
        expected = self.prefix + hmac.new(self.secret, body, hashlib.sha256).hexdigest()
        return _equal(_value(headers, self.header), expected.encode())


@dataclass(frozen=True)
class Shared:
    """The secret itself is the whole value of a header, such as `Bearer TOKEN`."""

    header: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check(self.header, self.secret)
        if not all(32 <= byte < 127 for byte in self.secret) or self.secret != self.secret.strip():
            raise UsageError(
                "this secret cannot be sent in a header",
                subject=self.header,
                expected="printable ASCII, with no space or line end before or after it",
            )

    def judge(self, headers: Mapping[str, str], body: bytes) -> bool:  # noqa: ARG002 - the body does not count
        """Whether the header is the secret."""
        return _equal(_value(headers, self.header), self.secret)


@dataclass(frozen=True)
class Proof:
    """How a sender shows that it knows the secret, and in which header."""

    way: type[Signature | Shared]
    header: str

    def trust(self, secret: bytes, header: str | None = None) -> Trust:
        """The same with a secret, and perhaps in another header; `UsageError` for a secret that is empty."""
        return self.way(header or self.header, secret)


DEFAULTS: Mapping[str, Proof | None] = {
    "distribution": Proof(Shared, "Authorization"),
    "harbor": Proof(Shared, "Authorization"),
    "quay": None,
    "github": Proof(Signature, "X-Hub-Signature-256"),
    "dockerhub": None,
    "zot": Proof(Shared, "Authorization"),
    "artifactory": Proof(Shared, "Authorization"),
    "huggingface": Proof(Shared, "X-Webhook-Secret"),
    "plain": Proof(Signature, "X-Packer-Signature-256"),
}
"""For each kind of sender; None for those that can prove nothing, and need a path that nobody can guess."""


def _check(header: str, secret: bytes) -> None:
    if not header:
        raise UsageError("a secret needs the name of its header")
    if not secret:
        raise UsageError("this secret is empty", subject=header, hint="set it, or choose another way to trust")


def _value(headers: Mapping[str, str], name: str) -> bytes:
    return headers.get(name.lower(), "").encode("utf-8", "surrogatepass")


def _equal(found: bytes, expected: bytes) -> bool:
    return hmac.compare_digest(hashlib.sha256(found).digest(), hashlib.sha256(expected).digest())
