"""Blobs on their way to files: in parts, side by side, hashed as they come, and gone on with after a kill.

A part that follows what is hashed already is hashed while it is written; one that came early is read back when its turn
comes. What is whole is noted beside the files, so that the next run fetches the rest alone. A blob whose digest is
wrong in the end is fetched once more if some of it came from an earlier run, and is refused otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO, Protocol, Self

from registry.blob import CHUNK, FileBlob
from registry.descriptor import Descriptor
from registry.errors import ContentError
from registry.folder import open_own
from registry.join import JoinedBlob, Region
from registry.parallel import Step, run_steps
from registry.store import Source

PART_SIZE = 32 << 20
"""Bytes of one request, where a blob comes in parts."""

MAX_LOOSE = 1 << 20
"""Bytes that go to no file, such as headers of a tar, which are kept until they are hashed."""


@dataclass(frozen=True)
class Slot:
    """`length` bytes of a blob from the byte `start` on, which go to a file from the byte `at` on."""

    start: int
    length: int
    path: Path
    at: int = 0


class Job(Protocol):
    """Something that is done in steps, several of which may be under way at once."""

    def next(self) -> Step | None:
        """The next step to begin; None if none is left."""


def run_jobs(jobs: Sequence[Job], workers: int) -> None:
    """Do all jobs, `workers` steps at a time, those begun least first. The first failure stops all."""
    lock = Lock()
    running = [0] * len(jobs)
    left = set(range(len(jobs)))

    def following() -> Step | None:
        with lock:
            for number in sorted(left, key=lambda number: (running[number], number)):
                if step := jobs[number].next():
                    running[number] += 1
                    return lambda stop: done(number, step, stop)
                left.discard(number)
            return None

    def done(number: int, step: Step, stop: Event) -> None:
        step(stop)
        with lock:
            running[number] -= 1

    run_steps(following, workers)


@dataclass
class Download:
    """One blob into its slots, which lie in order and do not overlap. `note` is the file that says what is whole.

    When all steps are done, the bytes are in the files and hashed; whether they are right, `verify` says. Whoever gives
    the files their names has to see to it that they are on the disk.
    """

    source: Source
    descriptor: Descriptor
    slots: tuple[Slot, ...]
    note: Path
    origin: str
    in_parts: bool = True
    _lock: Lock = field(default_factory=Lock)
    _hash: Any = field(default_factory=hashlib.sha256)
    _hashed: int = 0
    _hashing: bool = False
    _begun: int = 0
    _whole: set[int] = field(default_factory=set)
    _loose: dict[int, bytes] = field(default_factory=dict)
    _resumed: bool = False

    def __post_init__(self) -> None:
        self._starts = [slot.start for slot in self.slots]
        self._resume()

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self.descriptor.size - sum(end - start for start, end in map(self._range, self._whole))

    def next(self) -> Step | None:
        """The next part to fetch, or, where an earlier run left nothing to fetch, to verify."""
        with self._lock:
            while self._begun in self._whole:
                self._begun += 1
            if self._begun < self._count:
                number, self._begun = self._begun, self._begun + 1
                return lambda stop: self._fetch(number, stop)
            if self._hashed < self._count and self._begun == self._count and len(self._whole) == self._count:
                self._begun += 1
                return lambda _: self._advance()
            return None

    @property
    def _step(self) -> int:
        return PART_SIZE if self.in_parts else max(self.descriptor.size, 1)

    @property
    def _count(self) -> int:
        return max(-(-self.descriptor.size // self._step), 1)

    def _range(self, number: int) -> tuple[int, int]:
        return number * self._step, min((number + 1) * self._step, self.descriptor.size)

    def _fetch(self, number: int, stop: Event) -> None:
        start, end = self._range(number)
        with self._lock:
            follows = number == self._hashed and not self._hashing
            self._hashing |= follows
            hasher = self._hash.copy() if follows else None
        try:
            whole = self._write(start, end, hasher, stop)
        finally:
            if follows:
                with self._lock:
                    self._hashing = False
        if not whole:
            return
        with self._lock:
            self._whole.add(number)
            self._keep(number)
            if hasher:
                self._hash, self._hashed = hasher, number + 1
        self._advance()

    def _write(self, start: int, end: int, hasher: Any, stop: Event) -> bool:
        """Write a part to its slots; False if it was time to stop."""
        at = start
        with closing(self.source.span(self.descriptor, start, end)) as stream, _Files() as files:
            while at < end:
                piece = stream.read(min(CHUNK, end - at))
                if stop.is_set():
                    return False
                if not piece:
                    raise ContentError(
                        "the content ended early", subject=self.origin, expected=f"{end - at} bytes more"
                    )
                if hasher:
                    hasher.update(piece)
                self._place(at, piece, files)
                at += len(piece)
        return True

    def _place(self, start: int, piece: bytes, files: _Files) -> None:
        view = memoryview(piece)
        for kind, low, high in self._pieces(start, start + len(piece)):
            part = view[low - start : high - start]
            if kind is None:
                with self._lock:
                    self._loose[low] = bytes(part)
            else:
                files.write(kind.path, part, kind.at + low - kind.start)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[Slot | None, int, int]]:
        """What lies between two bytes of the blob: runs that go to a slot, and those that go to none."""
        at = start
        first, last = bisect_right(self._starts, start), bisect_left(self._starts, end)
        for slot in self.slots[max(first - 1, 0) : last]:
            low, high = max(slot.start, at), min(slot.start + slot.length, end)
            if low >= high:
                continue
            if at < low:
                yield None, at, low
            yield slot, low, high
            at = high
        if at < end:
            yield None, at, end

    def _advance(self) -> None:
        """Hash what has come in order by now; the last to do so verifies the whole."""
        while True:
            with self._lock:
                if self._hashing or self._hashed not in self._whole:
                    return
                self._hashing, number = True, self._hashed
            for piece in self._read_back(*self._range(number)):
                self._hash.update(piece)
            with self._lock:
                self._hashing, self._hashed = False, number + 1

    def _read_back(self, start: int, end: int) -> Iterator[bytes]:
        for slot, low, high in self._pieces(start, end):
            if slot is None:
                yield self._between(low, high)
                continue
            with slot.path.open("rb") as file:
                file.seek(slot.at + low - slot.start)
                left = high - low
                while left and (piece := file.read(min(CHUNK, left))):
                    left -= len(piece)
                    yield piece

    def _between(self, low: int, high: int) -> bytes:
        """Bytes that go to no file, which came in pieces. What a note lacks are zeros: the digest will tell."""
        joined = bytearray()
        while len(joined) < high - low:
            joined += self._loose.get(low + len(joined)) or bytes(high - low - len(joined))
        return bytes(joined)

    def content(self) -> BinaryIO:
        """A stream, which can seek, over what `verify` has found right: the files, and what goes to none."""
        parts = (
            Region(FileBlob.at(slot.path), slot.at + low - slot.start, high - low) if slot else self._between(low, high)
            for slot, low, high in self._pieces(0, self.descriptor.size)
        )
        return JoinedBlob.of(parts).open()

    def verify(self) -> bool:
        """Whether the whole is what the descriptor promises. False if an earlier run's part may be to blame.

        Then the steps are to be done again, from the front. `ContentError` if there is nobody else to blame.
        """
        found = f"sha256:{self._hash.hexdigest()}"
        if self._hashed == self._count and found == self.descriptor.digest:
            return True
        self.note.unlink(missing_ok=True)
        if not self._resumed:
            raise ContentError(
                "the content is not what its descriptor promises",
                subject=self.origin,
                expected=self.descriptor.digest,
                found=found,
                hint="the copy is damaged or was tampered with; nothing of it was kept",
            )
        self._hash, self._hashed, self._begun, self._resumed = hashlib.sha256(), 0, 0, False
        self._whole.clear()
        self._loose.clear()
        return False

    # ---------------------------------------------------------------- what outlasts a kill

    def _layout(self) -> list[Any]:
        slots = [[slot.start, slot.length, slot.path.name, slot.at] for slot in self.slots]
        return [self.descriptor.digest, self._step, slots]

    def _keep(self, number: int) -> None:
        start, end = self._range(number)
        loose = {at: piece.hex() for at, piece in self._loose.items() if start <= at < end}
        with os.fdopen(open_own(self.note, os.O_WRONLY | os.O_APPEND), "a") as file:
            if not file.tell():
                file.write(json.dumps(self._layout()) + "\n")
            file.write(json.dumps([number, loose]) + "\n")

    def _resume(self) -> None:
        """Take up what an earlier run noted, if it was about the same; whether it is true, the digest will tell."""
        try:
            first, *rest = self.note.read_text().split("\n")
            if json.loads(first) != json.loads(json.dumps(self._layout())):
                raise ValueError("about something else")
            for line in rest[:-1]:  # a line without its end was being written when the kill came
                number, loose = json.loads(line)
                self._whole.add(int(number))
                self._loose |= {int(at): bytes.fromhex(piece) for at, piece in loose.items()}
            if not all(0 <= number < self._count for number in self._whole):
                raise ValueError("parts that are none")
            self._resumed = bool(self._whole)
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            self.note.unlink(missing_ok=True)
            self._whole.clear()
            self._loose.clear()


class _Files:
    """Files that are written at offsets, opened when first needed."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def write(self, path: Path, data: memoryview, at: int) -> None:
        """Write all of `data` from the byte `at` on."""
        if path not in self._open:
            self._open[path] = open_own(path, mode=0o600)
        while data:
            count = os.pwrite(self._open[path], data, at)
            data, at = data[count:], at + count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
