"""Upload sessions: start, append, ask, cancel, finish."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import quote

from tests.parts.strict.state import DIGEST, Blob, StrictRegistry, Upload, digest_of
from tests.parts.strict.wire import Answer, Ask, RefusalError

PATIENCE = 5.0
"""Seconds that a request waits for the body of another one of the same session, which a lost client may have left."""


def start(registry: StrictRegistry, ask: Ask) -> Answer:
    """POST: a mount where it can be, else a new session, whose body is ignored."""
    mode = registry.mode
    if (digest := ask.query.get("mount")) and (blob := _mountable(registry, ask, digest)):
        registry.repository(ask.repository).blobs[digest] = blob
        return _created(ask.repository, digest)
    upload = Upload(ask.repository)
    registry.uploads[upload.id] = upload
    least = {"OCI-Chunk-Min-Length": str(mode.min_chunk)} if mode.min_chunk else {}
    return Answer(202, {**_progress(registry, upload), **least})


def _mountable(registry: StrictRegistry, ask: Ask, digest: str) -> Blob | None:
    if not registry.mode.mounts:
        return None
    if source := ask.query.get("from"):
        if registry.authorize and registry.authorize(ask.headers, "GET", source):
            return None
        return registry.repositories[source].blobs.get(digest) if source in registry.repositories else None
    if not registry.mode.anonymous_mounts:
        return None
    return next((one.blobs[digest] for one in list(registry.repositories.values()) if digest in one.blobs), None)


def patch(registry: StrictRegistry, ask: Ask) -> Answer:
    """PATCH: a chunk, with Content-Range, or a stream, without."""
    if not registry.mode.patch:
        raise RefusalError(405, "UNSUPPORTED", "upload in one PUT")
    with _writing(registry, ask) as upload:
        _check_type(registry, ask)
        _check_range(registry, upload, ask, registry.mode.max_chunk)
        _append(registry, upload, ask)
        if upload.first is None:
            upload.first = upload.size
        upload.short = "Content-Range" in ask.headers and ask.body.received < registry.mode.min_chunk
        upload.rotate()
        return Answer(registry.mode.patch_status, _progress(registry, upload))


def finish(registry: StrictRegistry, ask: Ask) -> Answer:
    """PUT: the last bytes, if there are any, and the digest of all of them."""
    digest = ask.query.get("digest", "")
    with _writing(registry, ask) as upload:
        if not DIGEST.fullmatch(digest):
            raise RefusalError(400, "DIGEST_INVALID", "the digest is missing or is none", {"digest": digest})
        if ask.body.length != 0:
            _check_type(registry, ask)
        if ask.body.length != 0 or "Content-Range" in ask.headers:
            _check_range(registry, upload, ask)
        _append(registry, upload, ask)
        registry.uploads.pop(upload.id, None)
        sink = registry.mode.sink
        if not sink and digest_of(upload.data, like=digest) != digest:
            raise RefusalError(400, "DIGEST_INVALID", "the content has another digest", {"digest": digest})
        blob = Blob(upload.size, None if sink else bytes(upload.data))
        registry.repository(ask.repository).blobs[digest] = blob
        return _created(ask.repository, digest)


def status(registry: StrictRegistry, ask: Ask) -> Answer:
    """GET at any location of the session: the newest, and how far it is."""
    upload = _find(registry, ask)
    if upload.lock.acquire(timeout=PATIENCE):
        upload.lock.release()
    return Answer(204, _progress(registry, upload))


def cancel(registry: StrictRegistry, ask: Ask) -> Answer:
    """DELETE at any location of the session."""
    registry.uploads.pop(_find(registry, ask).id, None)
    return Answer(204)


def _find(registry: StrictRegistry, ask: Ask, state: str | None = None) -> Upload:
    upload = registry.uploads.get(ask.target)
    if upload is None or upload.repository != ask.repository or (state is not None and state != upload.state):
        raise RefusalError(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    return upload


@contextlib.contextmanager
def _writing(registry: StrictRegistry, ask: Ask) -> Iterator[Upload]:
    """The session, for this request alone; only the newest location gets it."""
    upload = _find(registry, ask)
    if not upload.lock.acquire(timeout=PATIENCE):
        raise RefusalError(409, "BLOB_UPLOAD_INVALID", "another request is uploading")
    try:
        yield _find(registry, ask, None if registry.mode.old_locations else ask.query.get("_state", ""))
    finally:
        upload.lock.release()


def _check_type(registry: StrictRegistry, ask: Ask) -> None:
    if registry.mode.octets and ask.headers.get("Content-Type") != "application/octet-stream":
        raise RefusalError(415, "UNSUPPORTED", "Content-Type is not application/octet-stream")


def _check_range(registry: StrictRegistry, upload: Upload, ask: Ask, most: int | None = None) -> None:
    """Refuse a chunk that does not begin where the last ended, or has another length than it says."""
    said, length, wrong = ask.headers.get("Content-Range"), ask.body.length, ""
    if upload.short:
        wrong = f"only the last chunk may be shorter than {registry.mode.min_chunk}"
    elif said is not None and not (match := re.fullmatch(r"([0-9]+)-([0-9]+)", said)):
        wrong = f"Content-Range is {said}, not START-END"
    elif said is not None and match and int(match[1]) != upload.size:
        wrong = f"the chunk starts at {match[1]}, the upload stands at {upload.size}"
    elif said is not None and match and int(match[2]) - int(match[1]) + 1 != length:
        wrong = f"Content-Range is {said}, Content-Length {length}"
    elif said is not None and most is not None and length is not None and length > most:
        wrong = f"a chunk has at most {most} bytes"
    if wrong:
        raise RefusalError(416, "BLOB_UPLOAD_INVALID", wrong, headers=_progress(registry, upload))


def _append(registry: StrictRegistry, upload: Upload, ask: Ask) -> None:
    """Take the body; what came of a broken one is kept."""
    mode = registry.mode
    cut = registry.cuts.pop(0) if registry.cuts and ask.body.length != 0 else None
    most = mode.max_layer
    if most is not None and upload.size + (ask.body.length or 0) > most:
        _too_long(registry, upload, most)
    for piece in ask.body.pieces(cut):
        if most is not None and upload.size + len(piece) > most:
            _too_long(registry, upload, most)
        upload.size += len(piece)
        if not mode.sink:
            upload.data += piece


def _too_long(registry: StrictRegistry, upload: Upload, most: int) -> None:
    registry.uploads.pop(upload.id, None)
    raise RefusalError(413, "SIZE_INVALID", f"a layer has at most {most} bytes")


def _progress(registry: StrictRegistry, upload: Upload) -> dict[str, str]:
    """The newest location, and the range that is there: 0-0 for one byte, and for none."""
    path = f"/v2/{upload.repository}/blobs/uploads/{upload.id}?_state={quote(upload.state, safe='')}"
    size = upload.first if registry.mode.stale_range and upload.first is not None else upload.size
    base = f"http://{registry.address}" if registry.mode.absolute else ""
    return {"Location": base + path, "Range": f"0-{max(size - 1, 0)}"}


def _created(repository: str, digest: str) -> Answer:
    return Answer(201, {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest})
