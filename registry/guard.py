"""Connections on which no server keeps us for ever or fills our memory: urllib3's, with a guard at the socket.

Left to itself, `http.client` waits for as long as a byte comes now and then, passes over any number of provisional
answers, trailers and extensions of chunks, and takes a chunk of a negative size for all that is still to come.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

MAX_HEAD = 1 << 20
"""Bytes of an answer before its body, with provisional answers; around a body, those that are none of its content."""

LEAST_PACE = 1 << 10
"""Bytes that must come in a second of waiting, on average over as long as a server may be silent."""


def guarded(manager: urllib3.PoolManager, silence: float) -> urllib3.PoolManager:
    """The manager, whose connections are watched from now on. `silence` is in seconds.

    A piece of a request must be gone, and bytes must come, within that time; in it, `LEAST_PACE` must be kept.
    """

    class Answer(_Answer):
        seconds = silence

    class Plain(HTTPConnection):
        response_class = Answer

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(silence)  # the time to connect is over

    class Safe(HTTPSConnection):
        response_class = Answer

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(silence)

    plain = type("HTTPConnectionPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": Plain})
    safe = type("HTTPSConnectionPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": Safe})
    manager.pool_classes_by_scheme = {"http": plain, "https": safe}
    return manager


class _Answer(http.client.HTTPResponse):
    """An answer that is read through a guard."""

    seconds = 0.0

    def __init__(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
        super().__init__(sock, *arguments, **more)
        self._guard = _Guard(self.fp.detach(), self.seconds)
        self.fp = _Forward(self._guard)

    def read(self, amt: int | None = None) -> bytes:
        """At most `amt` bytes; no more than as many again, and `MAX_HEAD`, may come around them."""
        if amt is not None:
            self._guard.allow(2 * amt + MAX_HEAD)
        return super().read(amt)


class _Forward(io.BufferedReader):
    """A stream that is never read to its end at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise OSError("the server says that a piece of its answer has a negative size")
        return super().read(size)


class _Guard(io.RawIOBase):
    """What comes from a socket: not too slowly, and not more than was allowed."""

    def __init__(self, raw: io.RawIOBase, seconds: float) -> None:
        super().__init__()
        self._raw, self._seconds = raw, seconds
        self._left, self._came = MAX_HEAD, 0
        self._waited: float | None = None  # the first byte may take as long as a server may be silent

    def allow(self, count: int) -> None:
        """From now on, `count` bytes more may come."""
        self._left = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise OSError("the server sends too much around its answer")
        began = time.monotonic()
        count: int = self._raw.readinto(memoryview(buffer)[: self._left]) or 0
        self._left -= count
        self._came += count
        self._waited = 0.0 if self._waited is None else self._waited + time.monotonic() - began
        if count and self._waited > self._seconds:
            self._check()
        return count

    def _check(self) -> None:
        if self._came < LEAST_PACE * self._seconds:
            raise OSError(f"the server sends less than {LEAST_PACE} bytes in a second")
        self._waited, self._came = 0.0, 0

    def close(self) -> None:
        self._raw.close()
        super().close()
