"""The server: uvicorn with bounds on what a connection may take.

Heads have `MAX_HEAD` bytes, and come within `HEAD` seconds; bodies within `BODY`; who reads nothing for `STUCK` seconds
is cut. Addresses are not logged: some of them are secret.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from registry.errors import UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

HEAD = 10.0
"""Seconds for the head of a request, from when the connection is free for it."""

BODY = 20.0
"""Seconds for a body: more than what an answer waits for, so that it can say that it took too long."""

STUCK = 30.0
"""Seconds that an answer waits for its reader."""

MAX_HEAD = 16 << 10
"""Bytes of a request's head."""

MAX_CONNECTIONS = 500
"""At once; who comes then is told to come again (503)."""

_LEAVING = 5
"""Seconds for answers that are on their way when the server stops."""

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Serves an application at an address; port 0 is one that is free."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app, self._host, self._port = app, host, port

    @contextmanager
    def running(self) -> Iterator[int]:
        """Serves, in a thread, while the block runs, which gets the port; `UsageError` if it cannot be had."""
        with _bound(self._host, self._port) as listening:
            server = _Uvicorn(_config(self._app))
            thread = Thread(target=server.run, args=([listening],), name="web")
            thread.start()
            try:
                server.await_start(thread)
                yield int(listening.getsockname()[1])
            finally:
                server.should_exit = True
                thread.join()


def _bound(host: str, port: int) -> socket.socket:
    both = host in {"", "::"} and socket.has_dualstack_ipv6()
    try:
        if both:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        family, *_, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        what = f"nothing can listen there: {(error.strerror or str(error)).partition(' (')[0]}"
        raise UsageError(what, subject=f"listen: {host}:{port}", hint="another port, or port 0") from error


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Bounded,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=_LEAVING,
    )


class _Uvicorn(uvicorn.Server):
    """Tells the application that it ends before it waits for the answers that are under way."""

    def await_start(self, thread: Thread) -> None:
        """Return when connections are taken."""
        while not self.started:
            thread.join(0.01)
            if not thread.is_alive():
                raise UsageError("the server did not start")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.changes.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


class Bounded(H11Protocol):
    """A connection whose sender, and whose reader, has no more than its time."""

    _phase: Any = None
    _timer: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time for the first head begins."""
        super().connection_made(transport)
        # asyncio does so only for sockets whose protocol it is told; else answers wait 40 ms for an acknowledgement
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes came; a mistake of theirs when the answer is under way ends the connection."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            self.transport.abort()
        self._watch()

    def on_response_complete(self) -> None:
        """An answer is written; the time for the next head begins."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        super().connection_lost(exc)
        self.resume_writing()
        if self._timer:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """Its reader does not keep up."""
        super().pause_writing()
        self._stuck = self.loop.call_later(STUCK, self.transport.abort)

    def resume_writing(self) -> None:
        """Its reader does."""
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()
            self._stuck = None

    def _watch(self) -> None:
        """Start the time of what is waited for; it does not start again with each byte."""
        phase = self.conn.their_state
        if phase is self._phase or self.transport.is_closing():
            return
        self._phase = phase
        if self._timer:
            self._timer.cancel()
        limit = {h11.IDLE: HEAD, h11.SEND_BODY: BODY}.get(phase)
        self._timer = self.loop.call_later(limit, self._expire) if limit else None

    def _expire(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(_TOO_SLOW)
            self.transport.close()
        else:
            self.transport.abort()
