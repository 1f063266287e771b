"""Lists in pages: tags, and referrers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from tests.parts.strict.manifests import INDEX
from tests.parts.strict.state import DIGEST, Stored, StrictRegistry
from tests.parts.strict.wire import Answer, Ask, RefusalError, json_answer


def tags(registry: StrictRegistry, ask: Ask) -> Answer:
    """GET of the tags, in the order of their characters."""
    repository = registry.repositories.get(ask.repository)
    if repository is None:
        raise RefusalError(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": ask.repository})
    page, headers = _page(registry, ask, sorted(repository.tags))
    return json_answer(200, {"name": ask.repository, "tags": page}, headers)


def referrers(registry: StrictRegistry, ask: Ask) -> Answer:
    """GET of what has this subject, which need not be there: an index, empty where nothing has."""
    if registry.mode.referrers == "none":
        return Answer(404, {"Content-Type": "text/plain"}, b"404 page not found\n")
    if registry.mode.referrers == "page":
        return Answer(303, {"Location": f"http://{registry.storage_address}/-{ask.path}"})
    if not DIGEST.fullmatch(ask.target):
        raise RefusalError(400, "DIGEST_INVALID", "this is no digest", {"digest": ask.target})
    found = _referrers(registry, ask)
    page, headers = _page(registry, ask, sorted(found))
    if registry.mode.filters and "artifactType" in ask.query:
        headers["OCI-Filters-Applied"] = "artifactType"
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [found[digest] for digest in page]}
    return json_answer(200, index, {**headers, "Content-Type": INDEX})


def _referrers(registry: StrictRegistry, ask: Ask) -> dict[str, dict[str, Any]]:
    with registry.lock:
        known = registry.repositories.get(ask.repository)
        stored = dict(known.manifests) if known else {}
    found = {
        digest: _descriptor(digest, one)
        for digest, one in stored.items()
        if one.document.get("subject", {}).get("digest") == ask.target
    }
    wanted = ask.query.get("artifactType")
    if wanted is None or not registry.mode.filters:
        return found
    return {digest: one for digest, one in found.items() if one.get("artifactType") == wanted}


def _descriptor(digest: str, stored: Stored) -> dict[str, Any]:
    document = stored.document
    kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
    more = {"artifactType": kind, "annotations": document.get("annotations")}
    descriptor = {"mediaType": stored.type, "digest": digest, "size": len(stored.data)}
    return {**descriptor, **{key: value for key, value in more.items() if value}}


def _page(registry: StrictRegistry, ask: Ask, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The names after `last`, at most `n` and at most as many as a page has, and the link to the next ones."""
    asked = ask.query.get("n")
    if asked is not None and not asked.isdecimal():
        raise RefusalError(400, "UNSUPPORTED", "n is no number", {"n": asked})
    sizes = [size for size in (None if asked is None else int(asked), registry.mode.page) if size is not None]
    left = [name for name in names if name > ask.query.get("last", "")]
    page = left[: min(sizes)] if sizes else left
    if not page or len(page) == len(left):
        return page, {}
    query = urlencode({**ask.query, "last": page[-1]})
    return page, {"Link": f'<{ask.path}?{query}>; rel="next"'}
