"""A strict OCI registry in this process: distribution-spec 1.1.1 to the letter, and the habits of three hosted ones.

It is a double, because the real registries that can run in a test are lenient: they take chunks without a range, old
upload locations and manifests under another type, so a client that is wrong passes. And those that are strict in ways
of their own (GHCR, ECR, GAR) cannot be had. It also counts: which requests came, with how many bytes each.
"""

from __future__ import annotations

from tests.parts.strict.mode import ECR, GAR, GHCR, STRICT, Mode
from tests.parts.strict.server import strict_registry
from tests.parts.strict.state import Request, StrictRegistry

__all__ = ["ECR", "GAR", "GHCR", "STRICT", "Mode", "Request", "StrictRegistry", "strict_registry"]
