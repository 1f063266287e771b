"""A way to a server on loopback that counts the bytes that come along it, and spoils what it is told to spoil."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Wire:
    """The address of the proxy, and the bytes that came from the server since `reset`.

    With `drops_range` the server never sees a Range, and answers as one that ignores it. Each number in `cuts` ends one
    connection after so many bytes from the server.
    """

    address: str
    bytes_down: int = 0
    drops_range: bool = False
    cuts: list[int] = field(default_factory=list)

    def reset(self) -> None:
        """Count from nothing."""
        self.bytes_down = 0

    def passed(self, data: bytes) -> bytes:
        """What of the server's bytes goes on; less than all is the end of the connection."""
        if self.cuts:
            data = data[: self.cuts.pop(0)]
        self.bytes_down += len(data)
        return data

    def asked(self, data: bytes) -> bytes:
        """What of the client's bytes goes on."""
        return data.replace(b"\r\nRange: ", b"\r\nX-Dropped: ") if self.drops_range else data


@contextlib.contextmanager
def counting_proxy(target: str) -> Iterator[Wire]:
    """A proxy to `target`, host and port."""
    host, _, port = target.partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(f"127.0.0.1:{listener.getsockname()[1]}")

    def up(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(wire.asked(data))
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def down(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                passed = wire.passed(data)
                client.sendall(passed)
                if len(passed) < len(data):
                    break
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            sender = threading.Thread(target=up, args=(client, server), daemon=True)
            sender.start()
            down(server, client)
            sender.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield wire
    finally:
        listener.close()
