"""Requests and answers, as the rules see them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, cast

BUFFER = 1 << 20


class BrokenError(Exception):
    """The client went away in the middle of a body, or the connection was cut there."""


class Body:
    """The body of a request, read once, in pieces; `received` counts its bytes.

    `length` is None where it comes in chunks of HTTP, whose sum nobody knows before.
    """

    def __init__(self, stream: BinaryIO, headers: Mapping[str, str]) -> None:
        chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self.length = None if chunked else int(headers.get("Content-Length", "0"))
        self.received = 0
        self._stream = stream
        self._buffer = memoryview(b"")
        self._left = self._pieces()

    def pieces(self, cut: int | None = None) -> Iterator[memoryview]:
        """What is left of it, each piece valid until the next; with `cut`, broken after so many bytes."""
        for piece in self._left:
            if cut is not None and self.received + len(piece) > cut:
                piece = piece[: cut - self.received]
                self.received = cut
                yield piece
                raise BrokenError
            self.received += len(piece)
            yield piece

    def _pieces(self) -> Iterator[memoryview]:
        if self.length is not None:
            yield from self._exactly(self.length)
            return
        while size := int(self._line().partition(b";")[0], 16):
            yield from self._exactly(size)
            self._line()
        while self._line().strip():
            pass  # trailers

    def _exactly(self, size: int) -> Iterator[memoryview]:
        if len(self._buffer) < min(size, BUFFER):
            self._buffer = memoryview(bytearray(min(size, BUFFER)))
        while size:
            try:
                count = cast("int", self._stream.readinto1(self._buffer[:size]))  # type: ignore[attr-defined]
            except ConnectionError as error:
                raise BrokenError from error
            if not count:
                raise BrokenError
            size -= count
            yield self._buffer[:count]

    def _line(self) -> bytes:
        try:
            line = self._stream.readline(1 << 16)
        except ConnectionError as error:
            raise BrokenError from error
        if not line.endswith(b"\n"):
            raise BrokenError
        return line


@dataclass(frozen=True)
class Ask:
    """A request: `target` is the digest, tag or session that its path names; header names are Titled-Like-This."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    query: Mapping[str, str] = field(default_factory=dict)
    repository: str = ""
    target: str = ""


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""


class RefusalError(Exception):
    """An answer in the form that the specification gives to errors; one error for each detail."""

    def __init__(
        self, status: int, code: str, message: str, *details: object, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        errors = [{"code": code, "message": message, "detail": detail} for detail in details or [{}]]
        self.answer = json_answer(status, {"errors": errors}, headers)


def json_answer(status: int, document: object, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON document; `headers` may say another type."""
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode())
