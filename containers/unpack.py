"""The way back: from an image or a ModelPack artifact, ours or another tool's, to the model's files.

Nothing is written outside the target folder and nothing half-written has a final name: files are made in a hidden
folder inside the target and renamed when every layer has been read whole and verified, and they are on the disk. A run
that was killed leaves that folder behind, and the next one goes on with what is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

from containers.artifact import CARD
from containers.compression import decompressed, is_compressed
from containers.layers import FILEPATH, ROOT
from containers.modelpack import TITLE
from containers.tar import MAX_MEMBERS, read_tar, walk_tar
from registry.descriptor import IMAGE_LAYER, Descriptor, digest_of
from registry.disk import require_free
from registry.download import MAX_LOOSE, PART_SIZE, Download, Job, Slot, run_jobs
from registry.errors import ContentError, ModelError, UsageError
from registry.folder import STAGING, locked, open_own, staging_in
from registry.manifest import Index, Manifest
from registry.names import matches, relative_path
from registry.parallel import Step, StoppedError, run_each
from registry.store import Source

F = TypeVar("F")

_IMAGE = (IMAGE_LAYER, "application/vnd.docker.image.rootfs.diff.tar")
_MODEL = ("application/vnd.cncf.model.", "application/vnd.cnai.model.", "application/vnd.kitops.modelkit.")
_OLD_FILEPATH = "org.cnai.model.filepath"

_SPACE = "free some space, or take less with --include; what is whole stays, and is not fetched again"


def unpack(
    manifest: Manifest, source: Source, target: Path, include: Sequence[str] = (), workers: int = 4
) -> list[Path]:
    """Write the model's files below `target` and return their paths; `workers` parts of layers come at once.

    `include` are globs over paths in the model; a layer that cannot hold a match is not fetched.
    `ContentError` or `ModelError` for what is damaged, hostile or foreign.
    """
    layers = [layer for layer in manifest.layers if is_wanted(layer, manifest, include)]
    target.mkdir(parents=True, exist_ok=True)
    with locked(target), _scratch(staging_in(target), layers) as scratch:
        fetched = _plan(source, layers, scratch, include, workers)
        require_free(target, sum(each.left for each in fetched.values()), _SPACE)
        _run(list(fetched.values()), workers)
        whole = merged([fetched[_stem(layer)].files for layer in layers])
        with scratch.blaming(*fetched):
            refuse_conflicts(set(whole), manifest)
        for name in whole:
            _refuse_taken(target / name, target)
        for path in whole.values():
            _settle(path)
        written = [_move(name, path, target) for name, path in whole.items()]
    if not written:
        raise ModelError(
            "nothing in this artifact is a file of a model" if not include else "no file matches",
            subject=manifest.descriptor.digest,
            expected=", ".join(include) or f"layers with files under {ROOT}/, or ModelPack layers",
            found=f"{len(manifest.layers)} layers",
            hint="globs match the paths in the model, such as config.json or '*.safetensors'",
        )
    return written


class _Scratch:
    """The hidden folder, while files are made in it; `refused` are the stems of layers that were found wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused = set[str]()
        self._lock, self._count = Lock(), 0

    def path(self, layer: Descriptor, end: object) -> Path:
        """The path of a file of a layer, of which there are several."""
        return self.folder / f"{_stem(layer)}.{end}"

    def claim(self, count: int, layer: Descriptor) -> None:
        """Make room for files of a layer; `ContentError` if those of all layers are too many."""
        with self._lock:
            self._count += count
            if self._count > MAX_MEMBERS:
                raise too_many(layer)

    @contextmanager
    def blaming(self, *stems: str) -> Iterator[None]:
        """Whatever is found wrong while the block runs, these layers are to blame for."""
        try:
            yield
        except (ContentError, ModelError):
            with self._lock:
                self.refused.update(stems)
            raise


@contextmanager
def _scratch(folder: Path, layers: Sequence[Descriptor]) -> Iterator[_Scratch]:
    """The hidden folder. What is whole of a fetch that broke off stays for the next run; what was refused goes."""
    folder.mkdir(exist_ok=True)
    _keep_only(folder, {_stem(layer) for layer in layers})
    scratch, kept = _Scratch(folder), set[str]()
    try:
        yield scratch
    except BaseException:
        kept = {path.stem for path in folder.glob("*.parts")} - scratch.refused
        raise
    finally:
        _keep_only(folder, kept)
        with suppress(OSError):
            folder.rmdir()


def _keep_only(folder: Path, stems: set[str]) -> None:
    for path in folder.iterdir():
        if path.name.partition(".")[0] not in stems and (path.is_symlink() or not path.is_dir()):
            path.unlink()


def _stem(layer: Descriptor) -> str:
    """How the names of a layer's files begin: with its digest, and with what else decides which files it becomes."""
    rest = f"{layer.size} {layer.media_type} {raw_name(layer)}"
    return f"{layer.digest.partition(':')[2]}-{digest_of(rest.encode())[-12:]}"


def _plan(
    source: Source, layers: Sequence[Descriptor], scratch: _Scratch, include: Sequence[str], workers: int
) -> dict[str, _Fetching]:
    """How each layer is fetched, by its stem: one that is there twice, once. Headers of tars come side by side."""
    unique = {_stem(layer): layer for layer in layers}

    def planned(stem: str, _: Event) -> _Fetching:
        with scratch.blaming(stem):
            return _fetching(source, unique[stem], scratch, include)

    return dict(zip(unique, run_each(planned, list(unique), workers), strict=True))


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
    """Whether a layer may hold files of the model that match, as far as it says before it is read."""
    if not layer.media_type.startswith((*_MODEL, *_IMAGE)):
        return False
    path = layer.annotations.get(FILEPATH, "")
    if not _names_its_layers(manifest):
        return not layer.media_type.endswith(".raw") or _is_chosen(raw_name(layer), include)
    return path == ROOT or (bool(path) and matches(path.removeprefix(f"{ROOT}/"), include))


def _names_its_layers(manifest: Manifest) -> bool:
    """Whether the layers say what they hold: not where another made them, or compressed them anew as skopeo does."""
    return CARD in manifest.annotations and any(FILEPATH in layer.annotations for layer in manifest.layers)


def refuse_conflicts(names: set[str], manifest: Manifest) -> None:
    """`ContentError` for a path that is a file and a folder at once, or in our hidden folder.

    Either would stop the renaming halfway.
    """
    for name in names:
        parts = name.split("/")
        if parts[0] == STAGING:
            raise ContentError(
                "a path is in the folder that files are made in", subject=manifest.descriptor.digest, found=name
            )
        if any("/".join(parts[:depth]) in names for depth in range(1, len(parts))):
            raise ContentError("a path is a file and a folder at once", subject=manifest.descriptor.digest, found=name)


def too_many(layer: Descriptor) -> ContentError:
    """What is said of the layer with which an artifact has more files than are looked at."""
    return ContentError(
        "an artifact has too many files", subject=layer.digest, expected=f"at most {MAX_MEMBERS}", found="more"
    )


def raw_name(layer: Descriptor) -> str:
    """The path of the file that a raw layer is."""
    named = (layer.annotations.get(key) for key in (FILEPATH, _OLD_FILEPATH, TITLE))
    return next(filter(None, named), "")


def unreadable(layer: Descriptor) -> ContentError:
    """What is said of a layer whose members cannot be found without reading all of it."""
    return ContentError(
        "what is in compressed layers cannot be looked at from afar",
        subject=layer.digest,
        expected="tar or raw",
        found=layer.media_type,
        hint="packer pull unpacks them; a copy by skopeo leaves ours as they are with --preserve-digests",
    )


def model_name(name: str, layer: Descriptor) -> str:
    """The path in the model; empty for files of an image that are not below `models/`."""
    path = relative_path(name, layer.digest)
    if layer.media_type.endswith(".raw"):
        return path
    if layer.media_type.startswith(_IMAGE) and not path.startswith(f"{ROOT}/"):
        return ""
    return path.removeprefix(f"{ROOT}/")


@dataclass
class _Fetching:
    """A layer on its way: what is to be done, and the files that come of it, by their paths in the model.

    `walked` is what was found in a tar before anything was verified; None where files are not cut out so.
    """

    layer: Descriptor
    scratch: _Scratch
    job: Job
    left: int
    files: dict[str, Path]
    walked: list[tuple[str, int, int]] | None = None

    def next(self) -> Step | None:
        """The next step of the job, for whose errors the layer is to blame."""
        step = self.job.next()
        return (lambda stop: self._do(step, stop)) if step else None

    def _do(self, step: Step, stop: Event) -> None:
        with self.scratch.blaming(_stem(self.layer)):
            step(stop)

    def is_whole(self) -> bool:
        """Whether the files are what they should be, when all steps are done; False if the steps are to be repeated."""
        with self.scratch.blaming(_stem(self.layer)):
            if not isinstance(self.job, Download):
                return True
            if not self.job.verify():
                return False
            if self.walked is not None:
                _compare(self.walked, self.job, self.layer)
            return True


def _compare(walked: Sequence[tuple[str, int, int]], job: Download, layer: Descriptor) -> None:
    """`ContentError` if the headers by which a tar was cut into files are not those of the verified tar."""
    with closing(job.content()) as stream:
        for found, expected in zip_longest(walked, walk_tar(stream, layer.digest)):
            if found != expected:
                raise ContentError(
                    "a tar was cut into files by other headers than it has",
                    subject=layer.digest,
                    expected=repr(expected)[:200],
                    found=repr(found)[:200],
                    hint="the copy was tampered with; nothing of it was kept",
                )


def _fetching(source: Source, layer: Descriptor, scratch: _Scratch, include: Sequence[str]) -> _Fetching:
    """How a layer is fetched: in parts where its files are known by offset, else as one stream."""
    if layer.media_type.endswith(".raw"):
        slots = {model_name(raw_name(layer), layer): Slot(0, layer.size, scratch.path(layer, 0))}
        return _in_parts(source, layer, scratch, slots, None)
    if layer.size > PART_SIZE and not is_compressed(layer.media_type) and source.takes_ranges(layer):
        with closing(source.ranged(layer).open()) as stream:
            walked = list(walk_tar(stream, layer.digest))
        slots = _placed(walked, layer, scratch, include)
        if layer.size - sum(slot.length for slot in slots.values()) <= MAX_LOOSE:
            return _in_parts(source, layer, scratch, slots, walked)
    found = dict[str, Path]()
    job = _Once(lambda stop: _stream(source, layer, scratch, include, found, stop))
    return _Fetching(layer, scratch, job, layer.size, found)


def _in_parts(
    source: Source,
    layer: Descriptor,
    scratch: _Scratch,
    files: dict[str, Slot],
    walked: list[tuple[str, int, int]] | None,
) -> _Fetching:
    scratch.claim(len(files), layer)
    for slot in files.values():
        os.close(open_own(slot.path, mode=0o600))
    parted = layer.size <= PART_SIZE or source.takes_ranges(layer)
    slots = tuple(sorted(files.values(), key=lambda slot: slot.start))
    job = Download(source, layer, slots, scratch.path(layer, "parts"), layer.digest, in_parts=parted)
    return _Fetching(layer, scratch, job, job.left, {name: slot.path for name, slot in files.items()}, walked)


def _placed(
    walked: Sequence[tuple[str, int, int]], layer: Descriptor, scratch: _Scratch, include: Sequence[str]
) -> dict[str, Slot]:
    """Where each wanted file lies in a tar."""
    slots = dict[str, Slot]()
    for number, (path, start, size) in enumerate(walked):
        name = model_name(path, layer)
        if _is_chosen(name, include):
            slots[name] = Slot(start, size, scratch.path(layer, number))
    return slots


def _is_chosen(name: str, include: Sequence[str]) -> bool:
    """Whether a file is fetched: one that matches, and whatever says that something is gone."""
    return bool(name) and (_is_whiteout(name) or matches(name, include))


@dataclass
class _Once:
    """A job of one step."""

    step: Step
    is_begun: bool = False

    def next(self) -> Step | None:
        if self.is_begun:
            return None
        self.is_begun = True
        return self.step


def _run(fetched: Sequence[_Fetching], workers: int) -> None:
    """Fetch everything; what was damaged in an earlier run is fetched again."""
    while fetched:
        run_jobs(fetched, workers)
        fetched = [each for each in fetched if not each.is_whole()]


def _stream(
    source: Source, layer: Descriptor, scratch: _Scratch, include: Sequence[str], found: dict[str, Path], stop: Event
) -> None:
    """Read a tar from its front to its end and write the wanted files; they are none before the end is verified."""
    written = dict[str, Path]()
    with closing(source.blob(layer).open()) as packed:
        plain = decompressed(packed, layer.media_type, layer.size, layer.digest)
        for number, entry in enumerate(read_tar(plain, layer.digest)):
            name = model_name(entry.name, layer)
            if _is_chosen(name, include):
                scratch.claim(1, layer)
                written[name] = scratch.path(layer, number)
                _write(written[name], entry.content, stop)
    found.update(written)


def _write(path: Path, content: Iterator[bytes], stop: Event) -> None:
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        for piece in content:
            if stop.is_set():
                raise StoppedError
            file.write(piece)


_WHITEOUT = ".wh."
"""Begins the name of a file that stands for one that is gone (image specification 1.1, `layer.md`)."""

_OPAQUE = ".wh..wh..opq"
"""The name of a file that says that all that lay beside it is gone."""


def merged(layers: Sequence[Mapping[str, F]]) -> dict[str, F]:
    """The files of all layers: a later layer's replaces an earlier one's, or removes it, as in a container."""
    whole, gone = dict[str, F](), set[str]()
    for files in reversed(layers):
        for name in reversed(list(files)):
            if not _is_whiteout(name) and name not in whole and gone.isdisjoint(_removers(name) if gone else ()):
                whole[name] = files[name]
        gone.update(filter(_is_whiteout, files))
    return dict(reversed(list(whole.items())))


def _is_whiteout(name: str) -> bool:
    return name.rpartition("/")[2].startswith(_WHITEOUT)


def _removers(name: str) -> Iterator[str]:
    """The names of files any of which, in a later layer, says that a file is gone."""
    while name:
        folder, slash, last = name.rpartition("/")
        yield f"{folder}{slash}{_WHITEOUT}{last}"
        yield f"{folder}{slash}{_OPAQUE}"
        name = folder


def _settle(path: Path) -> None:
    """Have a file on the disk, readable by all, before it has its name: no crash leaves half of it there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_taken(final: Path, target: Path) -> None:
    """`ContentError` or `UsageError` if what is in the target folder is in the way of a file."""
    if not final.parent.resolve().is_relative_to(target.resolve()):
        raise ContentError(
            "a link in the target folder leads out of it",
            subject=str(final.parent),
            expected=f"a folder below {target}",
            found=str(final.parent.resolve()),
            hint="pull into an empty folder",
        )
    parents = [parent for parent in final.parents if parent.is_relative_to(target)]
    if final.is_dir() or any(parent.exists() and not parent.is_dir() for parent in parents):
        raise UsageError(
            "what is in the target folder is in the way of a file",
            subject=str(final),
            expected="a file, or nothing, in folders",
            hint="pull into an empty folder",
        )


def _move(name: str, path: Path, target: Path) -> Path:
    final = target / name
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, final)
    return final
