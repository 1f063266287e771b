"""Small images and artifacts of any shape, right or wrong, pushed to a store."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backports import zstd

from registry.blob import BytesBlob, TypedBlob
from registry.descriptor import IMAGE_CONFIG, IMAGE_LAYER, INDEX, Descriptor, Platform, digest_of
from registry.manifest import Index, Manifest, decode, encode, make_manifest
from registry.store import Store
from tests.parts import tiny

MODEL = {"models/config.json": b'{"model_type": "tiny"}', "models/model.safetensors": tiny.GOOD}
"""The files of a model, where images have them."""

PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "zstd": zstd.compress}


@dataclass(frozen=True)
class Part:
    """A layer: what it is called, its bytes and its annotations."""

    media_type: str
    data: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)

    def typed(self, media_type: str) -> Part:
        """The same bytes under another type."""
        return replace(self, media_type=media_type)

    def annotated(self, **annotations: str) -> Part:
        """With these annotations and no others."""
        return replace(self, annotations=annotations)


def tar(files: Mapping[str, bytes | str], mode: int = 0o644, folders: bool = True, folder_mode: int = 0o755) -> bytes:
    """A tar of files (bytes), symbolic links (`text`) and hard links (`=text`), with the folders before them."""
    made: set[str] = set()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            parents = name.split("/")[:-1] if folders else []
            for depth in range(1, len(parents) + 1):
                parent = "/".join(parents[:depth])
                if parent not in made and parent not in ("", "."):
                    made.add(parent)
                    info = tarfile.TarInfo(parent)
                    info.type, info.mode = tarfile.DIRTYPE, folder_mode
                    archive.addfile(info)
            info = tarfile.TarInfo(name)
            info.mode = mode
            if isinstance(content, str):
                info.type = tarfile.LNKTYPE if content.startswith("=") else tarfile.SYMTYPE
                info.linkname = content.removeprefix("=")
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tar_layer(files: Mapping[str, bytes | str] = MODEL, packed: str = "", **options: Any) -> Part:
    """An image layer, compressed or not."""
    data = tar(files, **options)
    return Part(IMAGE_LAYER + (f"+{packed}" if packed else ""), PACKED[packed](data))


@dataclass(frozen=True)
class Made:
    """A manifest that has not been pushed."""

    config_type: str
    config: bytes
    layers: tuple[Part, ...]
    artifact_type: str = ""

    def but(self, **changes: Any) -> Made:
        """With other members."""
        return replace(self, **changes)


def _unpacked(part: Part) -> bytes:
    if part.media_type.endswith("gzip"):
        return gzip.decompress(part.data)
    return zstd.decompress(part.data) if part.media_type.endswith("zstd") else part.data


def image(*layers: Part, **config: Any) -> Made:
    """An image; `config` is merged into that of its config, whose members may be given anew."""
    parts = layers or (tar_layer(),)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(_unpacked(part)) for part in parts]},
        **config,
    }
    return Made(IMAGE_CONFIG, encode(document), parts)


def weight(path: str, data: bytes, form: str = "raw", kind: str = "weight") -> Part:
    """A ModelPack layer with its path, and as raw its title."""
    annotations = {"org.cncf.model.filepath": path}
    if form == "raw":
        annotations["org.opencontainers.image.title"] = path
    return Part(f"application/vnd.cncf.model.{kind}.v1.{form}", data, annotations)


RAW = (weight("config.json", b"{}", kind="weight.config"), weight("model.safetensors", tiny.GOOD))
TARS = (weight("models", tar(MODEL), "tar"),)


def modelpack(*layers: Part, **config: Any) -> Made:
    """A ModelPack artifact."""
    parts = layers or TARS
    document = {
        "descriptor": {"name": "tiny"},
        "config": {"format": "safetensors", "paramSize": "1m"},
        "modelfs": {"type": "layers", "diffIds": [digest_of(_unpacked(part)) for part in parts]},
        **config,
    }
    kind = "application/vnd.cncf.model"
    return Made(f"{kind}.config.v1+json", encode(document), parts, f"{kind}.manifest.v1+json")


def push(store: Store, made: Made, tag: str = "") -> Manifest:
    """Push a manifest with what it names."""
    config = BytesBlob.of(made.config_type, made.config)
    layers = [
        TypedBlob.of(BytesBlob.of(part.media_type, part.data), part.media_type, dict(part.annotations))
        for part in made.layers
    ]
    store.push(config)
    for layer in layers:
        store.push(layer)
    manifest = make_manifest(config.descriptor, [layer.descriptor for layer in layers], {}, made.artifact_type)
    store.put(manifest)
    if tag:
        store.tag(manifest, tag)
    return manifest


def push_index(
    store: Store, children: Sequence[tuple[Made, str]], tag: str, media_type: str = INDEX, **more: Any
) -> Index:
    """Push an index; each child has a platform, or an empty text for none. Without `media_type` it says none."""
    entries = [_entry(push(store, made).descriptor, platform) for made, platform in children]
    document = {"schemaVersion": 2, **({"mediaType": media_type} if media_type else {}), "manifests": entries, **more}
    index = decode(encode(document), tag)
    assert isinstance(index, Index)
    store.put(index)
    store.tag(index, tag)
    return index


def _entry(descriptor: Descriptor, platform: str) -> dict[str, Any]:
    return replace(descriptor, platform=Platform.parse(platform) if platform else None).to_json()


BASE = tar_layer({f"bin/{name}": b"" for name in ("sh", "ln", "sleep", "ls", "mkdir")})
"""A base with names of programs, and no programs."""
