"""Stores: where blobs, manifests and tags live.

`Source` is what can be read, `Target` what can be written; `Layout` and `Remote` are both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from registry.blob import Blob
from registry.descriptor import Descriptor
from registry.layout import Layout
from registry.manifest import Graph, Index, Manifest
from registry.reference import LayoutReference, Reference


class Source(Protocol):
    """A place to read from."""

    def resolve(self, name: str) -> Manifest | Index:
        """The manifest or index that a tag or digest names, its bytes checked; `NotFoundError` if none does."""

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor; nothing is fetched before `open()`, whose bytes are checked as they come."""

    def ranged(self, descriptor: Descriptor) -> Blob:
        """The same, with streams that seek and fetch what is read of them, which no digest can check."""


class Target(Protocol):
    """A place to write to. Each call is safe to repeat and says whether it had to send anything."""

    def push(self, blob: Blob) -> bool:
        """Make the blob present; False if it was."""

    def put(self, manifest: Manifest | Index) -> bool:
        """Make the manifest present under its digest; its children must be; False if it was."""

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """Point `tag` at a manifest that is present; False if it did already."""


@runtime_checkable
class Store(Source, Target, Protocol):
    """Both."""


@dataclass(frozen=True)
class Release:
    """What was published: references pinned by digest, and what it took.

    `modelpack` is absent where the build published none; `changed` is false if nothing was sent and no tag moved.
    Sizes are in bytes.
    """

    image: str
    modelpack: str | None
    tags: tuple[str, ...]
    blobs_sent: int
    bytes_sent: int
    blobs_present: int
    bytes_present: int
    changed: bool


def open_store(reference: Reference | LayoutReference, *, plain_http: bool = False) -> Store:
    """The store that a reference points into. Loopback hosts are always spoken to over plain HTTP."""
    if isinstance(reference, LayoutReference):
        return Layout(reference.folder)
    from registry.remote import Remote

    return Remote(reference.host, reference.repository, plain_http=plain_http or reference.is_loopback)


def push_graph(graph: Graph, target: Target) -> Iterator[bool]:
    """Send the manifests of a graph whose blobs are present: children first, the root last.

    Yields for each whether it had to be sent. No tag is touched.
    """
    for child in graph.children:
        yield from push_graph(child, target)
    yield target.put(graph.root)
