"""A folder with the OCI image layout, as a store.

Image specification 1.1, `image-layout.md`. Every file is written under a temporary name, made
read-only and renamed when it is whole, so a killed build leaves nothing that lies about its digest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import IO, Any, BinaryIO

from registry.blob import CHUNK, Blob, CheckedBlob, FileBlob, verified
from registry.descriptor import INDEX, Descriptor, Digest
from registry.disk import require_free
from registry.errors import ContentError, NotFoundError, UsageError
from registry.join import JoinedBlob, Region
from registry.manifest import MAX_MANIFEST, Index, Manifest, decode, encode, parse_json_object
from registry.outcome import Outcome
from registry.referrers import entry_of

_TAG = "org.opencontainers.image.ref.name"
_PARTIAL = ".partial-"
"""How the names of files begin that are being written; the writer holds a lock on each."""

_ABANDONED = 60
"""Seconds after which a file that nobody holds is taken for abandoned."""

_SPACE = "free some space; what is written stays and is not written again"
_AT_MOST = f"at most {MAX_MANIFEST} bytes"
_MARKER = {"imageLayoutVersion": "1.0.0"}


class Layout:
    """Blobs, manifests and tags in one folder; made when first written to."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._is_swept, self._lock = folder, False, Lock()

    def resolve(self, name: str) -> Manifest | Index:
        """The manifest under a tag or digest."""
        if name.startswith("sha256:"):
            path = self._path(Digest(name))
            return self._manifest(Descriptor("", Digest(name), path.stat().st_size if path.exists() else 0))
        for entry in self._entries():
            if _tag_of(entry) == name:
                return self._manifest(Descriptor.from_json(entry))
        if not (self._folder / "index.json").exists():
            raise NotFoundError("there is no OCI layout here", subject=str(self._folder), hint="check the path")
        raise NotFoundError(
            f"there is no tag {name!r} in this layout",
            subject=str(self._folder),
            found=", ".join(sorted(self.tags())) or "no tags",
            hint=f"name one of them: oci:{self._folder}:TAG",
        )

    def tags(self) -> list[str]:
        """The tags of the layout; `NotFoundError` if there is none."""
        if not (self._folder / "oci-layout").exists():
            raise NotFoundError("there is no OCI layout here", subject=str(self._folder), hint="check the path")
        return [tag for entry in self._entries() if (tag := _tag_of(entry))]

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """The manifests of the layout's index whose subject is `digest`."""
        found = [self._manifest(Descriptor.from_json(entry)) for entry in self._entries()]
        about = [manifest for manifest in found if manifest.subject and manifest.subject.digest == digest]
        return tuple({manifest.descriptor.digest: entry_of(manifest) for manifest in about}.values())

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor."""
        path = self._path(descriptor.digest)
        return CheckedBlob(_LayoutBlob(path, descriptor), str(path))

    def ranged(self, descriptor: Descriptor) -> Blob:
        """The file of a blob as it lies, not checked against its digest."""
        path = self._path(descriptor.digest)
        if not path.exists() or path.stat().st_size != descriptor.size:
            raise NotFoundError("this blob is not in the layout, or not whole", subject=str(path))
        return FileBlob.at(path)

    def span(self, descriptor: Descriptor, start: int, end: int) -> BinaryIO:
        """The bytes from `start` up to `end` of a blob's file, not checked."""
        return JoinedBlob((Region(self.ranged(descriptor), start, end - start),)).open()

    def takes_ranges(self, descriptor: Descriptor) -> bool:
        """Where the blob is there: it is a file."""
        return self._path(descriptor.digest).exists()

    def reserve(self, blobs: Iterable[Descriptor]) -> None:
        """Look whether there is room on the disk for what is not there; `SpaceError` if not."""
        missing = {blob.digest: blob.size for blob in blobs if not self._path(blob.digest).exists()}
        require_free(self._folder, sum(missing.values()), _SPACE)

    def push(self, blob: Blob) -> Outcome:
        """Write the blob, checking it against its descriptor on the way; the disk is looked at first."""
        path = self._path(blob.descriptor.digest)
        if path.exists() and path.stat().st_size == blob.descriptor.size:
            return Outcome.PRESENT
        self._make()
        require_free(self._folder, blob.descriptor.size, _SPACE)
        with verified(blob.open(), blob.descriptor, f"oci:{self._folder}") as source, _whole_file(path) as target:
            shutil.copyfileobj(source, target, CHUNK)
        return Outcome.SENT

    def foresee(self, digest: Digest) -> Outcome:
        """What `push` would do about a blob."""
        return Outcome.PRESENT if self._path(digest).exists() else Outcome.SENT

    @property
    def max_layer(self) -> int | None:
        """No limit."""
        return None

    def put(self, manifest: Manifest | Index) -> bool:
        """Write the manifest as a blob; a referrer, which no tag leads to, also into the layout's index."""
        is_new = bool(self.push(manifest))
        return (self._list(manifest.descriptor.to_json()) or is_new) if manifest.subject else is_new

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """Point a tag at a manifest, by replacing `index.json` in one step."""
        return self._list(replace(manifest.descriptor, annotations={_TAG: tag}).to_json())

    def _list(self, entry: dict[str, Any]) -> bool:
        """Have an entry in the index, in place of another one with its tag; False if it was there."""
        with self._locked():
            entries = self._entries()
            if entry in entries:
                return False
            others = [other for other in entries if not _tag_of(entry) or _tag_of(other) != _tag_of(entry)]
            document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*others, entry]}
            if len(encode(document)) > MAX_MANIFEST:
                raise UsageError(
                    "this layout holds too many tags", subject=str(self._folder), expected=_AT_MOST, hint="name another"
                )
            self._write_json("index.json", document)
        return True

    def _path(self, digest: Digest) -> Path:
        algorithm, _, digits = digest.partition(":")
        return self._folder / "blobs" / algorithm / digits

    def _manifest(self, descriptor: Descriptor) -> Manifest | Index:
        origin = f"oci:{self._folder}@{descriptor.digest}"
        if descriptor.size > MAX_MANIFEST:
            raise ContentError("this manifest is too large", subject=origin, expected=_AT_MOST)
        with self.blob(descriptor).open() as stream:
            return decode(stream.read(), origin)

    def _entries(self) -> list[dict[str, Any]]:
        index = self._folder / "index.json"
        if not index.exists():
            if self._folder.exists() and any(self._folder.iterdir()) and not (self._folder / "oci-layout").exists():
                raise UsageError(
                    "this folder is not an OCI layout", subject=str(self._folder), hint="name an empty or a new folder"
                )
            return []
        with index.open("rb") as file:
            data = file.read(MAX_MANIFEST + 1)
        if len(data) > MAX_MANIFEST:
            raise ContentError("the layout's index is too large", subject=str(index), expected=_AT_MOST)
        entries = parse_json_object(data, str(index)).get("manifests")
        if not isinstance(entries, list):
            raise ContentError("the layout's index holds no list of manifests", subject=str(index))
        for entry in entries:
            Descriptor.from_json(entry)
        return entries

    def _make(self) -> None:
        with self._lock:
            self._make_alone()

    def _make_alone(self) -> None:
        is_new = not (self._folder / "oci-layout").exists()
        if is_new:
            self._entries()  # refuses a folder that is something else
        (self._folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if is_new:
            self._write_json("oci-layout", _MARKER)
        if not self._is_swept:
            self._is_swept = True
            _remove_abandoned(self._folder)

    def _write_json(self, name: str, document: object) -> None:
        with _whole_file(self._folder / name, mode=0o644) as file:
            file.write(encode(document))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._make()
        with (self._folder / "oci-layout").open("rb") as marker:
            fcntl.flock(marker, fcntl.LOCK_EX)
            yield


def _tag_of(entry: dict[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(_TAG, ""))


@dataclass(frozen=True)
class _LayoutBlob:
    """The file of a blob as it lies, checked by nobody."""

    path: Path
    descriptor: Descriptor

    def open(self) -> BinaryIO:
        try:
            return FileBlob.at(self.path).open()
        except FileNotFoundError as error:
            raise NotFoundError(
                "this blob is not in the layout",
                subject=str(self.path),
                expected=self.descriptor.digest,
                hint="the layout is not whole: make it again",
            ) from error


@contextmanager
def _whole_file(path: Path, mode: int = 0o444) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block ends well."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_PARTIAL, delete=False) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed process left: half-written files that nobody holds, a minute old at least."""
    for path in folder.rglob(f"{_PARTIAL}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _ABANDONED:
                    path.unlink()
            finally:
                os.close(descriptor)
