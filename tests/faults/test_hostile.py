"""Registries that mean harm: whatever they say, the client ends soon, with an error of ours.

Its memory stays small, and nothing is written outside its folder.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from containers.layers import FILEPATH
from registry.access import Access
from registry.blob import BytesBlob
from registry.descriptor import IMAGE_LAYER, INDEX, OCTETS
from registry.folder import STAGING
from registry.outcome import Outcome
from registry.profile import Way
from registry.remote import Remote
from registry.retry import Retry
from registry.wire import Limits, Wire
from tests.faults.raw import (
    MIB,
    RAW_LAYER,
    Artifact,
    Asked,
    Say,
    answer,
    document,
    drip,
    for_ever,
    head,
    manifest_of,
    opener,
    raw_artifact,
    raw_server,
)
from tests.faults.victim import SECRET
from tests.parts.command import ROOT
from tests.parts.strict.state import digest_of

MEMORY = 320
"""MiB that a client may have at most: 60 before it does anything, and what 4 MiB of JSON become in Python."""

SECONDS = 40
"""In which a client must have ended: a second of silence, three times, and what a slow machine adds."""

GZIPPED = "application/vnd.cncf.model.weight.v1.tar+gzip"
ZSTD = "application/vnd.cncf.model.weight.v1.tar+zstd"


class Victims:
    """A process that is told what to do, and does it in a child; it has everything imported."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.victim"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
        )

    def attacked(self, action: str, host: str, folder: Path) -> dict[str, Any]:
        """What became of a client, which anything but an error of ours, a hang and too much memory fail."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([action, host, str(folder)]).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        if not ready:
            self.close()
            self.__init__()  # type: ignore[misc]
            raise AssertionError(f"no end after {SECONDS} s")
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert found["exit"] != 1, f"{found['error']}\n{found['text']}"
        assert found["peak"] < MEMORY, found
        assert SECRET not in found["text"]
        return found

    def close(self) -> None:
        """End it, and the child."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    made = Victims()
    yield made
    made.close()


@dataclass(frozen=True)
class Case:
    """What a client does, and what it gets; `codes` are the exit codes that it may end with."""

    action: str
    say: Say
    codes: tuple[int, ...] = (5,)
    reads: bool = True


def always(*pieces: bytes) -> Say:
    return lambda _: pieces


def endless(*headers: str, status: int = 200, piece: bytes = bytes(MIB), first: bytes = b"") -> Say:
    return lambda _: for_ever(piece, first=head(status, *headers) + first)


CHUNKED = "Transfer-Encoding: chunked"
ENDLESS_CHUNK = b"100000\r\n" + bytes(MIB) + b"\r\n"


def dripping(data: bytes, first: bytes = b"") -> Say:
    return lambda _: (piece for part in ([first], drip(data)) for piece in part)


def challenged(token: Say) -> Say:
    """A registry that wants a token of itself."""

    def say(asked: Asked) -> Iterable[bytes]:
        if asked.path.startswith("/token"):
            return token(asked)
        realm = f"http://{asked.headers['host']}/token"
        return answer(401, b"", f'WWW-Authenticate: Bearer realm="{realm}",service="s"')

    return say


def lasting(seconds: bytes) -> Case:
    """A token that is said to be good for so long."""
    return Case("resolve", challenged(always(*answer(200, b'{"token":"a","expires_in":' + seconds + b"}"))))


def paging(body: bytes) -> Say:
    """A list whose every page names another one."""
    count = iter(range(1 << 30))
    return lambda _: answer(200, body, f'Link: </v2/a/b/tags/list?last={next(count)}>; rel="next"')


def with_blob(say: Say, data: bytes = b"weights" * 1000) -> Say:
    """An artifact of one raw layer, whose content is answered so."""
    return raw_artifact(data).but(f"blobs/{digest_of(data)}", say)


def with_tar(say: Say) -> Say:
    """An artifact of one tar, whose content is answered so."""
    data = tar("models/a")
    return Artifact([(data, IMAGE_LAYER, {})]).but(f"blobs/{digest_of(data)}", say)


def tar(name: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = 5
        for key, value in more.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(b"12345"))
    return buffer.getvalue()


DATA = b"weights" * 1000
PAGE = json.dumps({"tags": [f"tag-{number:0100}" for number in range(30_000)]}).encode()
UPLOADED = ("Location: /v2/a/b/blobs/uploads/1", "Range: 0-0")
BASIC = 'WWW-Authenticate: Basic realm="x"'

ENDLESS = {
    "a manifest that never ends": Case("resolve", endless()),
    "a manifest that never ends, in chunks": Case("resolve", endless(CHUNKED, piece=ENDLESS_CHUNK)),
    "a manifest of a terabyte": Case("resolve", endless(f"Content-Length: {1 << 40}")),
    "a manifest of 4 MiB and a byte": Case("resolve", always(*answer(200, b" " * (4 * MIB + 1)))),
    "tags that never end": Case("tags", endless()),
    "pages that never end": Case("tags", paging(b'{"tags": ["a"]}')),
    "large pages that never end": Case("tags", paging(PAGE)),
    "large pages of referrers": Case("referrers", paging(b'{"manifests": []' + b" " * 3 * MIB + b"}"), codes=(0, 5)),
    "an error that never ends": Case("resolve", endless(status=403)),
    "an outage that never ends": Case("resolve", endless(status=503)),
    "a token that never ends": Case("resolve", challenged(endless())),
    "a redirect with a body that never ends": Case("resolve", endless("Location: /v2/x", status=307)),
    "a raw blob that never ends": Case("pull", with_blob(endless())),
    "a tar that never ends": Case("pull", with_tar(endless(CHUNKED, piece=ENDLESS_CHUNK))),
    "an upload's answer that never ends": Case("push", opener(lambda _: for_ever(bytes(MIB), first=head(403)))),
    "provisional answers that never end": Case("resolve", lambda _: for_ever(head(100) * 100)),
    "early hints that never end": Case("resolve", lambda _: for_ever(head(103) * 100)),
    "headers that never end": Case("resolve", lambda _: for_ever(b"A: b\r\n" * 100, first=b"HTTP/1.1 200 OK\r\n")),
    "a header that never ends": Case("resolve", lambda _: for_ever(bytes(MIB), first=b"HTTP/1.1 200 OK\r\nA: ")),
    "a status line that never ends": Case("resolve", lambda _: for_ever(b"HTTP" * MIB)),
    "trailers that never end": Case("resolve", endless(CHUNKED, piece=b"A: b\r\n" * 1000, first=b"0\r\n")),
    "extensions that never end": Case("resolve", endless(CHUNKED, piece=b"1;" + b"a" * 60_000 + b"\r\nx\r\n")),
    "a chunk of a negative size": Case("resolve", endless(CHUNKED, first=b"-1\r\n")),
    "a blob in a chunk of a negative size": Case("pull", with_blob(endless(CHUNKED, first=b"-1\r\n"))),
}

DRIPS = {
    "a status line": Case("resolve", dripping(b"HTTP/1.1 200 OK" + b" " * 10_000)),
    "a header": Case("resolve", dripping(b"a" * 10_000, b"HTTP/1.1 200 OK\r\nA: ")),
    "a manifest": Case("resolve", dripping(b" " * 10_000, head(200, "Content-Length: 10000"))),
    "tags": Case("tags", dripping(b" " * 10_000, head(200))),
    "an error": Case("resolve", dripping(b" " * 10_000, head(403, "Content-Length: 10000"))),
    "a token": Case("resolve", challenged(dripping(b" " * 10_000, head(200, "Content-Length: 10000")))),
    "a raw blob": Case("pull", with_blob(dripping(DATA, head(200, f"Content-Length: {len(DATA)}")))),
    "a tar": Case("pull", with_tar(dripping(tar("models/a"), head(200, "Content-Length: 10240")))),
    "chunks": Case("resolve", dripping(b"1\r\n \r\n" * 1000, head(200, CHUNKED))),
    "an upload's answer": Case("push", opener(lambda _: drip(head(202) + b" " * 10_000))),
    "provisional answers": Case("resolve", dripping(head(102) * 1000)),
    "nobody reads what is sent": Case("push", lambda asked: opener(lambda _: drip(b" " * 9999))(asked), reads=False),
}

LIES = {
    "more was promised": Case("resolve", always(head(200, "Content-Length: 100"), b"{}")),
    "a blob ends early": Case("pull", with_blob(always(head(200, f"Content-Length: {len(DATA)}"), b"we"))),
    "a blob is shorter": Case("pull", with_blob(always(*answer(200, DATA[:-1])))),
    "a blob is longer": Case("pull", with_blob(always(*answer(200, DATA + b"s")))),
    "a blob of other bytes": Case("pull", with_blob(always(*answer(200, DATA[:-1] + b"?")))),
    "a blob of other bytes, longer than it says": Case(
        "pull", with_blob(always(head(200, f"Content-Length: {len(DATA)}"), b"?" * MIB))
    ),
    "a negative length": Case("resolve", always(head(200, "Content-Length: -5"), b"{}")),
    "a length of words": Case("resolve", always(head(200, "Content-Length: five"), b"{}")),
    "two lengths": Case("resolve", always(head(200, "Content-Length: 1", "Content-Length: 2"), b"{}")),
    "two lengths in one": Case("resolve", always(head(200, "Content-Length: 1, 2"), b"{}")),
    "a length of 5000 digits": Case("resolve", always(head(200, "Content-Length: " + "9" * 5000), b"{}")),
    "compressed, unasked": Case("pull", with_blob(always(*answer(200, gzip.compress(DATA), "Content-Encoding: gzip")))),
    "another range": Case("pull", with_blob(always(*answer(206, DATA, f"Content-Range: bytes 5-9/{len(DATA)}")))),
    "a range of 60000 letters": Case("pull", with_blob(always(*answer(206, DATA, "Content-Range: " + "a" * 60_000)))),
    "another manifest": Case("copy", always(*document({"mediaType": INDEX, "manifests": [
        {"mediaType": "x", "digest": digest_of(b"other"), "size": 5}]}))),
}  # fmt: skip

GARBAGE = {
    "chunks of nonsense": Case("resolve", always(head(200, CHUNKED), b"zz\r\n{}\r\n0\r\n\r\n")),
    "a chunk of -5": Case("resolve", always(head(200, CHUNKED), b"-5\r\n{}\r\n0\r\n\r\n")),
    "a chunk of 2^64": Case("resolve", always(head(200, CHUNKED), b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n")),
    "a blob in a chunk of 2^64": Case("pull", with_blob(always(head(200, CHUNKED), b"f" * 16 + b"\r\n" + DATA[5:]))),
    "a chunk without its end": Case("resolve", always(head(200, CHUNKED), b"2\r\n{}garbage\r\n")),
    "a size of 60000 digits": Case("resolve", always(head(200, CHUNKED), b"1" * 60_000 + b"\r\n")),
    "no status": Case("resolve", always(b"\r\n\r\n")),
    "a status of words": Case("resolve", always(b"HTTP/1.1 two hundred\r\n\r\n")),
    "a status of 99999": Case("resolve", always(b"HTTP/1.1 99999 OK\r\n\r\n")),
    "a status of 999": Case("resolve", always(*answer(999))),
    "a status of 103 alone": Case("resolve", always(head(103))),
    "a status of 101": Case("push", opener(lambda _: [head(101)])),
    "another protocol": Case("resolve", always(b"SSH-2.0-OpenSSH_9.6\r\n")),
    "HTTP of the future": Case("resolve", always(b"HTTP/9.9 200 OK\r\n\r\n{}")),
    "bytes": Case("resolve", always(bytes(range(256)) * 100)),
    "nothing": Case("resolve", always()),
    "headers without names": Case("resolve", always(b"HTTP/1.1 200 OK\r\nnonsense\r\n: x\r\n\r\n{}")),
    "a header of 70000 bytes": Case("resolve", always(head(200, "A: " + "b" * 70_000), b"{}")),
    "headers of 5 MB": Case("resolve", always(head(200, *["A: " + "b" * 60_000] * 90), b"{}")),
    "1000 headers": Case("resolve", always(head(200, *["A: b"] * 1000), b"{}")),
    "headers in a foreign language": Case("resolve", always(head(403, "Location: \xff\xfe", "Retry-After: \xb2"), b"")),
    "a Retry-After of 60000 digits": Case("resolve", always(*answer(503, b"", "Retry-After: " + "9" * 60_000))),
    "a Retry-After in a year": Case("resolve", always(*answer(503, b"", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"))),
    "a challenge of 60000 letters": Case("resolve", always(*answer(401, b"", "WWW-Authenticate: " + "Bearer " * 9000))),
    "JSON too deep": Case("resolve", always(*answer(200, b"[" * MIB))),
    "JSON of many lists": Case("resolve", always(*answer(200, b"[" + b"[]," * MIB + b"[]]"))),
    "JSON of many objects": Case("resolve", always(*answer(200, b'{"layers":[' + b"{}," * MIB + b"{}]}"))),
    "a number of 10000 digits": Case("resolve", always(*answer(200, b'{"a":' + b"9" * 10_000 + b"}"))),
    "half a surrogate": Case("resolve", always(*answer(200, b'{"mediaType":"\\ud800"}'))),
    "no UTF-8": Case("resolve", always(*answer(200, b'{"\xff":1}'))),
    "an error too deep": Case("resolve", always(*answer(403, b"[" * 60_000))),
    "an error of other types": Case("resolve", always(*document({"errors": {"a": 1}}), *answer(403))),
    "tags that are objects": Case("tags", always(*document({"tags": [{"a": 1}]}))),
    "tags that are no list": Case("tags", always(*document({"tags": "abc"}))),
    "tags that move the cursor": Case("tags", always(*document({"tags": ["v1\x1b[2J"]}))),
    "tags with a line feed": Case("tags", always(*document({"tags": ["v1\nv2"]}))),
    "a link to nowhere": Case("tags", always(*document({"tags": []}, 'Link: <http://[>; rel="next"'))),
    "a link elsewhere": Case("tags", always(*document({"tags": []}, 'Link: <http://example.com/>; rel="next"'))),
    "a link to another scheme": Case("tags", always(*document({"tags": []}, 'Link: <file:///etc/passwd>; rel="next"'))),
    "a link to itself": Case("tags", always(*document({"tags": []}, 'Link: </v2/a/b/tags/list>; rel="next"'))),
    "a link of commas": Case("tags", always(*document({"tags": ["a b"]}, "Link: " + "," * 60_000))),
    "a token with a header in it": Case("resolve", challenged(always(*document({"token": "a\r\nEvil: 1"})))),
    "a token in a foreign language": Case("resolve", challenged(always(*document({"token": "\u1234\ud800"})))),
    "a token of a megabyte": Case("resolve", challenged(always(*document({"token": "a" * 900_000})))),
    "a token for NaN seconds": lasting(b"NaN"),
    "a token for 10^400 seconds": lasting(b"1" + b"0" * 400),
    "a token for -5 seconds": lasting(b"-5"),
    "a token for true seconds": lasting(b"true"),
    "a realm at no server": Case("resolve", always(*answer(401, b"", 'WWW-Authenticate: Bearer realm="http://["'))),
    "a realm elsewhere": Case("resolve", always(*answer(401, b"", 'WWW-Authenticate: Bearer realm="file:///etc/passwd"'))),
}  # fmt: skip


def descriptor(**more: object) -> dict[str, object]:
    return {"mediaType": IMAGE_LAYER, "digest": digest_of(DATA), "size": len(DATA), **more}


def manifest(**layer: object) -> Say:
    return always(*document(manifest_of(descriptor(), [descriptor(**layer)])))


def indexes() -> Say:
    """Indexes of a hundred indexes each: a hundred million manifests, all of them different."""

    def say(asked: Asked) -> Iterable[bytes]:
        said = [digest_of(f"{asked.path}{number}".encode()) for number in range(100)]
        return document({"mediaType": INDEX, "manifests": [descriptor(mediaType=INDEX, digest=one) for one in said]})

    return say


def same_indexes() -> Say:
    """The same with honest digests: each level names the one below a hundred times."""
    said = {"": json.dumps(manifest_of(descriptor(), [])).encode()}
    last = ""
    for _ in range(3):
        digest = digest_of(said[last])
        said[digest] = said[last]
        below = descriptor(mediaType=INDEX, digest=digest)
        last = f"above {digest}"
        said[last] = json.dumps({"mediaType": INDEX, "manifests": [below] * 100}).encode()
    said["v1"] = said[last]

    def say(asked: Asked) -> Iterable[bytes]:
        found = said.get(asked.path.rpartition("/")[2])
        return answer(200, found) if found else answer(404)

    return say


MANIFESTS = {
    "a negative size": Case("pull", manifest(size=-1)),
    "a size of 2^63": Case("pull", manifest(size=1 << 63)),
    "a raw layer of 2^62 bytes": Case("pull", manifest(
        size=1 << 62, mediaType=RAW_LAYER, annotations={FILEPATH: "a"}), codes=(5, 6)),
    "a tar of 2^62 bytes": Case("pull", raw_artifact().but("manifests", manifest(size=1 << 62)), codes=(5, 6)),
    "a size of words": Case("pull", manifest(size="5")),
    "a digest with a path": Case("pull", manifest(digest="sha256:../../etc/passwd")),
    "a digest of another kind": Case("pull", manifest(digest="md5:" + "0" * 32)),
    "annotations of other types": Case("pull", manifest(annotations={"org.cncf.model.filepath": ["a"]})),
    "annotations that are a list": Case("pull", manifest(annotations=["a"])),
    "a platform of words": Case("pull", manifest(platform="linux")),
    "30000 layers": Case("pull", always(*document(manifest_of(descriptor(), [descriptor()] * 20_000)))),
    "no layers": Case("pull", always(*document(manifest_of(descriptor(), []))), codes=(3,)),
    "a list": Case("pull", always(*document([]))),
    "an index of itself": Case("pull", always(*document({"mediaType": INDEX, "manifests": [
        descriptor(mediaType=INDEX)]}))),
    "1000 manifests": Case("pull", always(*document({"mediaType": INDEX, "manifests": [descriptor()] * 1000}))),
    "indexes of indexes": Case("copy", indexes()),
    "indexes of the same index": Case("copy", same_indexes(), codes=(0,)),
}  # fmt: skip


def bomb(compressed: Callable[[], bytes], media_type: str) -> Case:
    """An artifact of one layer, which is made when it is first asked for."""
    artifact = cache(lambda: Artifact([(compressed(), media_type, {})]))
    return Case("pull", lambda asked: artifact().say(asked))


def zeros(size: int, packer: Any) -> bytes:
    """A compressed tar of one file of zeros."""
    info = tarfile.TarInfo("models/zeros")
    info.size = size
    pieces = [info.tobuf(tarfile.GNU_FORMAT), *[bytes(16 * MIB)] * (size >> 24)]
    return b"".join(map(packer.compress, pieces)) + bytes(packer.flush())


BOMBS = {
    "gzip": bomb(lambda: zeros(512 * MIB, zlib.compressobj(9, wbits=31)), GZIPPED),
    "gzip, as OCI has it": bomb(lambda: zeros(512 * MIB, zlib.compressobj(9, wbits=31)), IMAGE_LAYER + "+gzip"),
    "zstd": bomb(lambda: zeros(4 << 30, zstd.ZstdCompressor()), ZSTD),
    "zstd with a window of 2 GiB": bomb(lambda: b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(100), ZSTD),
    "members without content": bomb(lambda: gzip.compress(b"") * 200_000, GZIPPED),
    "cut gzip": bomb(lambda: gzip.compress(bytes(100_000))[:-9], GZIPPED),
    "no gzip": bomb(lambda: bytes(1000), GZIPPED),
    "an unknown compression": bomb(lambda: b"x", IMAGE_LAYER + "+lzma"),
}

NAMES = {
    "absolute": "/etc/evil",
    "above": "../evil",
    "above, later": "a/../../evil",
    "backslash": "..\\evil",
    "a drive": "C:\\evil",
    "a control character": "a\x1b[2J",
    "a line feed": "a\nb",
    "empty parts": "a//b",
    "a dot": "./a",
    "too long": "a" * 300,
    "too deep": "a/" * 3000 + "a",
    "our own folder": ".packer-staging/a",
    "the name of our own folder": ".packer-staging",
}
ANNOTATED = {**NAMES, "NUL": "a\0b", "empty": "", "only a slash": "/", "only dots": ".."}


def paths() -> Iterator[tuple[str, Case]]:
    """Names that leave the folder, or that a file system cannot have, in a tar and in annotations."""
    for what, name in NAMES.items():
        models = "" if what == "absolute" else "models/"
        yield f"{what}, in a tar", Case("pull", Artifact([(tar(models + name), IMAGE_LAYER, {})]).say, codes=(3, 5))
        yield f"{what}, in a tar of a model", Case("pull", Artifact([(tar(name), GZIPPED[:-5], {})]).say, codes=(3, 5))
    for what, name in ANNOTATED.items():
        yield f"{what}, in an annotation", Case("pull", raw_artifact(path=name).say, codes=(3, 5))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        link = tar("models/link", type=kind, linkname="/etc", size=0)
        through = tar("models/link/evil")
        layers: list[tuple[bytes, str, dict[str, str]]] = [(link, IMAGE_LAYER, {}), (through, IMAGE_LAYER, {})]
        yield f"through a link of kind {kind!r}", Case("pull", Artifact(layers).say, codes=(0, 3, 5))
    twice = [(tar("models/a"), IMAGE_LAYER, dict[str, str]()), (tar("models/a/b"), IMAGE_LAYER, {})]
    yield "a file and a folder at once", Case("pull", Artifact(twice).say)
    yield (
        "a device",
        Case("pull", Artifact([(tar("models/a", type=tarfile.CHRTYPE, size=0), IMAGE_LAYER, {})]).say, codes=(3,)),
    )


def opened(*headers: str, then: int = 202, post: int = 202) -> Case:
    """A push into a registry that opens uploads with these headers, and answers what follows with a status."""
    return Case("push", lambda asked: answer({"HEAD": 404, "POST": post}.get(asked.method, then), b"", *headers))


def going_on(status: int, reach: str, method: str) -> Case:
    """A push into a registry that answers one method with a status and a Range, all others with an outage."""
    headers = ("Location: /v2/a/b/blobs/uploads/1", f"Range: 0-{reach}")
    return Case("push", opener(lambda asked: answer(status if asked == method else 503, b"", *headers)))


_DISPUTED = b'{"errors":[{"code":"DIGEST_INVALID"}]}'

UPLOADS = {
    "no Location": opened(),
    "a Location at no URL": opened("Location: http://["),
    "a Location in a file": opened("Location: file:///tmp/x"),
    "a Location by FTP": opened("Location: ftp://h/x"),
    "a Location on the link": opened("Location: http://169.254.169.254/latest"),
    "a Location of 60000 letters": opened("Location: /" + "a" * 60_000, then=403),
    "a Location with an absurd port": opened("Location: http://127.0.0.1:99999/"),
    "chunks of 5000 digits": opened("OCI-Chunk-Min-Length: " + "9" * 5000, *UPLOADED, then=403),
    "chunks of 10^30 bytes": opened("OCI-Chunk-Min-Length: 1" + "0" * 30, *UPLOADED, then=403),
    "a session that is sent on": opened("Location: http://127.0.0.1:9/", post=307),
    "a Range that stands still": going_on(202, "0", "PATCH"),
    "a Range beyond what was sent": going_on(202, "9" * 30, "PATCH"),
    "a state beyond what was sent": going_on(204, str(1 << 60), "GET"),
    "a state that never moves": going_on(204, "1048575", "GET"),
    "writes that are sent on": Case("push", opener(lambda _: answer(307, b"", "Location: /v2/a/b/blobs/uploads/2"))),
    "a digest that is always disputed": Case("push", opener(lambda _: answer(400, _DISPUTED))),
    "a manifest that is sent on": Case(
        "tag", lambda asked: answer(404 if asked.method == "HEAD" else 307, b"", "Location: /x")
    ),
    "a digest of 60000 letters": Case(
        "tag",
        lambda asked: answer(200 if asked.method == "HEAD" else 403, b"", "Docker-Content-Digest: " + "a" * 60_000),
    ),
}

REDIRECTS = {
    where: Case(action, lambda asked, where=where: answer(307, b"", f"Location: {where}"))  # type: ignore[misc]
    for where in (
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0.0.0.0:1/",
        "//169.254.169.254/",
        "http://127.0.0.1:99999/",
        "/v2/again",
        "//",
        "http://",
    )
    for action in ("resolve",)
}

GROUPS: dict[str, dict[str, Case]] = {
    "endless": ENDLESS,
    "drip": DRIPS,
    "lie": LIES,
    "garbage": GARBAGE,
    "manifest": MANIFESTS,
    "bomb": BOMBS,
    "path": dict(paths()),
    "upload": UPLOADS,
    "redirect": REDIRECTS,
}
CASES = {f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()}


@pytest.mark.parametrize("name", CASES)
def test_what_is_hostile_is_refused(name: str, victims: Victims, tmp_path: Path) -> None:
    case, target = CASES[name], tmp_path / "around" / "target"
    target.parent.mkdir()
    with raw_server(case.say, reads=case.reads) as raw:
        found = victims.attacked(case.action, raw.address, target)
    assert found["exit"] in case.codes, found
    assert [path.name for path in tmp_path.rglob("*")] in (["around"], ["around", "target"]) or found["exit"] == 0


def guarding(say: Say) -> Say:
    """A registry that wants a password first."""
    return lambda asked: say(asked) if "authorization" in asked.headers else answer(401, b"", BASIC)


@pytest.mark.parametrize("other", [201, 401])
def test_an_upload_that_goes_on_elsewhere_takes_no_password_along(other: int, victims: Victims, tmp_path: Path) -> None:
    """A storage host may take the bytes, and its challenge is none of our business."""
    with raw_server(always(*answer(other, b"", BASIC))) as storage:
        to = f"Location: http://{storage.address}/upload"
        with raw_server(guarding(lambda asked: answer(404 if asked.method == "HEAD" else 202, b"", to))) as raw:
            found = victims.attacked("push", raw.address, tmp_path)
    assert found["exit"] == (0 if other == 201 else 5)
    assert storage.asked
    assert all("authorization" not in asked.headers for asked in storage.asked)


def test_content_and_tokens_elsewhere_take_no_password_along(victims: Victims, tmp_path: Path) -> None:
    with raw_server(always(*document({"token": "x"}))) as storage:
        away = answer(307, b"", f"Location: http://{storage.address}/x")
        for action, say in (("resolve", guarding(always(*away))), ("resolve", challenged(always(*away)))):
            with raw_server(say) as raw:
                victims.attacked(action, raw.address, tmp_path)
    assert storage.asked
    assert all("authorization" not in asked.headers for asked in storage.asked)


@pytest.mark.parametrize("action", ["push", "resolve", "tags"])
def test_what_began_with_tls_goes_on_with_it(action: str, victims: Victims, tmp_path: Path) -> None:
    with raw_server(always(*answer(201))) as plain:
        where = f"http://{plain.address}/x"

        def say(asked: Asked) -> Iterable[bytes]:
            if action == "tags":
                return document({"tags": []}, f'Link: <{where}>; rel="next"')
            status = 307 if action == "resolve" else 404 if asked.method == "HEAD" else 202
            return answer(status, b"", f"Location: {where}")

        with raw_server(say, tls=True) as raw:
            found = victims.attacked(action, f"https://{raw.address}", tmp_path)
    assert found["exit"] == 5
    assert "another scheme" in found["text"]
    assert plain.asked == []


def test_a_server_that_is_slow_to_read_is_not_given_up_soon() -> None:
    """The time to connect is none in which a piece must be sent."""
    blob = BytesBlob.of(OCTETS, bytes(16 * MIB))
    wire = Wire(limits=Limits(connect=1, silence=20))
    with raw_server(opener(lambda _: answer(201)), pause=3) as raw:
        store = Remote(raw.address, "a/b", Access(wire=wire, retry=Retry(count=0)), plain_http=True)
        store._habits.way = Way.WHOLE
        assert store.push(blob) is Outcome.SENT


def test_a_folder_in_the_way_of_a_file(victims: Victims, tmp_path: Path) -> None:
    """Nothing gets its name before it is known that all can."""
    (tmp_path / "models").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("models", "file/x"):
        layers = [(b"1", RAW_LAYER, {FILEPATH: "first"}), (b"2", RAW_LAYER, {FILEPATH: name})]
        with raw_server(Artifact(layers).say) as raw:
            found = victims.attacked("pull", raw.address, tmp_path)
        assert found["exit"] == 2, found
        assert "in the way" in found["text"]
    assert {path.name for path in tmp_path.iterdir()} - {STAGING} == {"file", "models"}
