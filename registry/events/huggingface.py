"""Webhooks of the Hugging Face Hub, version 3, about commits in models and datasets."""

from __future__ import annotations

from collections.abc import Mapping

from registry.events.change import Delivery
from registry.events.names import hub
from registry.events.payload import read

_CONTENT = "repo.content"


def huggingface(_headers: Mapping[str, str], body: bytes) -> Delivery:
    """Every branch, tag and pull request with a new commit; deleted ones have none. There is no identity."""
    event = read(body)
    scope, kind = event.text("event", "scope"), event.text("repo", "type")
    if kind not in ("model", "dataset") or (scope != _CONTENT and not scope.startswith(_CONTENT + ".")):
        return Delivery(None, ())
    name = event.text("repo", "name")
    refs = [ref for ref in event.each("updatedRefs") if ref.optional("newSha")]
    return Delivery(None, tuple(hub(kind, name, ref.text("ref"), ref.text("newSha")) for ref in refs))
