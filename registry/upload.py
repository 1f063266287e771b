"""One blob on its way into a repository: opened, sent in the registry's way, resumed where it broke, closed.

Distribution specification 1.1, "Pushing a blob monolithically" and "Pushing a blob in chunks". A registry reports the
offset that it has reached; it is believed only within what was sent. Where it reports none, the blob starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Protocol, Self, TypeVar

from registry.blob import CHUNK, PIECE, Blob, unchecked
from registry.descriptor import OCTETS, Digest
from registry.errors import ContentError, ResponseError, TransferError
from registry.profile import Habits, Way
from registry.retry import Patience
from registry.wire import Answer, Buffers

T = TypeVar("T")

_NOT_THIS_WAY = frozenset((400, 405, 411, 416, 501))
"""What registries answer to a PATCH that they do not take, or not so."""

_NOT_HERE = frozenset((404, 416))
"""What they answer in the middle of an upload of which they have lost the thread."""


@dataclass(frozen=True)
class Session:
    """An upload that a registry has opened: where it goes on, and the bytes that the registry has acknowledged."""

    location: str
    offset: int = 0
    least_chunk: int = 0


class Journal(Protocol):
    """Remembers open sessions beyond the end of the process."""

    def open_session(self, digest: Digest) -> Session | None:
        """The session of a blob that was not closed."""

    def keep(self, digest: Digest, session: Session | None) -> None:
        """Remember how far a session has come, or, with None, that it is over."""

    def close(self) -> None:
        """Let another process go on with what is open."""


class Channel(Protocol):
    """What an upload needs of its repository: requests that are logged in, and answers that are checked."""

    def start(self) -> Session:
        """Open a session."""

    def write(self, method: str, url: str, headers: dict[str, str], body: Buffers | bytes) -> Answer:
        """Send a PATCH or PUT; `ResponseError` unless the answer is 2xx. Never repeated."""

    def has(self, digest: Digest) -> bool:
        """Whether the repository has the blob."""

    def state(self, session: Session) -> Session | None:
        """How far the registry says a session has come; None if it has none."""

    def location(self, answer: Answer) -> str:
        """Where an answer says that the session goes on."""


@dataclass
class Upload:
    """Sends one blob; `habits` tell in which way, and learn from the answers."""

    blob: Blob
    channel: Channel
    habits: Habits
    journal: Journal
    patience: Patience
    _session: Session | None = None

    def run(self) -> None:
        """Send the blob; `ContentError` if the registry finds that its bytes are not those of its digest."""
        digest = self.blob.descriptor.digest
        self._session = self._left()
        with Outflow(self.blob, self._size) as outflow:
            while True:
                is_resumed = bool(self._session and self._session.offset)
                try:
                    self._send(outflow)
                    break
                except TransferError as error:
                    self._wait(error, is_resumed=is_resumed)
                if self.channel.has(digest):
                    break
                self._session = self._recovered()
        self.journal.keep(digest, None)

    @property
    def _size(self) -> int:
        return self.blob.descriptor.size

    def _left(self) -> Session | None:
        """The session that an earlier process left open, if the registry still has it and as far as we know it."""
        kept = self.journal.open_session(self.blob.descriptor.digest)
        session = self._asked(kept)
        if session:
            self._log(f"going on at byte {session.offset} of {self._size}")
        elif kept:
            self._log(f"what an earlier run sent is lost to this registry: it starts again at byte 0 of {self._size}")
        return session

    def _asked(self, kept: Session | None) -> Session | None:
        """What the registry says of a session, if that can be: what it acknowledged, and no more than was sent."""
        if kept is None or self.habits.way is Way.WHOLE:
            return None
        most = self._size if self.habits.way is Way.STREAM else min(kept.offset + self._step(kept), self._size)
        try:
            session = self.channel.state(kept)
        except TransferError:
            return None
        if session is None or session.offset == 0:
            return None  # `0-0` may mean one byte as well as none
        return session if kept.offset <= session.offset <= most else None

    def _send(self, outflow: Outflow) -> None:
        session = self._session = self._session or self.channel.start()
        is_small = self._size <= self._step(session) and not session.offset
        if is_small or self.habits.way is Way.WHOLE:
            return self._close(session, outflow.take(0, self._size), self._size)
        while session.offset < self._size:
            self._session = session
            self.journal.keep(self.blob.descriptor.digest, session)
            start, session = session.offset, self._patch(session, outflow)
            self.patience.moved(session.offset - start)
        self._session = session
        self._close(session, b"", 0)

    def _step(self, session: Session) -> int:
        return max(self.habits.chunk, session.least_chunk)

    def _log(self, text: str) -> None:
        self.patience.log(f"{self.blob.descriptor.digest}: {text}")

    def _patch(self, session: Session, outflow: Outflow) -> Session:
        """The session after one PATCH: of all that is left, or of a chunk."""
        is_ranged = self.habits.way is Way.CHUNKS
        end = min(session.offset + self._step(session), self._size) if is_ranged else self._size
        headers = {"Content-Type": OCTETS, "Content-Length": str(end - session.offset)}
        if is_ranged:
            headers["Content-Range"] = f"{session.offset}-{end - 1}"
        try:
            answer = self.channel.write("PATCH", session.location, headers, outflow.take(session.offset, end))
        except ResponseError as error:
            if error.status in _NOT_HERE and (session.offset or error.status == 404):
                error.passing()  # the blob starts again
            elif error.status in _NOT_THIS_WAY:
                self._learn(error)
            raise
        if answer.status != 202 or offset_of(answer) != end:
            raise self._learn(
                ResponseError(
                    "the registry took part of an upload, or says so",
                    subject=self.blob.descriptor.digest,
                    expected=f"202 and Range: 0-{end - 1}",
                    found=f"{answer.status} and Range: {answer.header('Range')[:100] or 'none'}",
                )
            )
        return replace(session, location=self.channel.location(answer), offset=end)

    def _learn(self, error: ResponseError) -> ResponseError:
        """A registry that does not take PATCHes as specified gets one PUT from now on."""
        if self.habits.way is not Way.WHOLE:
            ways = f"{self.habits.way.value}, so from now on it gets {Way.WHOLE.value}"
            self._log(f"this registry does not take {ways} ({error.found})")
            self.habits.way = Way.WHOLE
        return error.passing()

    def _close(self, session: Session, body: Buffers | bytes, size: int) -> None:
        url = f"{session.location}{'&' if '?' in session.location else '?'}digest={self.blob.descriptor.digest}"
        headers = {"Content-Type": OCTETS, "Content-Length": str(size)}
        try:
            self.channel.write("PUT", url, headers, body)
        except ResponseError as error:
            if error.status == 400 and "DIGEST_INVALID" in str(error.found):
                raise self._disputed(error) from error
            if error.status in _NOT_HERE:
                error.passing()  # the blob starts again
            raise

    def _disputed(self, error: ResponseError) -> ContentError:
        return ContentError(
            "the registry received other bytes than those of this digest",
            subject=error.subject,
            expected=self.blob.descriptor.digest,
            found=error.found,
            hint="the file changed while it was read, or something between here and the registry changes what passes",
        )

    def _wait(self, error: TransferError, *, is_resumed: bool) -> None:
        """Be patient with an error that may pass, and raise any other."""
        if isinstance(error, ContentError) and is_resumed:
            # an earlier process may have sent something else; without that, a disputed digest is final
            self._session = None
            error.passing()
        self.patience.wait(error)

    def _recovered(self) -> Session | None:
        """The session that broke, as far as the registry has it; None if the blob starts again."""
        kept, session = self._session, self._asked(self._session)
        if session is None:
            self.journal.keep(self.blob.descriptor.digest, None)
            if kept:
                self._log(f"the registry cannot go on with it: it starts again at byte 0 of {self._size}")
        elif kept and session.offset > kept.offset:
            self.patience.moved(session.offset - kept.offset)
            self._log(f"going on at byte {session.offset} of {self._size}")
        return session


def offset_of(answer: Answer) -> int | None:
    """The bytes that a `Range: 0-END` says have arrived; None if there is none. `0-0` is no byte, or one."""
    first, dash, last = answer.header("Range").removeprefix("bytes=").partition("-")
    if first != "0" or not dash or not last.isascii() or not last.isdigit() or len(last) > 18:
        return None
    return int(last) + 1 if int(last) else 0


def _local(action: Callable[[], T]) -> T:
    """The result of reading what is sent; a file that cannot be read is not the network's fault."""
    try:
        return action()
    except OSError as error:
        raise TransferError(
            f"a file cannot be read ({error.strerror or error})", subject=str(error.filename or "")
        ) from error


class Outflow:
    """The bytes of a blob, piece by piece, from the offset that the registry asks for; one buffer for all."""

    def __init__(self, blob: Blob, size: int) -> None:
        self._blob, self._size = blob, size
        self._stream: BinaryIO | None = None
        self._position = 0
        self._buffer = bytearray(min(PIECE, max(size, 1)))

    def take(self, start: int, end: int) -> Iterator[memoryview]:
        """The bytes from `start` up to `end`, each piece valid until the next one is asked for."""
        self._go(start)
        assert self._stream
        view = memoryview(self._buffer)
        while self._position < end:
            count = _local(partial(self._stream.readinto, view[: end - self._position]))  # type: ignore[attr-defined]
            if not count:
                raise ContentError(
                    "the content ended early while it was sent",
                    subject=self._blob.descriptor.digest,
                    expected=f"{self._size} bytes",
                    found=f"{self._position} bytes",
                )
            self._position += count
            yield view[:count]

    def _go(self, start: int) -> None:
        """Stand at an offset: by a jump where the stream can, else by reading on, from the front if need be."""
        if self._stream and self._position == start:
            return
        if self._stream is None or not self._stream.seekable():
            self.close()
            # the registry checks what it takes: to do it here too would cost as much as all the rest
            self._stream, self._position = _local(unchecked(self._blob).open), 0
        if self._stream.seekable():
            self._position = self._stream.seek(start)
        while self._position < start:
            for _ in self.take(self._position, min(self._position + CHUNK, start)):
                pass

    def close(self) -> None:
        """Close the stream."""
        if self._stream:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
