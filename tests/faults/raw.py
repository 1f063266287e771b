"""A server on loopback that says, byte for byte, what a test wants, however wrong.

A double, because no real server lies so.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from tests.parts.strict.state import digest_of
from tests.parts.tls import certificates

MIB = 1 << 20


@dataclass(frozen=True)
class Asked:
    """A request: its headers' names are in lower case, its body was read and thrown away."""

    method: str
    path: str
    headers: Mapping[str, str]


Say = Callable[[Asked], Iterable[bytes]]
"""The bytes of an answer, head and all. The connection ends after it."""


@dataclass
class Raw:
    """A running server; `say` may be changed while it runs, `asked` tells what came."""

    say: Say
    reads: bool = True
    pause: float = 0
    address: str = ""
    asked: list[Asked] = field(default_factory=list)


@contextlib.contextmanager
def raw_server(say: Say, *, tls: bool = False, reads: bool = True, pause: float = 0) -> Iterator[Raw]:
    """A server that answers so; it takes a request's body after `pause` seconds, without `reads` never."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    raw = Raw(say, reads, pause, f"127.0.0.1:{listener.getsockname()[1]}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if tls else None
    if context:
        context.load_cert_chain(certificates().server.certificate, certificates().server.key)
    live = set[socket.socket]()

    def serve(client: socket.socket) -> None:
        live.add(client)
        with contextlib.suppress(OSError, ValueError):
            _serve(context.wrap_socket(client, server_side=True) if context else client, raw)
        live.discard(client)
        client.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield raw
    finally:
        listener.close()
        for client in list(live):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _serve(client: socket.socket, raw: Raw) -> None:
    with client, client.makefile("rb") as stream:
        method, path, _ = stream.readline().decode().split()
        headers = dict(_headers(stream))
        asked = Asked(method, path, headers)
        raw.asked.append(asked)
        left = int(headers.get("content-length", 0)) if raw.reads else 0
        time.sleep(raw.pause if left else 0)
        while left and (piece := stream.read(min(left, MIB))):
            left -= len(piece)
        for piece in raw.say(asked):
            client.sendall(piece)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        client.settimeout(2)
        while raw.reads and client.recv(1 << 16):
            pass


def _headers(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    while line := stream.readline().decode().strip():
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


def head(status: int, *headers: str) -> bytes:
    """The lines before a body. What asked goes on elsewhere, since the connection ends here."""
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", "Connection: close", *headers, "", ""]).encode("latin-1")


def answer(status: int, body: bytes = b"", *headers: str) -> list[bytes]:
    """A whole and honest answer."""
    return [head(status, f"Content-Length: {len(body)}", *headers), body]


def document(content: object, *headers: str) -> list[bytes]:
    """JSON, with status 200."""
    return answer(200, json.dumps(content).encode(), *headers)


def for_ever(piece: bytes, *, first: bytes = b"") -> Iterator[bytes]:
    """The same again and again."""
    return itertools.chain([first], itertools.repeat(piece))


def drip(data: bytes, seconds: float = 0.2) -> Iterator[bytes]:
    """A byte at a time, well within any time limit between two."""
    for byte in data:
        time.sleep(seconds)
        yield bytes([byte])


CONFIG = b"{}"
RAW_LAYER = "application/vnd.cncf.model.weight.v1.raw"


@dataclass
class Artifact:
    """An artifact as an honest registry would serve it: `say` answers for its parts, by their digests, and for `v1`."""

    layers: list[tuple[bytes, str, dict[str, str]]]
    """Of each the content, the media type and the annotations."""
    said: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        blobs = [self._kept(data, kind, more) for data, kind, more in self.layers]
        config = self._kept(CONFIG, "application/vnd.oci.image.config.v1+json", {})
        self.said["v1"] = json.dumps(manifest_of(config, blobs)).encode()
        self.said[digest_of(self.said["v1"])] = self.said["v1"]

    def _kept(self, data: bytes, kind: str, annotations: dict[str, str]) -> dict[str, object]:
        self.said[digest_of(data)] = data
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data), "annotations": annotations}

    def say(self, asked: Asked) -> list[bytes]:
        """What is honest."""
        found = self.said.get(asked.path.rpartition("/")[2])
        if found is None:
            return answer(404)
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", "")):
            start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(found))
            return answer(206, found[start:end], f"Content-Range: bytes {start}-{end - 1}/{len(found)}")
        return [head(200, f"Content-Length: {len(found)}"), b"" if asked.method == "HEAD" else found]

    def but(self, place: str, say: Say) -> Say:
        """Honest but for paths that hold `place`."""
        return lambda asked: say(asked) if place in asked.path else self.say(asked)


def raw_artifact(data: bytes = b"weights" * 1000, path: str = "model.safetensors", **more: str) -> Artifact:
    """One raw layer, whose annotations name a path."""
    return Artifact([(data, RAW_LAYER, {"org.cncf.model.filepath": path, **more})])


def manifest_of(config: object, layers: object) -> dict[str, object]:
    """An image manifest, unchecked."""
    kind = "application/vnd.oci.image.manifest.v1+json"
    return {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}


def opener(say: Callable[[str], Iterable[bytes]]) -> Say:
    """A registry that opens uploads and has nothing: `say` answers, by method, what goes to the upload."""

    def answered(asked: Asked) -> Iterable[bytes]:
        if asked.method == "HEAD":
            return answer(404)
        if asked.method == "POST":
            return answer(202, b"", "Location: /v2/a/b/blobs/uploads/1", "Range: 0-0")
        return say(asked.method)

    return answered
