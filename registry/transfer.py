"""Whole artifacts from store to store: blobs side by side, then manifests from the leaves to the root, then tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Event

from registry.blob import Blob
from registry.descriptor import Digest
from registry.errors import ContentError, NotFoundError, ResponseError
from registry.manifest import Graph, Index, Manifest, unique_blobs
from registry.outcome import Outcome
from registry.parallel import Stoppable, run_each
from registry.referrers import MAX_REFERRERS, fallback_tag
from registry.store import Source, Store, Target, Traffic, push_graph

MAX_DEPTH = 4
"""Indexes within indexes."""

MAX_MANIFESTS = 1000
"""Manifests below one index."""


@dataclass(frozen=True)
class Cargo:
    """Graphs that go to another store, with their referrers."""

    graphs: tuple[Graph, ...]

    def map(self, change: Callable[[Blob], Blob]) -> Cargo:
        """The same graphs over changed blobs."""
        return Cargo(tuple(_mapped(graph, change) for graph in self.graphs))

    @cached_property
    def blobs(self) -> tuple[Blob, ...]:
        """Every blob, each digest once."""
        return tuple(unique_blobs(self.graphs))

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.descriptor.size for blob in self.blobs)


def _mapped(graph: Graph, change: Callable[[Blob], Blob]) -> Graph:
    children = tuple(_mapped(child, change) for child in graph.children)
    return Graph(graph.root, tuple(map(change, graph.blobs)), children)


def push_blobs(blobs: Iterable[Blob], target: Target, workers: int) -> Traffic:
    """Make blobs present, `workers` at a time. The first failure, or an interruption, stops all that are under way."""
    every = list(blobs)
    target.reserve(blob.descriptor for blob in every)

    def push(blob: Blob, stop: Event) -> tuple[int, Outcome]:
        return blob.descriptor.size, target.push(Stoppable(blob, stop))

    return Traffic.of(run_each(push, every, workers))


def graph_at(source: Source, root: Manifest | Index) -> Graph:
    """A manifest or index with everything below it, still lazy.

    `ContentError` for indexes too deep in each other, or with more than `MAX_MANIFESTS` below them.
    """
    return _graph(source, root, 0, {})


def _graph(source: Source, root: Manifest | Index, depth: int, known: dict[Digest, Graph]) -> Graph:
    """The same at some depth; `known` are those that were met before: an index may name one manifest many times."""
    if isinstance(root, Manifest):
        return Graph(root, tuple(source.blob(descriptor) for descriptor in (root.config, *root.layers)))
    if depth >= MAX_DEPTH:
        raise ContentError("indexes lie too deep in each other", subject=root.descriptor.digest)
    for child in root.manifests:
        if child.digest not in known:
            known[child.digest] = _graph(source, source.resolve(child.digest), depth + 1, known)
        if len(known) > MAX_MANIFESTS:
            raise ContentError(
                "this has too many manifests", subject=root.descriptor.digest, expected=f"at most {MAX_MANIFESTS}"
            )
    return Graph(root, children=tuple({child.digest: known[child.digest] for child in root.manifests}.values()))


def with_referrers(source: Store, graphs: Sequence[Graph]) -> Cargo:
    """The graphs with all their referrers, and theirs, each before those that are about it."""
    return Cargo((*graphs, *(referrer for graph in graphs for referrer in referrers_of(source, graph))))


def deliver(cargo: Cargo, target: Target, workers: int) -> tuple[Traffic, bool]:
    """Have a cargo in a store; no tag moves. Also tells whether any manifest was not there."""
    traffic = push_blobs(cargo.blobs, target, workers)
    put = [put for graph in cargo.graphs for put in push_graph(graph, target)]
    return traffic, any(put)


def referrers_of(source: Store, graph: Graph) -> Iterator[Graph]:
    """The referrers of every manifest of a graph, and theirs, each before those that are about it."""
    seen = set[Digest]()
    waiting = list(_manifests(graph))
    while waiting:
        subject = waiting.pop(0)
        for entry in source.referrers(subject):
            if entry.digest in seen:
                continue
            seen.add(entry.digest)
            if len(seen) > MAX_REFERRERS:
                raise ContentError("this has too many referrers", subject=subject, expected=f"at most {MAX_REFERRERS}")
            referrer = graph_at(source, source.resolve(entry.digest))
            yield referrer
            waiting += _manifests(referrer)


def tagged_about(source: Store, graphs: Sequence[Graph]) -> dict[str, Graph]:
    """What cosign keeps about the manifests of some graphs under tags made of their digests: signatures and the like.

    Empty where a registry does not list its tags, or lists too many. https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
    """
    try:
        tags = source.tags()
    except (NotFoundError, ResponseError, ContentError) as error:
        if error.retry_after is not None:
            raise
        return {}
    digests = {digest for graph in graphs for digest in _manifests(graph)}
    wanted = {f"{fallback_tag(digest)}{suffix}" for digest in digests for suffix in _ABOUT}
    return {tag: graph_at(source, source.resolve(tag)) for tag in tags if tag in wanted}


_ABOUT = (".sig", ".att", ".sbom")


def _manifests(graph: Graph) -> Iterator[Digest]:
    for child in graph.children:
        yield from _manifests(child)
    yield graph.root.descriptor.digest
