"""Manifests: put, read, delete."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.parts.strict.state import DIGEST, Repository, Stored, StrictRegistry, digest_of
from tests.parts.strict.wire import Answer, Ask, RefusalError

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
_IMAGES = (IMAGE, "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def put(registry: StrictRegistry, ask: Ask) -> Answer:
    """PUT under a tag or its digest, with every child there; the subject need not be."""
    data = _body(registry, ask)
    document = _document(data, ask.headers.get("Content-Type", ""))
    digest = digest_of(data)
    if ":" in ask.target:
        _check_digest(ask.target)
        digest = digest_of(data, like=ask.target)
        if digest != ask.target:
            raise RefusalError(400, "DIGEST_INVALID", f"the content has the digest {digest}", {"digest": ask.target})
    elif not _TAG.fullmatch(ask.target):
        raise RefusalError(400, "MANIFEST_INVALID", "this is no tag", {"tag": ask.target})
    with registry.lock:
        repository = registry.repositories.get(ask.repository, Repository())
        _check_condition(registry, repository, ask)
        _check_children(repository, document)
        repository = registry.repository(ask.repository)
        repository.manifests[digest] = Stored(ask.headers["Content-Type"], data)
        if digest != ask.target:
            repository.tags[ask.target] = digest
    headers = {"Location": f"/v2/{ask.repository}/manifests/{digest}", **_names(registry, digest)}
    if "subject" in document and registry.mode.referrers == "api":
        headers["OCI-Subject"] = document["subject"]["digest"]
    return Answer(201, headers)


def read(registry: StrictRegistry, ask: Ask) -> Answer:
    """HEAD and GET, in a type that the client accepts; one that says nothing accepts all."""
    digest, stored = _find(registry, ask)
    accepted = [part.partition(";")[0].strip() for part in ask.headers.get("Accept", "*/*").split(",")]
    if not {stored.type, "*/*", "application/*"} & set(accepted):
        raise RefusalError(404, "MANIFEST_UNKNOWN", f"it is {stored.type}, which was not accepted")
    return Answer(200, {"Content-Type": stored.type, **_names(registry, digest)}, stored.data)


def delete(registry: StrictRegistry, ask: Ask) -> Answer:
    """DELETE of a tag, or of a manifest with its tags."""
    if not registry.mode.deletes:
        raise RefusalError(405, "UNSUPPORTED", "nothing is deleted here")
    with registry.lock:
        digest, _ = _find(registry, ask)
        repository = registry.repository(ask.repository)
        _check_condition(registry, repository, ask)
        if ask.target in repository.tags:
            del repository.tags[ask.target]
        else:
            del repository.manifests[digest]
            repository.tags = {tag: other for tag, other in repository.tags.items() if other != digest}
    return Answer(202)


def _find(registry: StrictRegistry, ask: Ask) -> tuple[str, Stored]:
    if ":" in ask.target:
        _check_digest(ask.target)
    repository = registry.repositories.get(ask.repository)
    if repository is None:
        raise RefusalError(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": ask.repository})
    digest = repository.tags.get(ask.target, ask.target)
    if digest not in repository.manifests:
        raise RefusalError(404, "MANIFEST_UNKNOWN", "manifest unknown to registry", {"reference": ask.target})
    return digest, repository.manifests[digest]


def _names(registry: StrictRegistry, digest: str) -> dict[str, str]:
    return {"Docker-Content-Digest": digest, **({"ETag": f'"{digest}"'} if registry.mode.etag else {})}


def _body(registry: StrictRegistry, ask: Ask) -> bytes:
    data = bytearray()
    for piece in ask.body.pieces():
        data += piece
        if len(data) > registry.mode.max_manifest:
            raise RefusalError(413, "MANIFEST_INVALID", f"a manifest has at most {registry.mode.max_manifest} bytes")
    return bytes(data)


def _document(data: bytes, said: str) -> dict[str, Any]:
    """What a manifest says, if it is one, and of the type that the request says."""
    try:
        document = json.loads(data)
        _check_form(document, said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusalError(400, "MANIFEST_INVALID", f"the manifest is wrong: {error!r}") from error
    return dict(document)


def _check_form(document: dict[str, Any], said: str) -> None:
    if said not in (*_IMAGES, *_INDEXES):
        raise ValueError(f"Content-Type is {said!r}")
    if document.get("mediaType", said) != said:
        raise ValueError(f"mediaType is {document['mediaType']}, Content-Type {said}")
    if document["schemaVersion"] != 2:
        raise ValueError("schemaVersion is not 2")
    if said in _IMAGES and document["config"]["mediaType"] == EMPTY and not document.get("artifactType"):
        raise ValueError("the config is empty and there is no artifactType")
    children = [document["config"], *document["layers"]] if said in _IMAGES else document["manifests"]
    for descriptor in [*children, *([document["subject"]] if "subject" in document else [])]:
        if not DIGEST.fullmatch(descriptor["digest"]) or "/" not in descriptor["mediaType"] or descriptor["size"] < 0:
            raise ValueError(f"{descriptor} is no descriptor")


def _check_digest(digest: str) -> None:
    if not DIGEST.fullmatch(digest):
        raise RefusalError(400, "DIGEST_INVALID", "this is no digest", {"digest": digest})


def _check_children(repository: Repository, document: dict[str, Any]) -> None:
    missing = list(repository.missing(document))
    if missing:
        details = [{"digest": descriptor["digest"]} for descriptor in missing]
        raise RefusalError(404, "MANIFEST_BLOB_UNKNOWN", "not here, or not in that size", *details)


def _check_condition(registry: StrictRegistry, repository: Repository, ask: Ask) -> None:
    """If-Match and If-None-Match (RFC 9110, 13.1) about what the reference names now."""
    if not registry.mode.etag:
        return
    digest = repository.tags.get(ask.target, ask.target)
    now = {"*", f'"{digest}"'} if digest in repository.manifests else set()
    wanted, unwanted = (_tags(ask.headers.get(name)) for name in ("If-Match", "If-None-Match"))
    if (wanted is not None and not wanted & now) or (unwanted is not None and unwanted & now):
        raise RefusalError(412, "DENIED", "the reference points at something else", {"now": sorted(now)})


def _tags(said: str | None) -> set[str] | None:
    return None if said is None else {part.strip() for part in said.split(",")}
