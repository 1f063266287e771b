"""Notifications of the Docker registry, distribution/distribution (`notifications/event.go`)."""

from __future__ import annotations

from collections.abc import Mapping

from registry.descriptor import DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST
from registry.events.change import Change, Delivery
from registry.events.names import artifact, host_of, identity
from registry.events.payload import Fields, read

_MANIFESTS = {MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX}


def distribution(_headers: Mapping[str, str], body: bytes) -> Delivery:
    """Every push of a manifest by tag; blobs, pulls, mounts and deletes are nothing to act on."""
    events = read(body).each("events")
    name = identity(*(event.optional("id") for event in events))
    return Delivery(name, tuple(change for event in events for change in _changes(event)))


def _changes(event: Fields) -> tuple[Change, ...]:
    target = event.fields("target")
    if event.text("action") != "push" or target.optional("mediaType") not in _MANIFESTS:
        return ()
    host = host_of(target.optional("url")) or event.optional("request", "host")
    return artifact(host, target.text("repository"), target.optional("tag"), target.optional("digest"))
