"""The way back: from an image or a ModelPack artifact to the model's files.

Nothing is written outside the target folder and nothing half-written has a final name: files are made in a hidden
folder inside the target and renamed when every layer has been read whole and verified.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from containers.artifact import CARD
from containers.layers import FILEPATH, ROOT
from containers.modelpack import TITLE
from containers.tar import Entry, read_tar
from registry.blob import chunks
from registry.descriptor import IMAGE_LAYER, Descriptor
from registry.disk import require_free
from registry.errors import ContentError, ModelError
from registry.manifest import Index, Manifest
from registry.names import matches, relative_path
from registry.store import Source

_MODEL = "application/vnd.cncf.model."


def unpack(manifest: Manifest, source: Source, target: Path, include: Sequence[str] = ()) -> list[Path]:
    """Write the model's files below `target` and return their paths.

    `include` are globs over paths in the model; a layer that cannot hold a match is not fetched.
    `ContentError` or `ModelError` for what is damaged, hostile or foreign.
    """
    layers = [layer for layer in manifest.layers if is_wanted(layer, manifest, include)]
    target.mkdir(parents=True, exist_ok=True)
    require_free(target, sum(layer.size for layer in layers), "free some space, or take less with --include")
    with tempfile.TemporaryDirectory(dir=target, prefix=".packer-") as scratch:
        whole = [pair for layer in layers for pair in _stage(source, layer, Path(scratch), include)]
        refuse_conflicts({name for name, _ in whole}, manifest)
        written = [_move(name, path, target) for name, path in whole]
    if not written:
        raise ModelError(
            "nothing in this artifact is a file of a model" if not include else "no file matches",
            subject=manifest.descriptor.digest,
            expected=", ".join(include) or f"layers with files under {ROOT}/, or ModelPack layers",
            found=f"{len(manifest.layers)} layers",
            hint="globs match the paths in the model, such as config.json or '*.safetensors'",
        )
    return written


def model_manifest(root: Manifest | Index, source: Source) -> Manifest:
    """The manifest to unpack: of an index any image will do, because all share the model."""
    if isinstance(root, Manifest):
        return root
    for child in root.manifests:
        manifest = source.resolve(child.digest)
        if isinstance(manifest, Manifest):
            return manifest
    raise ContentError("this index holds no image", subject=root.descriptor.digest)


def is_wanted(layer: Descriptor, manifest: Manifest, include: Sequence[str] = ()) -> bool:
    """Whether a layer may hold files of the model that match; only layers of ours say so before they are read."""
    if not layer.media_type.startswith((_MODEL, IMAGE_LAYER)):
        return False
    path = layer.annotations.get(FILEPATH, "")
    if CARD not in manifest.annotations:
        return True
    return path == ROOT or (bool(path) and matches(path.removeprefix(f"{ROOT}/"), include))


def refuse_conflicts(names: set[str], manifest: Manifest) -> None:
    """`ContentError` for a path that is a file and a folder at once, which would stop the renaming halfway."""
    for name in names:
        parts = name.split("/")
        if any("/".join(parts[:depth]) in names for depth in range(1, len(parts))):
            raise ContentError("a path is a file and a folder at once", subject=manifest.descriptor.digest, found=name)


def _stage(source: Source, layer: Descriptor, scratch: Path, include: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Write the wanted files of one layer under names of ours, and yield them with their paths in the model."""
    with closing(source.blob(layer).open()) as stream:
        entries: Iterator[Entry] = iter(())
        if layer.media_type.endswith(".raw"):
            entries = iter([Entry(raw_name(layer), layer.size, chunks(stream))])
        elif layer.media_type.endswith(".tar"):
            entries = read_tar(stream, layer.digest)
        else:
            raise unreadable(layer)
        for entry in entries:
            name = model_name(entry.name, layer)
            if name and matches(name, include):
                path = scratch / os.urandom(8).hex()
                with path.open("xb") as file:
                    file.writelines(entry.content)
                yield name, path


def raw_name(layer: Descriptor) -> str:
    """The path of the file that a raw layer is."""
    return layer.annotations.get(FILEPATH) or layer.annotations.get(TITLE, "")


def unreadable(layer: Descriptor) -> ContentError:
    """What is said of a layer of a type that is neither tar nor raw."""
    return ContentError(
        "layers of this type cannot be unpacked",
        subject=layer.digest,
        expected="tar or raw",
        found=layer.media_type,
        hint="a copy may have compressed them: skopeo copy --all --preserve-digests keeps them as they were",
    )


def model_name(name: str, layer: Descriptor) -> str:
    """The path in the model; empty for files of an image that are not below `models/`."""
    path = relative_path(name, layer.digest)
    if layer.media_type.endswith(".raw"):
        return path
    is_model = path.startswith(f"{ROOT}/")
    if layer.media_type.startswith(IMAGE_LAYER) and not is_model:
        return ""
    return path.removeprefix(f"{ROOT}/")


def _move(name: str, path: Path, target: Path) -> Path:
    final = target / name
    if not final.parent.resolve().is_relative_to(target.resolve()):
        raise ContentError(
            "a link in the target folder leads out of it",
            subject=str(final.parent),
            expected=f"a folder below {target}",
            found=str(final.parent.resolve()),
            hint="pull into an empty folder",
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    os.chmod(path, 0o644)
    os.replace(path, final)
    return final
