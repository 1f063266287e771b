"""Referrers: manifests that say of themselves what they are about, such as signatures and scorecards.

Distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema". Where a registry has no such API, an
index under a tag made of the subject's digest lists them, and whoever pushes one keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from registry.descriptor import Descriptor, Digest
from registry.errors import ResponseError
from registry.manifest import Index, Manifest, make_index

MAX_REFERRERS = 1000
"""Referrers of one manifest that are listed, and of one artifact that are taken along."""

_TRIES = 5
"""Times that an index is written and read again until it holds what was added: others write too."""


@dataclass(frozen=True)
class Listed:
    """An index under a tag, and the registry's mark of that version, empty where it gives none."""

    index: Index | None
    etag: str

    @property
    def entries(self) -> tuple[Descriptor, ...]:
        """What the index lists; nothing if there is none."""
        return self.index.manifests if self.index else ()


def fallback_tag(digest: Digest) -> str:
    """The tag of the index that lists the referrers of a digest."""
    algorithm, _, encoded = digest.partition(":")
    return re.sub(r"[^\w.-]", "-", f"{algorithm[:32]}-{encoded[:64]}", flags=re.ASCII)


def entry_of(manifest: Manifest | Index) -> Descriptor:
    """How a referrer is listed: with its type, for want of one that of its config, and all its annotations."""
    kind = manifest.artifact_type or (manifest.config.media_type if isinstance(manifest, Manifest) else "")
    return replace(manifest.descriptor, artifact_type=kind, annotations=manifest.annotations)


def add_to_fallback(
    entry: Descriptor, read: Callable[[], Listed], write: Callable[[Index, Listed], bool], subject: str
) -> None:
    """Have `entry` in the index that `read` gives; `write` puts a new one and is False if another was faster.

    `ResponseError` if others always overwrite it.
    """
    for _ in range(_TRIES):
        listed = read()
        if entry.digest in {other.digest for other in listed.entries}:
            return
        write(make_index([*listed.entries, entry], listed.index.annotations if listed.index else {}), listed)
    if entry.digest not in {other.digest for other in read().entries}:
        raise ResponseError(
            "the list of referrers cannot be kept: others write it at the same time",
            subject=subject,
            expected=entry.digest,
            hint="run it again",
        )
