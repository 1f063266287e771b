"""A way to a server on loopback that counts the bytes that come along it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Wire:
    """The address of the proxy, and the bytes that came from the server since `reset`."""

    address: str
    bytes_down: int = 0

    def reset(self) -> None:
        """Count from nothing."""
        self.bytes_down = 0


@contextlib.contextmanager
def counting_proxy(target: str) -> Iterator[Wire]:
    """A proxy to `target`, host and port."""
    host, _, port = target.partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(f"127.0.0.1:{listener.getsockname()[1]}")

    def pump(source: socket.socket, sink: socket.socket, *, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                wire.bytes_down += len(data) if counts else 0
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            up = threading.Thread(target=pump, args=(client, server), kwargs={"counts": False}, daemon=True)
            up.start()
            pump(server, client, counts=True)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            up.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield wire
    finally:
        listener.close()
