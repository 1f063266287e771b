"""Reading and deleting blobs."""

from __future__ import annotations

import re

from tests.parts.strict.state import DIGEST, Blob, StrictRegistry
from tests.parts.strict.wire import Answer, Ask, RefusalError

_OCTETS = "application/octet-stream"


def read(registry: StrictRegistry, ask: Ask) -> Answer:
    """HEAD and GET of a blob, whole or a range of it, or the way to the object storage."""
    blob = _find(registry, ask)
    headers = {"Docker-Content-Digest": ask.target}
    if ask.method == "HEAD":
        # the body is not sent, its length is
        return Answer(200, {**headers, "Content-Type": _OCTETS, "Content-Length": str(blob.size)})
    if registry.mode.redirects:
        location = f"http://{registry.storage_address}/{ask.repository}/blobs/{ask.target}?signature=%2Bsigned%3D"
        return Answer(307, {"Location": location})
    return content(registry, blob, ask, headers)


def content(registry: StrictRegistry, blob: Blob, ask: Ask, headers: dict[str, str]) -> Answer:
    """The bytes that the Range header asks for: 200, 206 or 416 (RFC 9110, 14). Several ranges are all of it."""
    data = memoryview(blob.data or b"")
    headers = {**headers, "Content-Type": _OCTETS}
    if registry.mode.ranges:
        headers["Accept-Ranges"] = "bytes"
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", ask.headers.get("Range", ""))
    if not registry.mode.ranges or not asked or not (asked[1] or asked[2]):
        return Answer(200, headers, data)
    first, last = asked[1], asked[2]
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    if first and last and int(last) < int(first):
        return Answer(200, headers, data)
    if start >= len(data):
        return Answer(416, {"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end])


def delete(registry: StrictRegistry, ask: Ask) -> Answer:
    """DELETE of a blob, whoever points at it."""
    if not registry.mode.deletes:
        raise RefusalError(405, "UNSUPPORTED", "nothing is deleted here")
    _find(registry, ask)
    del registry.repository(ask.repository).blobs[ask.target]
    return Answer(202)


def _find(registry: StrictRegistry, ask: Ask) -> Blob:
    if not DIGEST.fullmatch(ask.target):
        raise RefusalError(400, "DIGEST_INVALID", "this is no digest", {"digest": ask.target})
    known = registry.repositories.get(ask.repository)
    blob = known.blobs.get(ask.target) if known else None
    if blob is None or (blob.data is None and ask.method == "GET"):
        raise RefusalError(404, "BLOB_UNKNOWN", "blob unknown to registry", {"digest": ask.target})
    return blob
