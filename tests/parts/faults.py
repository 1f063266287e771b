"""A proxy on loopback that does to requests and answers, by a seed, what networks and registries do on a bad day.

It passes bodies on as they come, changes nothing that it was not told to spoil, and keeps connections alive.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, get_args

Kind = Literal[
    "reset",
    "stall",
    "delay",
    "truncate",
    "429",
    "429-after",
    "500",
    "502",
    "range-header",
    "range-whole",
    "range-bytes",
]
Place = Literal["request", "between", "answer"]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""A connection that is reset; bytes that stand still; an answer that is late; one whose body ends early; answers in the
server's place, with Retry-After and without; and, for a request with Range, the wrong Content-Range, a 200 with all,
other bytes of the right length."""

_PLACES: dict[Kind, tuple[Place, ...]] = {
    "reset": ("request", "between", "answer"),
    "stall": ("request", "between", "answer"),
    "delay": ("between",),
    "429": ("request",),
    "429-after": ("request",),
    "500": ("request", "between"),
    "502": ("request", "between"),
    "range-whole": ("request",),
}
_REASONS = {"429": "Too Many Requests", "500": "Internal Server Error", "502": "Bad Gateway"}
_TOO_MANY = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}'
_COMPLEMENT = bytes(reversed(range(256)))
_PIECE = 1 << 18
_LINGER = 1.0


@dataclass(frozen=True)
class Fault:
    """What was done to one request, and where.

    In the `request`: before it was passed on, or inside its body. `between`: the server has done what was asked, and
    the client got nothing of its answer. In the `answer`: inside its body.
    """

    kind: Kind
    method: str
    path: str
    place: Place


@dataclass
class Faults:
    """What a proxy does: to `rate` of the requests, 0 to 1, one of `kinds`, the same for a seed and a request's number.

    A stall lasts `stall` seconds, a delay `delay`. There are none after `limit` faults, nor where `where` says no to a
    method and a path. `done` tells them in their order, `requests` the method and path of all that came.
    """

    seed: int
    rate: float
    kinds: Sequence[Kind] = KINDS
    stall: float = 3
    delay: float = 0.2
    retry_after: int = 1
    limit: int | None = None
    where: Callable[[str, str], bool] = lambda _method, _path: True
    done: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def plan(self, method: str, path: str, *, ranged: bool) -> Plan | None:
        """What is to happen to the next request; nothing is done yet."""
        with self._lock:
            chance = Random(f"{self.seed} {len(self.requests)}")
            self.requests.append((method, path))
            spent = self.limit is not None and len(self.done) >= self.limit
        kinds = [kind for kind in self.kinds if _fits(kind, method, ranged=ranged)]
        if chance.random() >= self.rate or spent or not kinds or not self.where(method, path):
            return None
        kind = chance.choice(kinds)
        place = chance.choice(_PLACES.get(kind, ("answer",)))
        return Plan(Fault(kind, method, path, place), chance.random(), at_once=chance.random() < 0.5)


@dataclass(frozen=True)
class Plan:
    """A fault that may come: how far into a body, 0 to 1, and whether an answer comes before the request is read."""

    fault: Fault
    depth: float
    at_once: bool

    @property
    def kind(self) -> Kind:
        """The fault's kind."""
        return self.fault.kind

    @property
    def place(self) -> Place:
        """The fault's place."""
        return self.fault.place


@contextlib.contextmanager
def fault_proxy(target: str, faults: Faults) -> Iterator[str]:
    """The address of a proxy to `target`, host and port, which does those faults."""
    server = _Server(target, faults)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.stop()
        server.server_close()


def _fits(kind: Kind, method: str, *, ranged: bool) -> bool:
    if kind.startswith("range"):
        return ranged and method == "GET"
    return kind != "truncate" or method != "HEAD"


class _ResetError(Exception):
    """The client's connection is to be reset."""


class _CutError(Exception):
    """The client's connection is to be closed, with less than was promised."""


class _Server(socketserver.ThreadingTCPServer):
    """Accepts connections, and can end all of them."""

    request_queue_size = 128
    daemon_threads = False

    def __init__(self, target: str, faults: Faults) -> None:
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.faults = faults
        self.stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    @contextlib.contextmanager
    def keeping(self, connection: socket.socket) -> Iterator[_Stream]:
        """A connection that `stop` ends."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(connection)
            if self.stopped.is_set():
                _shut(connection)
        try:
            yield _Stream(connection)
        finally:
            with self._lock:
                self._open.discard(connection)

    def stop(self) -> None:
        """End every connection, and what waits in it."""
        self.stopped.set()
        with self._lock:
            for connection in self._open:
                _shut(connection)


class _Stream:
    """A connection, read by heads and by pieces of bodies."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.connection.sendall(data)

    def head(self) -> _Head | None:
        """The next head; none where the other side has ended."""
        try:
            return _Head(list(self._lines()))
        except ConnectionError:
            return None

    def body(self, head: _Head, size: int | None) -> Iterator[bytes]:
        """A body as it comes, with its framing; without a size and not chunked it ends with the connection."""
        if size is not None:
            yield from self._exactly(size)
        elif head.chunked:
            yield from self._chunks()
        else:
            while piece := self._piece(_PIECE):
                yield piece

    def _chunks(self) -> Iterator[bytes]:
        size = 1
        while size:
            line = self._line()
            yield line
            size = int(line.split(b";")[0], 16)
            yield from self._exactly(size + 2 if size else 0)
        yield from self._lines()

    def _lines(self) -> Iterator[bytes]:
        """Lines up to an empty one, and that."""
        while (line := self._line()).strip():
            yield line
        yield line

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._piece(min(size, _PIECE))
            if not piece:
                raise ConnectionError
            size -= len(piece)
            yield piece

    def _piece(self, size: int) -> bytes:
        if not self._buffer:
            self._buffer = self.connection.recv(_PIECE)
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            more = self.connection.recv(_PIECE)
            if not more:
                raise ConnectionError
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"


@dataclass(frozen=True)
class _Head:
    """The lines of a request or an answer before its body, as they came."""

    lines: list[bytes]

    @property
    def words(self) -> list[str]:
        """The words of the first line."""
        return self.lines[0].decode("latin-1").split()

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self.value("Transfer-Encoding").lower()

    @property
    def last(self) -> bool:
        """Whether the connection ends after this."""
        return "close" in self.value("Connection").lower() or "HTTP/1.0" in self.words

    @property
    def data(self) -> bytes:
        """The bytes."""
        return b"".join(self.lines)

    def value(self, name: str) -> str:
        """The value of a header, or nothing."""
        start = name.lower().encode() + b":"
        return next((line[len(start) :].decode("latin-1").strip() for line in self.lines if _starts(line, start)), "")

    def having(self, name: str, value: str | None) -> _Head:
        """The same with a header's value replaced, or without the header."""
        start = name.lower().encode() + b":"
        new = [] if value is None else [f"{name}: {value}\r\n".encode()]
        return _Head([part for line in self.lines for part in (new if _starts(line, start) else [line])])

    def request_size(self) -> int | None:
        """The bytes of a request's body; none where it comes in chunks."""
        return None if self.chunked else int(self.value("Content-Length") or 0)

    def answer_size(self, method: str) -> int | None:
        """The bytes of an answer's body; none where that is not known."""
        if method == "HEAD" or self.words[1] in ("204", "304"):
            return 0
        length = self.value("Content-Length")
        return int(length) if length and not self.chunked else None


class _Connection(socketserver.BaseRequestHandler):
    """One client's connection, and its own to the server."""

    server: _Server

    def handle(self) -> None:
        """Pass requests on until either side ends."""
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, _CutError):
            client = stack.enter_context(self.server.keeping(self.request))
            connection = stack.enter_context(socket.create_connection(self.server.target))
            server = stack.enter_context(self.server.keeping(connection))
            try:
                while (head := client.head()) and _Exchange(self.server, client, server, head).run():
                    pass
            except _ResetError:
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.request.close()


class _Exchange:
    """One request and its answer."""

    def __init__(self, proxy: _Server, client: _Stream, server: _Stream, head: _Head) -> None:
        self._proxy, self._client, self._server, self._head = proxy, client, server, head
        self._method, self._path = head.words[:2]
        self._plan = proxy.faults.plan(self._method, self._path, ranged=bool(head.value("Range")))
        self._reset = False
        self._deaf = 0.0

    def run(self) -> bool:
        """Do it; whether the client's connection can go on."""
        if self._due("request", *_REASONS, "429-after"):
            return self._refuse()
        if not self._has_body and self._due("request", "reset", "stall"):
            self._strike("request")
        whole = self._due("request", "range-whole")
        self._server.send((self._head.having("Range", None) if whole else self._head).data)
        upload = threading.Thread(target=self._upload)
        upload.start()
        try:
            goes_on = self._answer(upload)
        finally:
            self._end(upload)
        if self._reset:
            raise _ResetError
        return goes_on

    @property
    def _has_body(self) -> bool:
        return self._head.request_size() != 0

    def _due(self, place: Place, *kinds: str) -> bool:
        return self._plan is not None and self._plan.place == place and self._plan.kind in kinds

    def _strike(self, place: Place) -> None:
        """Do the planned fault here."""
        assert self._plan
        kind, faults = self._plan.kind, self._proxy.faults
        self._did(place)
        if kind in ("stall", "delay"):
            self._proxy.stopped.wait(faults.stall if kind == "stall" else faults.delay)
        else:
            raise _CutError if kind == "truncate" else _ResetError

    def _did(self, place: Place) -> None:
        assert self._plan
        self._proxy.faults.done.append(replace(self._plan.fault, place=place))

    def _refuse(self) -> bool:
        """Answer in the server's place, after the request's body or before it, and then for the last time."""
        assert self._plan
        body = self._client.body(self._head, self._head.request_size())
        at_once = self._plan.at_once and self._has_body
        if not at_once:
            _pour(body)
        self._did("request")
        self._client.send(self._instead(last=at_once))
        if at_once:
            self._leave(body)
        return not at_once and not self._head.last

    def _leave(self, body: Iterator[bytes]) -> None:
        """End our side, and let the client's come for a while, so that the answer is not lost."""
        self._client.connection.shutdown(socket.SHUT_WR)
        self._client.connection.settimeout(_LINGER)
        _pour(body, _LINGER)

    def _instead(self, *, last: bool) -> bytes:
        assert self._plan
        status, _, after = self._plan.kind.partition("-")
        body = _TOO_MANY if status == "429" else f"<html>{_REASONS[status]}</html>".encode()
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Length: {len(body)}"]
        lines += [f"Content-Type: {'application/json' if status == '429' else 'text/html'}"]
        lines += [f"Retry-After: {self._proxy.faults.retry_after}"] if after else []
        lines += ["Connection: close"] if last else []
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if self._method == "HEAD" else body)

    def _upload(self) -> None:
        """Pass the request's body on, in a thread of its own, as an answer may come before its end."""
        size = self._head.request_size()
        struck = self._has_body and self._due("request", "reset", "stall")
        body = self._client.body(self._head, size)
        try:
            _pump(body, self._up, self._depth(size) if struck else None, lambda: self._strike("request"))
        except _ResetError:
            self._reset = True
            _shut(self._server.connection)
        except OSError:  # the client has left
            _shut(self._server.connection)
        except _CutError:
            pass

    def _up(self, piece: bytes) -> None:
        """Pass a piece on; to nobody, for a while, where the server listens no more, so that its answer is not lost."""
        try:
            if not self._deaf:
                self._server.send(piece)
        except OSError:
            self._deaf = time.monotonic() + _LINGER
        if self._deaf and time.monotonic() > self._deaf:
            raise _CutError

    def _depth(self, size: int | None) -> int:
        assert self._plan
        return int(self._plan.depth * (1 << 20 if size is None else size))

    def _answer(self, upload: threading.Thread) -> bool:
        answer = self._server.head()
        while answer and answer.words[1].startswith("1"):
            self._client.send(answer.data)
            answer = self._server.head()
        if not answer or self._reset:
            return False
        size = answer.answer_size(self._method)
        if self._due("between", *_REASONS):
            return self._replace(answer, size, upload)
        if self._due("between", "reset", "stall", "delay") or (size == 0 and self._due("answer", "reset", "stall")):
            upload.join()
            self._strike("between")
        self._pass(answer, size)
        if answer.last or self._head.last or (size is None and not answer.chunked):
            self._client.connection.shutdown(socket.SHUT_WR)
            upload.join(_LINGER)
            return False
        upload.join()
        return True

    def _replace(self, answer: _Head, size: int | None, upload: threading.Thread) -> bool:
        """Answer that it failed, though the server has done it."""
        upload.join()
        _pour(self._server.body(answer, size))
        self._did("between")
        self._client.send(self._instead(last=answer.last))
        return not answer.last and not self._head.last

    def _pass(self, answer: _Head, size: int | None) -> None:
        """Pass an answer on, or what is to come of it."""
        told, partial = answer.value("Content-Range"), answer.words[1] == "206"
        change: Callable[[bytes], bytes] = bytes
        if told and partial and self._due("answer", "range-header"):
            self._did("answer")
            answer = answer.having("Content-Range", _other_range(told))
        elif size and partial and self._due("answer", "range-bytes"):
            self._did("answer")
            change = _complement
        elif answer.words[1] == "200" and self._due("request", "range-whole"):
            self._did("request")
        self._client.send(answer.data)
        at = self._depth(size) if size != 0 and self._due("answer", "reset", "stall", "truncate") else None
        body = self._server.body(answer, size)
        _pump(body, lambda piece: self._client.send(change(piece)), at, lambda: self._strike("answer"))

    def _end(self, upload: threading.Thread) -> None:
        """Let nothing of the upload be left."""
        if upload.is_alive():
            _shut(self._server.connection)
            with contextlib.suppress(OSError):
                self._client.connection.shutdown(socket.SHUT_RD)
            upload.join()


def _pump(pieces: Iterator[bytes], send: Callable[[bytes], None], at: int | None, strike: Callable[[], None]) -> None:
    """Send pieces, and strike after exactly so many bytes, or at the end of fewer."""
    sent = 0
    for piece in pieces:
        if at is not None and sent + len(piece) > at:
            send(piece[: at - sent])
            strike()
            send(piece[at - sent :])
            at = None
        else:
            send(piece)
        sent += len(piece)
    if at is not None:
        strike()


def _pour(pieces: Iterator[bytes], seconds: float = math.inf) -> None:
    """Read pieces to their end, or for so long."""
    end = time.monotonic() + seconds
    for _ in pieces:
        if time.monotonic() > end:
            break


def _complement(data: bytes) -> bytes:
    return data.translate(_COMPLEMENT)


def _starts(line: bytes, start: bytes) -> bool:
    return line[: len(start)].lower() == start


def _other_range(told: str) -> str:
    """Another Content-Range of as many bytes: one further, one nearer, or of more in all."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", told)
    assert found, told
    start, end, size = map(int, found.groups())
    step = 1 if end + 1 < size else -1 if start else 0
    return f"bytes {start + step}-{end + step}/{size if step else size + 1}"


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
