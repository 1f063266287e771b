"""Notifications of Quay about pushes to a repository (`notifications/notificationevent.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Delivery
from registry.events.names import artifact, place
from registry.events.payload import read


def quay(_headers: Mapping[str, str], body: bytes) -> Delivery:
    """The tags that were pushed: neither a digest nor an identity. Other notifications name no `updated_tags`."""
    event = read(body)
    host, repository = place(event.text("docker_url"))
    tags = event.texts("updated_tags") if event.has("updated_tags") else []
    return Delivery(None, tuple(change for tag in tags for change in artifact(host, repository, tag, "")))
