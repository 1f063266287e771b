"""What docker-registry itself sends while it is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from registry.access import Access
from registry.events import ADAPTERS
from registry.events.change import Change, Delivery
from registry.events.trust import DEFAULTS
from registry.remote import Remote
from tests.parts import artifacts
from tests.parts.command import run
from tests.parts.servers import Server, docker_registry


@dataclass
class Hook:
    """What was received at a path: headers, with names in lower case, and bodies."""

    url: str
    received: queue.Queue[tuple[dict[str, str], bytes]]

    def until(self, wanted: Change) -> list[Delivery]:
        """The deliveries up to the one with this change, each from who knows the secret."""
        proof = DEFAULTS["distribution"]
        assert proof
        found: list[Delivery] = []
        while not found or wanted not in found[-1].changes:
            headers, body = self.received.get(timeout=60)
            assert proof.trust(b"Bearer hook").judge(headers, body)
            found.append(ADAPTERS["distribution"](headers, body))
        return found


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    received: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Hook(f"http://127.0.0.1:{server.server_port}/hooks/registry", received)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def registry(hook: Hook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    headers = "{Authorization: [Bearer hook]}"
    endpoint = f"{{name: packer, url: '{hook.url}', headers: {headers}, timeout: 60s, threshold: 3, backoff: 1s}}"
    more = f"notifications: {{endpoints: [{endpoint}]}}"
    with docker_registry(tmp_path_factory.mktemp("notifying"), more) as server:
        yield server


def test_pushes_of_tags_are_changes_and_nothing_else_is(registry: Server, hook: Hook, tmp_path: Path) -> None:
    place = Remote(registry.address, "base/tiny", Access(), plain_http=True)
    index = artifacts.push_index(place, [(artifacts.image(), "linux/amd64")], "v1")
    first = Change("artifact", f"{registry.address}/base/tiny:v1", digest=index.descriptor.digest)
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{registry.address}/base/tiny:v1", f"dir:{tmp_path}")
    manifest = artifacts.push(place, artifacts.modelpack(), "v2")
    last = Change("artifact", f"{registry.address}/base/tiny:v2", digest=manifest.descriptor.digest)

    deliveries = hook.until(last)
    changes = [change for delivery in deliveries for change in delivery.changes]
    assert changes == [first, last]
    assert len(deliveries) > 6  # blobs, manifests without a tag, pulls
    identities = [delivery.identity for delivery in deliveries]
    assert None not in identities and len(set(identities)) == len(identities)


def test_a_tag_that_moves_is_a_change_with_its_new_digest(registry: Server, hook: Hook) -> None:
    place = Remote(registry.address, "base/moving", Access(), plain_http=True)
    before = artifacts.push(place, artifacts.image(), "latest")
    after = artifacts.push(place, artifacts.image(Entrypoint=[]), "latest")
    name = f"{registry.address}/base/moving:latest"
    expected = [Change("artifact", name, digest=made.descriptor.digest) for made in (before, after)]
    assert before.descriptor.digest != after.descriptor.digest
    assert [change for delivery in hook.until(expected[1]) for change in delivery.changes] == expected
