"""A small API server of Kubernetes on loopback, strict in what it takes, and with bad days on demand.

It stands for a cluster, which no test machine has: there is no image of one that runs without more rights and memory
than tests have here. What is here follows the API's concepts (https://kubernetes.io/docs/reference/using-api/
api-concepts/): names, uids, resource versions, conflicts, selectors, watches with bookmarks and versions that are gone,
and errors as `Status`. Who asks is known by a token, and may do what the Role says that we ship, and no more. It speaks
HTTP; a kubeconfig leads to it.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

from tests.parts.tekton_judge import judge

Document = dict[str, Any]

KINDS = {"pipelineruns": ("tekton.dev", "v1", "PipelineRun"), "taskruns": ("tekton.dev", "v1", "TaskRun")}
_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[a-z0-9.]+)/(?P<version>v1))"
    r"/namespaces/(?P<namespace>[a-z0-9-]+)/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_KEY = re.compile(r"(?:(?=.{1,253}/)[a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    @property
    def status(self) -> Document:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": _REASONS.get(self.code, "InternalError"),
            "code": self.code,
        }


@dataclass
class KubeApi:
    """What the server holds, and what it is told to do wrong.

    `rules` are those of the Role, `asked` every verb and resource that was asked for and allowed. `faults` are statuses
    that the next requests get whatever they are; `dropped` says how many watches break off in the middle.
    """

    namespace: str
    rules: list[Document]
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    asked: list[tuple[str, str]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    dropped: int = 0
    bookmarks: int = 0
    gone: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    _objects: dict[tuple[str, str], Document] = field(default_factory=dict)
    _events: list[tuple[int, str, str, Document]] = field(default_factory=list)
    _version: int = 1000
    _oldest: int = 1000
    _is_over: bool = False

    # what tests and their controllers do, who have all rights

    def put(self, plural: str, document: Document) -> Document:
        """Create or replace an object."""
        with self.changed:
            meta = document.setdefault("metadata", {})
            meta.setdefault("namespace", self.namespace)
            meta.setdefault("uid", str(uuid.uuid4()))
            meta.setdefault("creationTimestamp", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
            is_new = (plural, meta["name"]) not in self._objects
            return self._keep(plural, "ADDED" if is_new else "MODIFIED", document)

    def status(self, plural: str, name: str, status: Document) -> None:
        """Set the status of an object, as a controller does."""
        with self.changed:
            self._keep(plural, "MODIFIED", {**self._objects[plural, name], "status": status})

    def delete(self, plural: str, name: str) -> None:
        """Remove an object."""
        with self.changed:
            self._keep(plural, "DELETED", self._objects[plural, name])
            del self._objects[plural, name]

    def all(self, plural: str) -> list[Document]:
        """The objects of a kind."""
        with self.changed:
            return [copy.deepcopy(one) for (kind, _), one in sorted(self._objects.items()) if kind == plural]

    def forget(self) -> None:
        """Have no versions any more but the newest, as after a compaction; watches end."""
        with self.changed:
            self._version += 1
            self._oldest = self._version
            self._events.clear()
            self.changed.notify_all()

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with self.changed:
            assert self.changed.wait_for(is_so, timeout=60)

    def stop(self) -> None:
        """End all watches."""
        with self.changed:
            self._is_over = True
            self.changed.notify_all()

    def _keep(self, plural: str, what: str, document: Document) -> Document:
        self._version += 1
        found = copy.deepcopy(document)
        found["metadata"]["resourceVersion"] = str(self._version)
        self._objects[plural, found["metadata"]["name"]] = found
        self._events.append((self._version, what, plural, copy.deepcopy(found)))
        self.changed.notify_all()
        return copy.deepcopy(found)

    # what is asked from outside

    def allow(self, verb: str, group: str, plural: str, namespace: str) -> None:
        """Raise unless the Role lets the account do that."""
        allowed = namespace == self.namespace and any(
            group in rule["apiGroups"] and plural in rule["resources"] and verb in rule["verbs"] for rule in self.rules
        )
        if not allowed:
            user = f"system:serviceaccount:{self.namespace}:packer-listener"
            place = f'API group "{group}" in the namespace "{namespace}"'
            raise Refused(
                403, f'{plural}.{group} is forbidden: User "{user}" cannot {verb} resource "{plural}" in {place}'
            )
        self.asked.append((verb, plural))

    def create(self, plural: str, namespace: str, document: Document) -> Document:
        """A new object, if it is one that a cluster takes."""
        group, version, kind = KINDS[plural]
        if (document.get("apiVersion"), document.get("kind")) != (f"{group}/{version}", kind):
            raise Refused(400, f"the object provided is unrecognized: {document.get('apiVersion')}")
        meta = document.get("metadata", {})
        if meta.get("namespace", namespace) != namespace:
            raise Refused(400, "the namespace of the provided object does not match the namespace sent on the request")
        if meta.get("resourceVersion"):
            raise Refused(400, "resourceVersion should not be set on objects to be created")
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"][:58] + secrets.token_hex(3)[:5]
        self._require_valid(plural, document)
        with self.changed:
            if (plural, meta["name"]) in self._objects:
                raise Refused(409, f'{plural}.{group} "{meta["name"]}" already exists')
            document.pop("status", None)
            return self.put(plural, document)

    def _require_valid(self, plural: str, document: Document) -> None:
        meta = document["metadata"]
        name = str(meta.get("name", ""))
        if not _NAME.fullmatch(name):
            raise Refused(422, f'{plural} "{name}" is invalid: metadata.name: Invalid value: a lowercase RFC 1123 name')
        for key, value in meta.get("labels", {}).items():
            if not (_KEY.fullmatch(key) and _VALUE.fullmatch(value)):
                raise Refused(422, f'{plural} "{name}" is invalid: metadata.labels: Invalid value: "{key}={value}"')
        if len(name) > 63:  # Tekton's webhook: it becomes the value of a label
            raise Refused(400, f'admission webhook "validation.webhook.pipeline.tekton.dev" denied the request: {name}')
        try:
            judge(document)
        except jsonschema.ValidationError as error:
            raise Refused(400, f"strict decoding error: {error.message[:300]}") from error

    def listed(self, plural: str, chosen: Callable[[Document], bool]) -> Document:
        """A list of the objects that are chosen."""
        with self.changed:
            items = [one for one in self.all(plural) if chosen(one)]
            group, version, kind = KINDS[plural]
            meta = {"resourceVersion": str(self._version)}
            return {"apiVersion": f"{group}/{version}", "kind": f"{kind}List", "metadata": meta, "items": items}

    def watched(
        self, plural: str, chosen: Callable[[Document], bool], since: str, seconds: float, *, bookmarks: bool
    ) -> Iterator[Document]:
        """What happens after a version, until the time is over; with a bookmark at the end for who wants one."""
        if not since.isdecimal() and since:
            raise Refused(400, f"invalid resource version: {since}")
        if int(since or 0) > self._version:
            raise Refused(504, f"Too large resource version: {since}, current: {self._version}")
        return self._watched(plural, chosen, int(since or 0), seconds, bookmarks=bookmarks)

    def _watched(
        self, plural: str, chosen: Callable[[Document], bool], seen: int, seconds: float, *, bookmarks: bool
    ) -> Iterator[Document]:
        end = time.monotonic() + seconds
        group, version, kind = KINDS[plural]
        if not seen:
            listed = self.listed(plural, chosen)
            yield from ({"type": "ADDED", "object": one} for one in listed["items"])
            seen = int(listed["metadata"]["resourceVersion"])
        while True:
            with self.changed:
                if seen < self._oldest:
                    self.gone += 1
                    yield {"type": "ERROR", "object": Refused(410, f"too old resource version: {seen}").status}
                    return
                news = [event for event in self._events if event[0] > seen]
                if not news:
                    is_woken = self.changed.wait(timeout=max(0.0, end - time.monotonic()))
                    if self._is_over or not is_woken:
                        break
                    continue
            for number, what, of, document in news:
                seen = number
                if of == plural and chosen(document):
                    yield {"type": what, "object": document}
        if bookmarks:
            self.bookmarks += 1
            meta = {"resourceVersion": str(seen), "creationTimestamp": None}
            yield {
                "type": "BOOKMARK",
                "object": {"kind": kind, "apiVersion": f"{group}/{version}", "metadata": meta, "spec": {}},
            }

    def config_map(self, name: str) -> Document:
        """A ConfigMap by its name."""
        with self.changed:
            if found := self._objects.get(("configmaps", name)):
                return copy.deepcopy(found)
        raise Refused(404, f'configmaps "{name}" not found')


def _selector(text: str, fields: str) -> Callable[[Document], bool]:
    """What the selectors of a request choose; equality alone."""
    labels = [part.split("=", 1) for part in text.split(",") if part]
    if any(len(pair) != 2 or not _KEY.fullmatch(pair[0]) or not _VALUE.fullmatch(pair[1]) for pair in labels):
        raise Refused(400, f"unable to parse requirement: {text}")
    places = [part.split("=", 1) for part in fields.split(",") if part]
    if wrong := [pair[0] for pair in places if pair[0] not in ("metadata.name", "metadata.namespace")]:
        raise Refused(400, f"field label not supported: {wrong[0]}")

    def chosen(document: Document) -> bool:
        meta = document["metadata"]
        has_labels = all(meta.get("labels", {}).get(key) == value for key, value in labels)
        return has_labels and all(meta[key.partition(".")[2]] == value for key, value in places)

    return chosen


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubeApi

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    do_PATCH = do_DELETE = do_PUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that the base gives it
        pass

    def _answer(self, method: str) -> None:
        try:
            self._asked(method)
        except Refused as error:
            self._send(error.code, error.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _asked(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") not in (f"Bearer {self.api.token}", f"bearer {self.api.token}"):
            raise Refused(401, "Unauthorized")
        if self.api.faults:
            raise Refused(self.api.faults.pop(0), "the server is having a bad day")
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        at = _PATH.fullmatch(url.path)
        if not at or (at["plural"] not in KINDS and at["plural"] != "configmaps"):
            raise Refused(404, "the server could not find the requested resource")
        group, plural, namespace, name = at["group"] or "", at["plural"], at["namespace"], at["name"]
        if (group == "") != (plural == "configmaps") or (group and group != KINDS[plural][0]):
            raise Refused(404, "the server could not find the requested resource")
        watches = query.get("watch", "").lower() in ("true", "1")
        verb = "create" if method == "POST" else "get" if name else "watch" if watches else "list"
        if method not in ("GET", "POST") or (method == "POST" and name):
            raise Refused(405, "the server does not allow this method on the requested resource")
        self.api.allow(verb, group, plural, namespace)
        self._do(verb, plural, namespace, name, query, body)

    def _do(self, verb: str, plural: str, namespace: str, name: str, query: Mapping[str, str], body: bytes) -> None:
        chosen = _selector(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if verb == "create":
            self._send(201, self.api.create(plural, namespace, json.loads(body)))
        elif verb == "get":
            if plural != "configmaps":
                raise Refused(404, f'{plural} "{name}" not found')
            self._send(200, self.api.config_map(name))
        elif verb == "list":
            self._send(200, self.api.listed(plural, chosen))
        else:
            bookmarks = query.get("allowWatchBookmarks", "").lower() == "true"
            seconds = float(query.get("timeoutSeconds", 1800))
            since = query.get("resourceVersion", "")
            self._stream(self.api.watched(plural, chosen, since, seconds, bookmarks=bookmarks))

    def _send(self, code: int, document: Document) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[Document]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in events:
            data = json.dumps(event).encode() + b"\n"
            if self.api.dropped:
                self.api.dropped -= 1
                self.wfile.write(f"{len(data):x}\r\n".encode() + data[: len(data) // 2])
                self.close_connection = True
                return
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def role(manifest: Path) -> list[Document]:
    """The rules of the one Role in a file of manifests, which a RoleBinding there gives to a ServiceAccount there."""
    documents = [one for one in yaml.safe_load_all(manifest.read_text()) if one]
    by_kind = {one["kind"]: one for one in documents}
    binding, account = by_kind["RoleBinding"], by_kind["ServiceAccount"]["metadata"]
    assert binding["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account}]
    rules: list[Document] = by_kind["Role"]["rules"]
    return rules


@contextmanager
def kube_api(namespace: str, rules: list[Document], folder: Path) -> Iterator[tuple[KubeApi, Path]]:
    """A running server, and a kubeconfig that leads to it."""
    api = KubeApi(namespace, rules)
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api, kubeconfig(folder / "kubeconfig", server.server_port, api.token)
    finally:
        api.stop()
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(path: Path, port: int, token: str) -> Path:
    """A kubeconfig for a server on loopback."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(document))
    return path
