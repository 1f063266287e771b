"""Watching a build without any stage knowing: events when stages start and finish, and bytes as they are read.

`Run` calls a stage. The blobs of the snapshot that `fetch` returns are wrapped, so that whoever reads them is counted;
a store is wrapped when it is given to a stage, so that what it has already counts too; a source that downloads is told
whom to tell.

What is told and wrapped is decided by type, in one function each, to which others add: what only a build needs stands
in `packer/facts.py`, so that a command that moves blobs imports nothing of models.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import singledispatch
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar, cast

from registry.blob import Blob
from registry.descriptor import Descriptor, Digest
from registry.folder import Folder
from registry.manifest import Index, Manifest
from registry.outcome import Outcome
from registry.store import Store, Traffic
from registry.transfer import Cargo

P = ParamSpec("P")
T = TypeVar("T")
Advance = Callable[[int], None]

_STILL = frozenset(("shard", "merge", "evaluate"))
"""Stages that move no bytes, whatever they are given."""


class Listener(Protocol):
    """Whoever is told about the build."""

    def started(self, stage: str, size: int | None) -> None:
        """A stage begins; it will move about `size` bytes, if that is known."""

    def expected(self, size: int) -> None:
        """The current stage has found out that it will move about `size` bytes."""

    def advanced(self, count: int) -> None:
        """The current stage has moved `count` more bytes."""

    def noted(self, text: str) -> None:
        """Something happened that a user may want to know: what is tried again, and why."""

    def finished(self, stage: str, facts: dict[str, Any]) -> None:
        """The stage is done; `facts` are JSON values about its result."""


@dataclass(frozen=True)
class Run:
    """Calls stages and tells a listener."""

    listener: Listener

    def __call__(self, name: str, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `stage(*args)`, watched."""
        sizes = (size for arg in args if name not in _STILL and (size := size_of(arg)) is not None)
        self.listener.started(name, next(sizes, None))
        result = stage(*(watched(arg, self.listener) for arg in args), **kwargs)
        self.listener.finished(name, facts(result))
        return cast(T, watched_result(result, self.listener))


@singledispatch
def watched(value: Any, listener: Listener) -> Any:
    """What a stage is given in place of a value, so that a listener is told; the value itself, mostly."""
    return WatchedStore(value, listener.advanced) if isinstance(value, Store) else value


@singledispatch
def watched_result(result: Any, listener: Listener) -> Any:  # noqa: ARG001 - others need it
    """What a stage's result is replaced by, so that a listener is told when it is used; mostly the result itself."""
    return result


@singledispatch
def size_of(value: object) -> int | None:  # noqa: ARG001 - nothing is known of most
    """The bytes that a stage will move because of a value; None for most."""
    return None


@singledispatch
def facts(result: object) -> dict[str, Any]:  # noqa: ARG001 - nothing is told of most
    """What is told about the result of a stage, as JSON values. Sizes are in bytes."""
    return {}


@watched.register
def _(value: Cargo, listener: Listener) -> Cargo:
    return value.map(lambda blob: Counted(blob, listener.advanced))


@watched.register
def _(value: Folder, listener: Listener) -> Folder:
    return replace(value, advance=listener.advanced)


@size_of.register
def _(value: Cargo) -> int:
    return value.size


@size_of.register
def _(value: Manifest) -> int:
    return sum(layer.size for layer in value.layers)


@facts.register
def _(result: Traffic) -> dict[str, Any]:
    return asdict(result)


@facts.register
def _(result: list) -> dict[str, Any]:  # type: ignore[type-arg]
    return {"files": [{"path": str(path), "bytes": path.stat().st_size} for path in result]}


@dataclass(frozen=True)
class Counted:
    """A blob that tells how much of it has been read."""

    inner: Blob
    advance: Advance

    @property
    def descriptor(self) -> Descriptor:
        """The inner blob's."""
        return self.inner.descriptor

    def open(self) -> BinaryIO:
        """A counting stream over the same bytes."""
        return cast(BinaryIO, _CountingReader(self.inner.open(), self.advance))


class _CountingReader(io.RawIOBase):
    def __init__(self, stream: BinaryIO, advance: Advance) -> None:
        super().__init__()
        self._stream, self._advance = stream, advance

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._advance(len(data))
        return data

    def readinto(self, buffer: object) -> int:
        count: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._advance(count)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


@dataclass(frozen=True)
class WatchedStore:
    """A store that tells how much of the blobs it is given has been dealt with."""

    inner: Store
    advance: Advance

    def resolve(self, name: str) -> Manifest | Index:
        """The inner store's."""
        return self.inner.resolve(name)

    def blob(self, descriptor: Descriptor) -> Blob:
        """The inner store's, counted."""
        return Counted(self.inner.blob(descriptor), self.advance)

    def ranged(self, descriptor: Descriptor) -> Blob:
        """The inner store's."""
        return self.inner.ranged(descriptor)

    def span(self, descriptor: Descriptor, start: int, end: int) -> BinaryIO:
        """The inner store's, counted."""
        return cast(BinaryIO, _CountingReader(self.inner.span(descriptor, start, end), self.advance))

    def takes_ranges(self, descriptor: Descriptor) -> bool:
        """The inner store's."""
        return self.inner.takes_ranges(descriptor)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """The inner store's."""
        return self.inner.referrers(digest)

    def tags(self) -> list[str]:
        """The inner store's."""
        return self.inner.tags()

    def reserve(self, blobs: Iterable[Descriptor]) -> None:
        """The inner store's."""
        self.inner.reserve(blobs)

    def push(self, blob: Blob) -> Outcome:
        """The inner store's; a blob that was not sent counts whole."""
        outcome = self.inner.push(blob)
        if outcome is not Outcome.SENT:
            self.advance(blob.descriptor.size)
        return outcome

    def foresee(self, digest: Digest) -> Outcome:
        """The inner store's."""
        return self.inner.foresee(digest)

    @property
    def max_layer(self) -> int | None:
        """The inner store's."""
        return self.inner.max_layer

    def put(self, manifest: Manifest | Index) -> bool:
        """The inner store's."""
        return self.inner.put(manifest)

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """The inner store's."""
        return self.inner.tag(manifest, tag)
