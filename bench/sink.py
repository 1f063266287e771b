"""A registry that takes everything, keeps nothing and counts: `python -m bench.sink` prints its address.

The sockets throw away what arrives (MSG_TRUNC, tcp(7)), so that it costs as little as a receiver can. GET /count
answers how many bytes came as bodies.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from io import RawIOBase

_PIECE = 1 << 22
_LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
_HOST = re.compile(rb"(?im)^host: *(\S+)")
_RANGE = re.compile(rb"(?im)^content-range: *\d+-(\d+)")


class Counter:
    """How many bytes came."""

    def __init__(self) -> None:
        self.bytes, self._lock = 0, threading.Lock()

    def add(self, count: int) -> None:
        """Count more."""
        with self._lock:
            self.bytes += count


def answer(method: bytes, path: bytes, head: bytes, length: int, count: int) -> tuple[bytes, bytes]:
    """The status with its headers, and the body, for a request whose body has been taken."""
    if path == b"/count":
        return b"200 OK", str(count).encode()
    if method in (b"HEAD", b"GET"):
        return b"200 OK" if path == b"/v2/" else b"404 Not Found", b""
    if method == b"PUT":
        return b"201 Created", b""
    ranged = _RANGE.search(head)
    last = int(ranged[1]) if ranged else max(length - 1, 0)
    host = _HOST.search(head)
    place = b"http://%b%b" % (host[1] if host else b"", path.partition(b"/uploads/")[0])
    return b"202 Accepted\r\nLocation: %b/uploads/1?state=1\r\nRange: 0-%d" % (place, last), b""


def serve(connection: socket.socket, counter: Counter) -> None:
    """Answer the requests of a connection until its end."""
    buffer = bytearray(_PIECE)
    with connection, connection.makefile("rb", buffering=0) as stream, suppress(OSError):
        while head := _head(stream):
            method, path, _ = head.split(b" ", 2)
            found = _LENGTH.search(head)
            length = left = int(found[1]) if found else 0
            while left and (count := connection.recv_into(buffer, min(left, _PIECE), socket.MSG_TRUNC)):
                left -= count
            counter.add(length - left)
            status, body = answer(method, path, head, length, counter.bytes)
            connection.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


def _head(stream: RawIOBase) -> bytes:
    """A request's first line and headers; nothing beyond them is read."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (piece := stream.read(1)):
            return b""
        head += piece
    return head


def main() -> None:
    """Listen until the end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print("{}:{}".format(*listener.getsockname()), flush=True)
    counter = Counter()
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection, counter), daemon=True).start()


if __name__ == "__main__":
    main()
