"""Two Hugging Face Hubs: olah over a local git repository, and a small strict one.

The strict one is a double, because olah cannot do what it is for: Range, redirects to another host, gated and missing
models, the wrong bytes. It answers the four kinds of request that huggingface_hub makes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.parts.command import ROOT, run
from tests.parts.servers import Server, reserved_port, serving

COMMIT = "5" * 40

_OLAH = """
[basic]
host = "127.0.0.1"
port = {port}
ssl-key = ""
ssl-cert = ""
repos-path = "{folder}/repos"
cache-size-limit = ""
cache-clean-strategy = "LRU"
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
hf-lfs-netloc = "127.0.0.1:9"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
mirrors-path = ["{folder}/mirror"]

[accessibility]
offline = true
[[accessibility.proxy]]
repo = "*"
allow = true
[[accessibility.cache]]
repo = "*"
allow = true
"""


@contextlib.contextmanager
def olah(folder: Path) -> Iterator[Server]:
    """olah, serving the repositories below `folder`/mirror/models."""
    config = folder / "olah.toml"
    program = ROOT / ".cache/clients/olah/bin/olah-cli"
    with reserved_port() as port:
        config.write_text(_OLAH.format(port=port, folder=folder))
        home = {"HOME": str(folder)}
        with serving([program, "-c", config], f"127.0.0.1:{port}", "/", folder / "log", home) as server:
            yield server


def git_repository(folder: Path, files: Mapping[str, Path]) -> str:
    """A git repository as the Hub keeps them, files over 1 MB in LFS; returns its commit."""
    folder.mkdir(parents=True)
    git = ("git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@localhost")
    run(*git, "init", "--quiet", "--initial-branch=main")
    for name, source in files.items():
        data = source.read_bytes()
        target = folder / name
        if len(data) > 1_000_000:
            digest = hashlib.sha256(data).hexdigest()
            stored = folder / ".git/lfs/objects" / digest[:2] / digest[2:4] / digest
            stored.parent.mkdir(parents=True)
            stored.write_bytes(data)
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    run(*git, "add", "--all")
    run(*git, "commit", "--quiet", "--message=model")
    return run(*git, "rev-parse", "HEAD").stdout.strip()


@dataclass
class StrictHub:
    """One repository, `acme/tiny`, of files in memory; `gated` ones refuse, `lies` replaces bytes that are sent.

    It is one of `models` or of `datasets`. Without `ranges` it ignores Range, with a `shift` it answers another; `sent`
    counts the bytes of each file. `instead` holds other answers, status, headers and body, by a part of the path that
    is asked for.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    kind: str = "models"
    gated: bool = False
    lies: dict[str, bytes] = field(default_factory=dict)
    instead: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    cdn: str = ""
    ranges: bool = True
    shift: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def place(self) -> str:
        """Where its files are, as a path."""
        return "/acme/tiny" if self.kind == "models" else f"/{self.kind}/acme/tiny"

    def tree(self) -> list[dict[str, Any]]:
        """What the Hub tells about its files."""
        return [self._entry(name, data) for name, data in sorted(self.files.items())]

    @staticmethod
    def _entry(name: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()
        entry: dict[str, Any] = {"type": "file", "oid": blob, "size": len(data), "path": name}
        if name.endswith((".safetensors", ".gguf", ".parquet")):
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
        return entry


@contextlib.contextmanager
def strict_hub(hub: StrictHub) -> Iterator[str]:
    """The base URL of a running strict hub; a second address plays the CDN that large files are redirected to."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, dict(self.headers)))
            if other := next((answer for part, answer in hub.instead.items() if part in path), None):
                status, headers, body = other
                self._send(status, body, headers)
            elif path.startswith("/cdn/"):
                self._content(path.removeprefix("/cdn/"))
            elif not path.startswith((f"/api/{hub.kind}/acme/tiny/", f"{hub.place()}/resolve/")):
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif hub.gated:
                self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask for access"})
            elif path.endswith(("/revision/main", f"/revision/{hub.commit}")):
                siblings = [{"rfilename": name} for name in hub.files]
                self._json({"id": "acme/tiny", "sha": hub.commit, "siblings": siblings})
            elif "/tree/" in path:
                self._json(hub.tree())
            elif path.startswith(f"{hub.place()}/resolve/{hub.commit}/"):
                self._resolve(path.removeprefix(f"{hub.place()}/resolve/{hub.commit}/"))
            else:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})

        def _resolve(self, name: str) -> None:
            entry = {entry["path"]: entry for entry in hub.tree()}[name]
            etag = entry.get("lfs", entry)["oid"]
            headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{etag}"'}
            if "lfs" in entry:
                linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(entry["size"])}
                self._send(302, b"", {**headers, **linked, "Location": f"{hub.cdn}/cdn/{name}"})
            else:
                self._content(name, headers)

        def _content(self, name: str, headers: Mapping[str, str] = {}) -> None:
            data = hub.lies.get(name, hub.files[name])
            wanted = self.headers.get("Range") if hub.ranges else None
            first, _, last = wanted.removeprefix("bytes=").partition("-") if wanted else ("0", "", "")
            start, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
            said = f"bytes {start + hub.shift}-{end - 1}/{len(data)}"
            more = {"Content-Range": said} if wanted else {}
            status, body = (206 if wanted else 200), data[start:end]
            if self.command == "GET":
                hub.sent[name] = hub.sent.get(name, 0) + len(body)
            if self.command == "GET" and name in hub.cut:
                self._send(status, body[: hub.cut.pop(name)], {**headers, **more}, length=len(body))
                self.close_connection = True
            else:
                self._send(status, body, {**headers, **more})

        def _json(self, document: object) -> None:
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str], length: int | None = None) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    # another host, since the client follows redirects to other ports of one
    servers = [ThreadingHTTPServer((host, 0), Handler) for host in ("127.0.0.1", "127.0.0.2")]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hub.cdn = f"http://127.0.0.2:{servers[1].server_port}"
    try:
        yield f"http://127.0.0.1:{servers[0].server_port}"
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
