"""What a source holds at a moment, without its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from formats.snapshot import ModelFile
from registry.descriptor import Digest

DigestOf = Callable[[ModelFile], Digest]
"""Tells a file's digest, remembered or computed."""


@dataclass(frozen=True)
class State:
    """The revision, if the source has some, and the digest of what would be taken of it."""

    revision: str
    digest: Digest
