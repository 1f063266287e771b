"""Watching a build without any stage knowing: events when stages start and finish, and bytes as they are read.

`Run` calls a stage. The blobs of the snapshot that `fetch` returns are wrapped, so that whoever reads them is counted;
a store is wrapped when it is given to a stage, so that what it has already counts too; a source that downloads is told
whom to tell.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar, cast

from containers.artifact import Artifact
from formats.checkpoint import Checkpoint
from formats.snapshot import Snapshot
from packer.hub import HubSource
from registry.blob import Blob
from registry.descriptor import Descriptor
from registry.folder import Folder
from registry.manifest import Index, Manifest
from registry.store import Release, Store

P = ParamSpec("P")
T = TypeVar("T")
Advance = Callable[[int], None]

_STILL = frozenset(("shard", "merge"))
"""Stages that move no bytes, whatever they are given."""


class Listener(Protocol):
    """Whoever is told about the build."""

    def started(self, stage: str, size: int | None) -> None:
        """A stage begins; it will move about `size` bytes, if that is known."""

    def expected(self, size: int) -> None:
        """The current stage has found out that it will move about `size` bytes."""

    def advanced(self, count: int) -> None:
        """The current stage has moved `count` more bytes."""

    def finished(self, stage: str, facts: dict[str, Any]) -> None:
        """The stage is done; `facts` are JSON values about its result."""


@dataclass(frozen=True)
class Run:
    """Calls stages and tells a listener."""

    listener: Listener

    def __call__(self, name: str, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `stage(*args)`, watched."""
        sizes = (size for arg in args if name not in _STILL and (size := _size(arg)) is not None)
        self.listener.started(name, next(sizes, None))
        result = stage(*map(self._watched, args), **kwargs)  # type: ignore[arg-type]
        self.listener.finished(name, facts(result))
        if isinstance(result, Snapshot):
            return cast(T, result.map(lambda blob: Counted(blob, self.listener.advanced)))
        return result

    def _watched(self, value: object) -> object:
        match value:
            case Store():
                return WatchedStore(value, self.listener.advanced)
            case HubSource():
                return replace(value, meter=self.listener)
            case Folder():
                return replace(value, advance=self.listener.advanced)
            case _:
                return value


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

    def push(self, blob: Blob) -> bool:
        """The inner store's; a blob that was present counts whole."""
        sent = self.inner.push(blob)
        if not sent:
            self.advance(blob.descriptor.size)
        return sent

    def put(self, manifest: Manifest | Index) -> bool:
        """The inner store's."""
        return self.inner.put(manifest)

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """The inner store's."""
        return self.inner.tag(manifest, tag)


def facts(result: object) -> dict[str, Any]:
    """What is told about the result of a stage, as JSON values. Sizes are in bytes."""
    match result:
        case Snapshot():
            return {"origin": asdict(result.origin), "files": len(result.files), "bytes": result.size}
        case Checkpoint():
            return _checkpoint_facts(result)
        case Artifact():
            return _artifact_facts(result)
        case Release():
            return asdict(result)
        case list():
            return {"files": [{"path": str(path), "bytes": path.stat().st_size} for path in result]}
        case _:
            return {}


def _checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    weights = [file for file in checkpoint.snapshot.files if file.name in checkpoint.weights]
    return {
        "tensors": len(checkpoint.tensors),
        **checkpoint.card.to_json(),
        "weights": [{"path": file.name, "bytes": file.size} for file in weights],
        "warnings": [finding.to_json() for finding in checkpoint.findings],
    }


def _artifact_facts(artifact: Artifact) -> dict[str, Any]:
    image = artifact.image
    layers = [blob.descriptor for blob in artifact.blobs()]
    return {
        "image": image.root.descriptor.digest,
        "modelpack": artifact.modelpack.root.descriptor.digest if artifact.modelpack else None,
        "platforms": [str(entry.platform) for entry in image.root.manifests] if isinstance(image.root, Index) else [],
        "blobs": [{"digest": layer.digest, "bytes": layer.size, "mediaType": layer.media_type} for layer in layers],
        "bytes": sum(layer.size for layer in layers),
    }


def _size(value: object) -> int | None:
    match value:
        case Checkpoint():
            return value.snapshot.size
        case Manifest():
            return sum(layer.size for layer in value.layers)
        case Artifact():
            return sum(blob.descriptor.size for blob in value.blobs())
        case _:
            return None
