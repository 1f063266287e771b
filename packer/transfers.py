"""The commands that move artifacts and speak to registries, as values; the command line prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packer.stages import MODELPACK_SUFFIX
from packer.watch import Run
from registry.access import Access
from registry.errors import ContentError, NotFoundError, ResponseError, UsageError
from registry.layout import Layout
from registry.manifest import Graph
from registry.reference import LayoutReference, Reference, checked_tag, is_host, parse_reference
from registry.store import Store, Traffic, is_plain, open_store
from registry.transfer import Cargo, deliver, graph_at, tagged_about, with_referrers


@dataclass(frozen=True, kw_only=True)
class Copied(Traffic):
    """An artifact that is in another store now, pinned by digest, and what that took."""

    reference: str
    tags: tuple[str, ...]
    changed: bool


def copy(source: str, targets: Sequence[str], access: Access, run: Run) -> list[Copied]:
    """Have the artifact that `source` names at each target, its ModelPack sibling, referrers and signatures with it.

    The source is resolved once, so all targets get the same; no tag moves before everything below it is there.
    """
    origin = parse_reference(source)
    store = open_store(origin, access)
    main = graph_at(store, store.resolve(origin.name))
    sibling = _sibling(origin, store)
    graphs = [main, *([sibling] if sibling else [])]
    about = tagged_about(store, graphs)
    cargo = with_referrers(store, [*graphs, *about.values()])
    places = [_place(target, main, has_sibling=bool(sibling)) for target in targets]
    stores = [_reached(to, access) for to in places]
    return [
        run("copy", _copy, cargo, target, to, about | _tagged(to, main, sibling), access.concurrency)
        for to, target in zip(places, stores, strict=True)
    ]


def _reached(to: Reference | LayoutReference, access: Access) -> Store:
    """The store of a destination, which has answered: a name that is wrong is known before many threads stumble."""
    store = open_store(to, access)
    with suppress(NotFoundError, ContentError, ResponseError):
        store.resolve(to.name)
    return store


def _sibling(origin: Reference | LayoutReference, store: Store) -> Graph | None:
    """The ModelPack manifest that `build` published beside an image, if there is one."""
    if origin.digest or origin.tag.endswith(MODELPACK_SUFFIX):
        return None
    try:
        return graph_at(store, store.resolve(origin.tag + MODELPACK_SUFFIX))
    except (NotFoundError, ResponseError) as error:
        if error.retry_after is not None:
            raise
        return None


def _place(target: str, main: Graph, *, has_sibling: bool) -> Reference | LayoutReference:
    to, digest = parse_reference(target), main.root.descriptor.digest
    if to.digest and to.digest != digest:
        raise UsageError("the copy would have another digest", subject=target, expected=to.digest, found=digest)
    if has_sibling and to.tag:
        checked_tag(to.tag + MODELPACK_SUFFIX)
    return to


def _tagged(to: Reference | LayoutReference, main: Graph, sibling: Graph | None) -> dict[str, Graph]:
    """Which tag is to point where; a target that is named by its digest gets none."""
    if not to.tag:
        return {}
    return {to.tag: main, **({to.tag + MODELPACK_SUFFIX: sibling} if sibling else {})}


def _copy(
    cargo: Cargo, target: Store, to: Reference | LayoutReference, tagged: Mapping[str, Graph], workers: int
) -> Copied:
    """The stage: a cargo and its tags in a store."""
    traffic, is_new = deliver(cargo, target, workers)
    moved_tags = [target.tag(graph.root, tag) for tag, graph in tagged.items()]
    return Copied(
        **vars(traffic),
        reference=str(to.at(cargo.graphs[0].root.descriptor.digest)),
        tags=tuple(tagged),
        changed=traffic.moved or is_new or any(moved_tags),
    )


def layout_source(text: str) -> str:
    """What `push` takes: a layout as `build --to oci:FOLDER` writes it, with or without `oci:` before it.

    Of a layout with one artifact no tag need be said.
    """
    place = text.removeprefix("oci:")
    if not (Path(place) / "oci-layout").exists():
        folder = place.partition("@")[0] if "@" in place else place.rpartition(":")[0]
        if folder and (Path(folder) / "oci-layout").exists():
            return f"oci:{place}"
        raise UsageError(
            "this is no OCI layout",
            subject=text,
            expected="oci:FOLDER[:TAG], as packer build MODEL --to oci:FOLDER writes it",
            hint=f"a model is published by: packer build {text} --to REF; another registry's artifact by: packer copy",
        )
    tags = [tag for tag in Layout(Path(place)).tags() if not tag.endswith(MODELPACK_SUFFIX)]
    return f"oci:{place}:{tags[0]}" if len(tags) == 1 else f"oci:{place}"


def retag(reference: str, tag: str, access: Access) -> dict[str, Any]:
    """Point another tag of the same repository at what a reference names, and its ModelPack sibling with it."""
    place = parse_reference(reference)
    to = replace(place, tag=checked_tag(tag), digest=None)
    store = open_store(place, access)
    root, sibling = store.resolve(place.name), _sibling(place, store)
    changed = store.tag(root, to.tag)
    if sibling:
        changed |= store.tag(sibling.root, checked_tag(to.tag + MODELPACK_SUFFIX))
    return {"reference": str(to), "digest": root.descriptor.digest, "changed": changed}


def tags(repository: str, access: Access) -> list[str]:
    """The tags of a repository or a layout."""
    return open_store(parse_reference(repository), access).tags()


def login(host: str, username: str, password: str, access: Access) -> str:
    """Prove a login at a registry, and keep it where docker would; returns where that is."""
    from registry.credentials import Login
    from registry.remote import Remote

    if not is_host(host):
        raise UsageError("this is no host", expected="HOST[:PORT], such as registry.example.com", found=host)
    entry = Login(username, password)
    Remote(host, "", access, plain_http=is_plain(host, access)).check(entry)
    return access.credentials.save(host, entry)
