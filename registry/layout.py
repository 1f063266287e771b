"""A folder with the OCI image layout, as a store.

Image specification 1.1, `image-layout.md`. Every file is written under a temporary name, made
read-only and renamed when it is whole, so a killed build leaves nothing that lies about its digest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from registry.blob import CHUNK, Blob, FileBlob, verified
from registry.descriptor import INDEX, Descriptor, Digest
from registry.disk import require_free
from registry.errors import ContentError, NotFoundError, UsageError
from registry.manifest import MAX_MANIFEST, Index, Manifest, decode, encode, parse_json_object

_TAG = "org.opencontainers.image.ref.name"
_MARKER = {"imageLayoutVersion": "1.0.0"}


class Layout:
    """Blobs, manifests and tags in one folder; made when first written to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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
        """The tags of the layout."""
        return [tag for entry in self._entries() if (tag := _tag_of(entry))]

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob of a descriptor."""
        return _LayoutBlob(self._path(descriptor.digest), descriptor)

    def ranged(self, descriptor: Descriptor) -> Blob:
        """The file of a blob as it lies, not checked against its digest."""
        path = self._path(descriptor.digest)
        if not path.exists() or path.stat().st_size != descriptor.size:
            raise NotFoundError("this blob is not in the layout, or not whole", subject=str(path))
        return FileBlob.at(path)

    def push(self, blob: Blob) -> bool:
        """Write the blob, checking it against its descriptor on the way; the disk is looked at first."""
        path = self._path(blob.descriptor.digest)
        if path.exists() and path.stat().st_size == blob.descriptor.size:
            return False
        self._make()
        require_free(
            self._folder, blob.descriptor.size, "free some space; what is written stays and is not written again"
        )
        with verified(blob.open(), blob.descriptor, f"oci:{self._folder}") as source, _whole_file(path) as target:
            shutil.copyfileobj(source, target, CHUNK)
        return True

    def put(self, manifest: Manifest | Index) -> bool:
        """Write the manifest as a blob."""
        return self.push(manifest)

    def tag(self, manifest: Manifest | Index, tag: str) -> bool:
        """Point a tag at a manifest, by replacing `index.json` in one step."""
        entry = replace(manifest.descriptor, annotations={_TAG: tag}).to_json()
        with self._locked():
            entries = self._entries()
            others = [other for other in entries if _tag_of(other) != tag]
            if entry in entries:
                return False
            document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*others, entry]}
            self._write_json("index.json", document)
        return True

    def _path(self, digest: Digest) -> Path:
        algorithm, _, digits = digest.partition(":")
        return self._folder / "blobs" / algorithm / digits

    def _manifest(self, descriptor: Descriptor) -> Manifest | Index:
        origin = f"oci:{self._folder}@{descriptor.digest}"
        if descriptor.size > MAX_MANIFEST:
            raise ContentError("this manifest is too large", subject=origin, expected=f"at most {MAX_MANIFEST} bytes")
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
        entries = parse_json_object(index.read_bytes(), str(index)).get("manifests")
        if not isinstance(entries, list):
            raise ContentError("the layout's index holds no list of manifests", subject=str(index))
        for entry in entries:
            Descriptor.from_json(entry)
        return entries

    def _make(self) -> None:
        is_new = not (self._folder / "oci-layout").exists()
        if is_new:
            self._entries()  # refuses a folder that is something else
        (self._folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if is_new:
            self._write_json("oci-layout", _MARKER)

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


class _LayoutBlob:
    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        self._path, self.descriptor = path, descriptor

    def open(self) -> BinaryIO:
        try:
            blob = FileBlob.at(self._path)
        except FileNotFoundError as error:
            raise NotFoundError("this blob is not in the layout", subject=str(self._path)) from error
        return verified(blob.open(), self.descriptor, str(self._path))


@contextmanager
def _whole_file(path: Path, mode: int = 0o444) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block ends well."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink()
            raise
