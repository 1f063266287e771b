"""What a command that only looks is given: a path, a repository of the Hub, or a reference, as a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from containers.look import model_snapshot
from containers.unpack import model_manifest
from formats.snapshot import Snapshot
from packer.hub import HubSource
from packer.sources import parse_source
from registry.errors import UsageError
from registry.names import matches
from registry.reference import LayoutReference, Reference, parse_reference
from registry.store import open_store


def look(text: str, include: Sequence[str] = (), *, plain_http: bool = False) -> Snapshot:
    """The model that `text` names. Of what is far away nothing is fetched but what is read."""
    if reference := artifact(text):
        store = open_store(reference, plain_http=plain_http)
        snapshot = model_snapshot(model_manifest(store.resolve(reference.name), store), store)
        return replace(snapshot, files=tuple(file for file in snapshot.files if matches(file.name, include)))
    source = parse_source(text, include)
    return source.peek() if isinstance(source, HubSource) else source.fetch()


def artifact(text: str) -> Reference | LayoutReference | None:
    """The artifact that `text` names, in a registry or a layout; None if it is a file, a folder or `hf://`."""
    if (Path(text) / "oci-layout").exists():
        return parse_reference(f"oci:{text}")
    if Path(text).exists() or text.startswith("hf://"):
        return None
    if text.startswith(("/", ".", "~")):
        raise UsageError("there is no such file or folder", subject=text, hint="check the path")
    return parse_reference(text)


def is_far(text: str) -> bool:
    """Whether the bytes are not on this machine."""
    return text.startswith("hf://") or isinstance(artifact(text), Reference)
