"""What a command that only looks is given: a path, a repository of the Hub, or a reference, as a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from containers.look import model_snapshot
from containers.unpack import model_manifest
from formats.snapshot import Snapshot
from packer.hub import HubSource
from packer.hub_choice import included
from packer.sources import parse_source
from registry.access import Access
from registry.errors import UsageError
from registry.reference import LayoutReference, Reference, is_host, parse_reference
from registry.store import open_store


def look(text: str, include: Sequence[str], access: Access) -> Snapshot:
    """The model that `text` names. Of what is far away nothing is fetched but what is read."""
    if reference := artifact(text):
        store = open_store(reference, access)
        snapshot = model_snapshot(model_manifest(store.resolve(reference.name), store), store)
        names = set(included([file.name for file in snapshot.files], include, text))
        return replace(snapshot, files=tuple(file for file in snapshot.files if file.name in names))
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
    try:
        return parse_reference(text)
    except UsageError as error:
        if (is_host(text.partition("/")[0]) and "/" in text) or text.startswith("oci:"):
            raise
        raise UsageError(
            "there is no such file or folder, and this is no reference",
            subject=text,
            hint=f"check the path; a reference is {error.expected}, a model of the Hub needs hf:// before its name",
        ) from error


def is_far(text: str) -> bool:
    """Whether the bytes are not on this machine."""
    return text.startswith("hf://") or isinstance(artifact(text), Reference)
