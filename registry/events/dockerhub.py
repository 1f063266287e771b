"""Webhooks of Docker Hub, which tell of pushes alone."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Delivery
from registry.events.names import artifact
from registry.events.payload import read


def dockerhub(_headers: Mapping[str, str], body: bytes) -> Delivery:
    """The tag that was pushed: neither a digest nor an identity."""
    event = read(body)
    name = event.text("repository", "repo_name")
    repository = name if "/" in name else f"library/{name}"
    return Delivery(None, artifact("docker.io", repository, event.text("push_data", "tag"), ""))
