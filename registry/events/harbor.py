"""Webhooks of Harbor in both of its formats (`src/pkg/notifier/formats`)."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Change, Delivery
from registry.events.names import artifact, identity, place
from registry.events.payload import Fields, read

_PUSHED = {"PUSH_ARTIFACT", "harbor.artifact.pushed"}


def harbor(_headers: Mapping[str, str], body: bytes) -> Delivery:
    """A push of an artifact by tag. The default format has no identity."""
    event = read(body)
    cloud = event.has("specversion")
    name = identity(event.text("source"), event.text("id")) if cloud else None
    if event.text("type") not in _PUSHED:
        return Delivery(name, ())
    return Delivery(name, _changes(event.fields("data" if cloud else "event_data")))


def _changes(data: Fields) -> tuple[Change, ...]:
    repository = data.text("repository", "repo_full_name")
    return tuple(
        change
        for resource in data.each("resources")
        for change in artifact(
            place(resource.optional("resource_url"))[0],
            repository,
            resource.optional("tag"),
            resource.optional("digest"),
        )
    )
