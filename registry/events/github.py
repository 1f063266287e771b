"""Webhooks of GitHub about its container registry: the events `registry_package` and `package`."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Change, Delivery
from registry.events.names import artifact, identity, place
from registry.events.payload import Fields, read, refuse

_PACKAGES = {"registry_package", "package"}
_ACTIONS = {"published", "updated"}


def github(headers: Mapping[str, str], body: bytes) -> Delivery:
    """A tag of a container that was pushed; a ping and all other events are nothing to act on."""
    kind = headers.get("content-type", "application/json")
    if not kind.lower().startswith("application/json"):
        refuse("Content-Type", "application/json (a setting of the webhook)", kind)
    event = headers.get("x-github-event") or refuse("X-GitHub-Event", "the name of an event", None)
    document = read(body)
    name = identity(headers.get("x-github-delivery", ""))
    if event not in _PACKAGES or document.text("action") not in _ACTIONS:
        return Delivery(name, ())
    return Delivery(name, _changes(document.fields(event)))


def _changes(package: Fields) -> tuple[Change, ...]:
    if not package.has("package_version", "container_metadata"):
        return ()
    version = package.fields("package_version")
    host, repository = place(version.optional("package_url"))
    if not host:
        host, repository = "ghcr.io", f"{package.text('namespace')}/{package.text('name')}"
    digest = version.optional("container_metadata", "tag", "digest")
    tag = version.optional("container_metadata", "tag", "name")
    return artifact(host, repository.lower(), tag, digest)
