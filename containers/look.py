"""What is in an artifact, without fetching it: the model's files as regions of layers that are read in ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count

from containers.compression import decompressed, is_compressed
from containers.tar import MAX_MEMBERS, read_tar, walk_tar
from containers.unpack import is_wanted, merged, model_name, raw_name, refuse_conflicts, too_many, unreadable
from formats.examine import READERS
from formats.snapshot import ModelFile, Origin, Snapshot
from registry.descriptor import Descriptor
from registry.errors import ModelError
from registry.join import JoinedBlob, Region
from registry.manifest import Manifest
from registry.names import relative_path
from registry.ranged import BUFFER
from registry.store import Source

MAX_HELD = 64 << 20
"""Bytes of files that one compressed layer may become in memory."""


def model_snapshot(manifest: Manifest, source: Source, small: int = 0) -> Snapshot:
    """The files of the model in an image or a ModelPack artifact; of tar layers only headers are fetched.

    Compressed layers of up to `small` bytes are fetched whole, and what they hold of the model stays in memory.
    `ContentError` or `ModelError` for what is damaged, hostile or foreign. Nothing that is read of the files is checked
    against a digest.
    """
    layers = [layer for layer in manifest.layers if is_wanted(layer, manifest)]
    seen = count(1)
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda layer: list(_counted(_files(layer, source, small), seen, layer)), layers))
    files = merged([{str(file.name): file for file in each} for each in found])
    refuse_conflicts(set(files), manifest)
    if not files:
        raise ModelError(
            "nothing in this artifact is a file of a model",
            subject=manifest.descriptor.digest,
            expected="layers with files under models/, or ModelPack layers",
            found=f"{len(manifest.layers)} layers",
        )
    return Snapshot.of(Origin("oci"), list(files.values()))


def _counted(files: Iterable[ModelFile], seen: Iterator[int], layer: Descriptor) -> Iterator[ModelFile]:
    """The files of one layer; `seen` counts those of all layers, in several threads."""
    for file in files:
        if next(seen) > MAX_MEMBERS:
            raise too_many(layer)
        yield file


def _files(layer: Descriptor, source: Source, small: int) -> Iterator[ModelFile]:
    if is_compressed(layer.media_type) and layer.size <= small:
        yield from _held(layer, source)
        return
    blob = source.ranged(layer)
    if layer.media_type.endswith(".raw"):
        yield ModelFile(relative_path(raw_name(layer), layer.digest), layer.size, blob)
        return
    if not layer.media_type.endswith(".tar"):
        raise unreadable(layer)
    with blob.open() as stream:
        for path, start, size in walk_tar(stream, layer.digest):
            if name := model_name(path, layer):
                member = JoinedBlob((Region(blob, start, size),), buffer=BUFFER)
                yield ModelFile(relative_path(name, layer.digest), size, member)


def _held(layer: Descriptor, source: Source) -> Iterator[ModelFile]:
    """The files of a compressed layer, in memory."""
    left = MAX_HELD
    with closing(source.blob(layer).open()) as packed:
        plain = decompressed(packed, layer.media_type, layer.size, layer.digest)
        for entry in read_tar(plain, layer.digest):
            if name := model_name(entry.name, layer):
                if (left := left - entry.size) < 0:
                    raise unreadable(layer)
                yield ModelFile.holding(relative_path(name, layer.digest), b"".join(entry.content))
