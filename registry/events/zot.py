"""Events of zot: CloudEvents 1.0 over HTTP, in the headers (binary) or in the body (structured)."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Delivery
from registry.events.names import artifact, identity
from registry.events.payload import Fields, read


def zot(headers: Mapping[str, str], body: bytes) -> Delivery:
    """A manifest that was pushed by tag. zot does not tell its own host."""
    event = read(body)
    if headers.get("content-type", "").lower().startswith("application/cloudevents+json"):
        return _delivery(event, event)
    attributes = {name: headers.get(f"ce-{name}") for name in ("type", "source", "id")}
    return _delivery(Fields("the headers ce-*", attributes), Fields("", {"data": event.values}))


def _delivery(attributes: Fields, event: Fields) -> Delivery:
    name = identity(attributes.text("source"), attributes.text("id"))
    if attributes.text("type") != "zotregistry.image.updated":
        return Delivery(name, ())
    data = event.fields("data")
    return Delivery(name, artifact("", data.text("name"), data.optional("reference"), data.optional("digest")))
