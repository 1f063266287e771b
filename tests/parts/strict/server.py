"""The two servers: the registry, and the object storage that it may send readers to."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, unquote

from tests.parts.strict import blobs, lists, manifests, uploads
from tests.parts.strict.mode import STRICT, Mode
from tests.parts.strict.state import Authorize, Request, StrictRegistry
from tests.parts.strict.wire import Answer, Ask, Body, BrokenError, RefusalError

Rule = Callable[[StrictRegistry, Ask], Answer]

_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_ROUTES: list[tuple[re.Pattern[str], dict[str, Rule]]] = [
    (re.compile(r"/v2/(.+)/blobs/uploads/()"), {"POST": uploads.start}),
    (
        re.compile(r"/v2/(.+)/blobs/uploads/([^/]+)"),
        {"GET": uploads.status, "PATCH": uploads.patch, "PUT": uploads.finish, "DELETE": uploads.cancel},
    ),
    (re.compile(r"/v2/(.+)/blobs/([^/]+)"), {"HEAD": blobs.read, "GET": blobs.read, "DELETE": blobs.delete}),
    (
        re.compile(r"/v2/(.+)/manifests/([^/]+)"),
        {"HEAD": manifests.read, "GET": manifests.read, "PUT": manifests.put, "DELETE": manifests.delete},
    ),
    (re.compile(r"/v2/(.+)/tags/list()"), {"GET": lists.tags}),
    (re.compile(r"/v2/(.+)/referrers/([^/]+)"), {"GET": lists.referrers}),
]
_REFUSED = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}


def _registry(registry: StrictRegistry, ask: Ask) -> Answer:
    """Find the rule for a request, and follow it."""
    ask, rules = _route(ask)
    if registry.authorize and (refused := registry.authorize(ask.headers, ask.method, ask.repository)):
        status, headers = refused
        raise RefusalError(status, _REFUSED.get(status, "UNKNOWN"), "refused", headers=headers)
    if ask.path == "/v2/":
        return Answer(200, {"Content-Type": "application/json"}, b"{}")
    if rules is None:
        raise RefusalError(404, "UNSUPPORTED", "no such path", {"path": ask.path})
    if not _NAME.fullmatch(ask.repository) or len(ask.repository) > 255:
        raise RefusalError(400, "NAME_INVALID", "invalid repository name", {"name": ask.repository})
    if ask.method not in rules:
        raise RefusalError(405, "UNSUPPORTED", f"{ask.method} is unsupported", headers={"Allow": ", ".join(rules)})
    return rules[ask.method](registry, ask)


def _route(ask: Ask) -> tuple[Ask, Mapping[str, Rule] | None]:
    for pattern, rules in _ROUTES:
        if match := pattern.fullmatch(ask.path):
            return replace(ask, repository=match[1], target=match[2]), rules
    return ask, None


def _storage(registry: StrictRegistry, ask: Ask) -> Answer:
    """The object storage: a signed URL is enough, and more is wrong. Beside it lies the page for referrers."""
    if "Authorization" in ask.headers:
        return Answer(400, {"Content-Type": "application/xml"}, b"<Error><Code>InvalidArgument</Code></Error>")
    if ask.path.startswith("/-/"):
        return Answer(registry.mode.page_status, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>?</title>")
    repository, _, digest = ask.path[1:].rpartition("/blobs/")
    known = registry.repositories.get(repository)
    if not known or digest not in known.blobs or ask.query.get("signature") != "+signed=":
        return Answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    return blobs.content(registry, known.blobs[digest], ask, {})


class _Handler(BaseHTTPRequestHandler):
    """Reads a request whole, records it, answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: StrictRegistry
    record: list[Request]
    rule: Rule

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _serve(self) -> None:
        headers = {name.title(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        body = Body(cast("BinaryIO", self.rfile), headers)
        path, _, query = re.sub(r"^https?://[^/]+", "", self.path, count=1).partition("?")
        ask = Ask(self.command, unquote(path), headers, body, dict(parse_qsl(query, keep_blank_values=True)))
        try:
            answer = self._answer(ask)
        except BrokenError:
            answer = Answer(0)
            self.close_connection = True
        sent = len(answer.body) if self.command != "HEAD" else 0
        self.record.append(Request(self.command, self.path, answer.status, body.received, sent, headers))
        if answer.status:
            self._send(answer)

    def _answer(self, ask: Ask) -> Answer:
        try:
            answer = type(self).rule(self.registry, ask)
        except RefusalError as refusal:
            answer = refusal.answer
            if not self.registry.mode.drains and ask.body.length != 0:
                self.close_connection = True
                return answer
        except BrokenError:
            raise
        except Exception:  # noqa: BLE001  # a mistake in the double
            answer = Answer(500, {"Content-Type": "text/plain"}, traceback.format_exc().encode())
        for _ in ask.body.pieces():
            pass
        return answer

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers and answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve


class _Server(ThreadingHTTPServer):
    """A server on loopback that ends its connections when it ends."""

    request_queue_size = 128

    def __init__(self, handler: type[_Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """Stop listening, and end every connection."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _serving(registry: StrictRegistry, rule: Rule, record: list[Request]) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"registry": registry, "rule": staticmethod(rule), "record": record})
    server = _Server(handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.stop()


@contextlib.contextmanager
def strict_registry(
    mode: Mode = STRICT, *, authorize: Authorize | None = None, **switches: Any
) -> Iterator[StrictRegistry]:
    """A running registry without TLS, in this mode but for these switches of it."""
    registry = StrictRegistry(replace(mode, **switches), authorize)
    with (
        _serving(registry, _storage, registry.storage_requests) as registry.storage_address,
        _serving(registry, _registry, registry.requests) as registry.address,
    ):
        yield registry
