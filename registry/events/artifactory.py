"""Webhooks of Artifactory: the event `pushed` of the domain `docker`."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Delivery
from registry.events.names import artifact, host_of
from registry.events.payload import read


def artifactory(_headers: Mapping[str, str], body: bytes) -> Delivery:
    """The tag that was pushed, under the path `HOST/KEY OF THE REPOSITORY/IMAGE`. There is no identity."""
    event = read(body)
    if event.optional("domain") not in ("", "docker") or event.text("event_type") != "pushed":
        return Delivery(None, ())
    data = event.fields("data") if event.has("data") else event
    repository = f"{data.text('repo_key')}/{data.text('image_name')}"
    digest = f"sha256:{data.optional('sha256')}"
    return Delivery(None, artifact(host_of(event.optional("jpd_origin")), repository, data.text("tag"), digest))
