"""Stores: where blobs, manifests and tags live.

`Source` is what can be read, `Target` what can be written; `Layout` and `Remote` are both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, runtime_checkable

from registry.access import Access
from registry.blob import Blob
from registry.descriptor import Descriptor, Digest
from registry.layout import Layout
from registry.manifest import Graph, Index, Manifest
from registry.outcome import Outcome
from registry.reference import LayoutReference, Reference, is_loopback


class Source(Protocol):
    """A place to read from."""

    def resolve(self, name: str) -> Manifest | Index:
        """The manifest or index that a tag or digest names, its bytes checked; `NotFoundError` if none does."""

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor; nothing is fetched before `open()`, whose bytes are checked as they come."""

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """The manifests whose subject is `digest`, with their types and annotations."""

    def tags(self) -> list[str]:
        """The tags."""

    def ranged(self, descriptor: Descriptor) -> Blob:
        """The same, with streams that seek and fetch what is read of them, which no digest can check."""

    def span(self, descriptor: Descriptor, start: int, end: int) -> BinaryIO:
        """A stream over the bytes from `start` up to `end`, or further, which no digest has checked."""

    def takes_ranges(self, descriptor: Descriptor) -> bool:
        """Whether parts of a blob can be had by themselves."""


class Target(Protocol):
    """A place to write to. Each call is safe to repeat and says whether it had to send anything."""

    @property
    def max_layer(self) -> int | None:
        """The bytes that a blob may have, where that is known."""

    def reserve(self, blobs: Iterable[Descriptor]) -> None:
        """Look whether there is room for what is not there; `SpaceError` if not. A registry does not say."""

    def push(self, blob: Blob) -> Outcome:
        """Make the blob present."""

    def foresee(self, digest: Digest) -> Outcome:
        """What `push` would do about a blob, as far as one can know."""

    def put(self, manifest: Manifest | Index) -> bool:
        """Make the manifest present under its digest; its children must be; False if it was."""

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """Point `tag` at a manifest that is present; False if it did already."""


@runtime_checkable
class Store(Source, Target, Protocol):
    """Both."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What it took to have blobs in a store; sizes are in bytes."""

    blobs_sent: int = 0
    bytes_sent: int = 0
    blobs_mounted: int = 0
    bytes_mounted: int = 0
    blobs_present: int = 0
    bytes_present: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[tuple[int, Outcome]]) -> Traffic:
        """The sum over blobs of a size and an outcome."""
        sizes: dict[Outcome, list[int]] = {outcome: [] for outcome in Outcome}
        for size, outcome in outcomes:
            sizes[outcome].append(size)
        sent, mounted, present = (sizes[kind] for kind in (Outcome.SENT, Outcome.MOUNTED, Outcome.PRESENT))
        return cls(
            blobs_sent=len(sent),
            bytes_sent=sum(sent),
            blobs_mounted=len(mounted),
            bytes_mounted=sum(mounted),
            blobs_present=len(present),
            bytes_present=sum(present),
        )

    @property
    def moved(self) -> bool:
        """Whether any blob was not there."""
        return bool(self.blobs_sent or self.blobs_mounted)


@dataclass(frozen=True, kw_only=True)
class Release(Traffic):
    """What was published: references pinned by digest, and what it took.

    `modelpack` is absent where the build published none, `scorecard`, the referrer with the evidence about the image
    index, where nothing was measured; `changed` is false if nothing was sent and no tag moved.
    """

    image: str
    modelpack: str | None
    tags: tuple[str, ...]
    changed: bool
    scorecard: str | None = None


def open_store(reference: Reference | LayoutReference, access: Access) -> Store:
    """The store that a reference points into."""
    if isinstance(reference, LayoutReference):
        return Layout(reference.folder)
    from registry.remote import Remote

    return Remote(reference.host, reference.repository, access, plain_http=is_plain(reference.host, access))


def is_plain(host: str, access: Access) -> bool:
    """Whether a registry is spoken to without TLS."""
    return access.plain_http or (is_loopback(host) and not access.wire.tls.is_wanted)


def push_graph(graph: Graph, target: Target) -> Iterator[bool]:
    """Send the manifests of a graph whose blobs are present: children first, the root last.

    Yields for each whether it had to be sent. No tag is touched.
    """
    for child in graph.children:
        yield from push_graph(child, target)
    yield target.put(graph.root)
