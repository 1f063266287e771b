"""Where models live: a folder, a single file, a repository of the Hugging Face Hub, an artifact in a registry.

Files are used where they lie, in the user's folder or in a cache; nothing is copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from containers.unpack import model_manifest, unpack
from formats.index import INDEX, numbered_set
from formats.snapshot import ModelFile, Origin, Snapshot
from packer.hub import HubSource, Meter
from packer.hub_choice import included
from packer.state import DigestOf, State
from registry.access import Access
from registry.blob import FileBlob
from registry.descriptor import Digest
from registry.descriptor import digest_of as digest_of_bytes
from registry.errors import ModelError, UsageError
from registry.folder import STAGING, await_lock, open_own
from registry.manifest import encode
from registry.reference import LayoutReference, Reference, parse_reference
from registry.retry import Log
from registry.store import open_store

_HUB = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")


class Source(Protocol):
    """A place that a model is taken from."""

    def fetch(self) -> Snapshot:
        """The model's files, pinned; a `TransferError` or `ModelError` if they cannot be had."""

    def state(self, digest_of: DigestOf) -> State:
        """What it holds now; nothing is downloaded but listings and manifests."""

    def at(self, state: State) -> Source:
        """The same place at a state that it had, as far as it has revisions."""


def fetch(source: Source) -> Snapshot:
    """The stage: the files of a source, pinned."""
    return source.fetch()


def parse_source(text: str, include: Sequence[str] = (), reach: Reach | None = None) -> Source:
    """The source that `text` names; `UsageError` if nothing is there or the form is unknown.

    Only with a `reach` can it be an artifact, in a registry or a layout.
    """
    if reach and text.startswith("oci:"):
        return ArtifactSource(parse_reference(text), tuple(include), reach)
    if text.startswith("hf://"):
        if not (match := _HUB.fullmatch(text)):
            raise UsageError("this is not a repository of the Hub", expected="hf://ORG/NAME[@REVISION]", found=text)
        return HubSource(match[1], match[2] or "main", tuple(include))
    if "://" in text:
        raise UsageError("this kind of source is not known", expected="a folder, a file or hf://ORG/NAME", found=text)
    path = Path(text)
    if path.is_dir():
        return FolderSource(path, tuple(include))
    if path.is_file():
        if include:
            raise UsageError("--include chooses among the files of a folder", found=f"the file {text}")
        _refuse_part(path)
        return FileSource(path)
    if path.suffix in (".yaml", ".yml"):
        raise UsageError("there is no such build file", subject=text, hint="check the path")
    raise UsageError(
        "there is no such model",
        subject=text,
        expected="a folder, a .safetensors, .gguf or .onnx file, hf://ORG/NAME[@REVISION], oci://HOST/REPO[:TAG], "
        "or a build file (.yaml)",
        hint="check the path; a model of the Hub needs hf:// before its name",
    )


@dataclass(frozen=True)
class Reach:
    """What it takes to fetch from registries: how they are reached, and a folder for what was fetched."""

    access: Access
    folder: Path


@dataclass(frozen=True)
class ArtifactSource:
    """A model in a registry or a layout, ours or another tool's: resolved to a digest, fetched and verified.

    What was fetched stays, under the digest, and is not fetched again; what was not fetched whole is gone on with. One
    process fetches; another that wants the same waits, and takes what the first has made.
    """

    reference: Reference | LayoutReference
    include: tuple[str, ...]
    reach: Reach
    meter: Meter | None = None

    def fetch(self) -> Snapshot:
        """The model's files at the digest that the reference means now."""
        from packer.watch import WatchedStore

        store = open_store(self.reference, self.reach.access)
        store = WatchedStore(store, self.meter.advanced) if self.meter else store
        root = store.resolve(self.reference.name)
        digest, folder = root.descriptor.digest, self._folder(root.descriptor.digest)
        if not folder.exists():
            with _turn(folder.with_suffix(".lock"), self.reach.access.log):
                if not folder.exists():
                    partial = folder.with_suffix(".partial")
                    unpack(model_manifest(root, store), store, partial, self.include, self.reach.access.concurrency)
                    partial.rename(folder)
        at = self.reference
        name = f"{at.host}/{at.repository}" if isinstance(at, Reference) else ""
        return replace(FolderSource(folder).fetch(), origin=Origin("oci", name, digest if name else ""))

    def state(self, digest_of: DigestOf) -> State:  # noqa: ARG002 - the registry says it
        """The digest that the reference means now."""
        digest = open_store(self.reference, self.reach.access).resolve(self.reference.name).descriptor.digest
        return State(digest, digest)

    def at(self, state: State) -> ArtifactSource:
        """The same artifact, whatever the tag means by then."""
        return replace(self, reference=self.reference.at(Digest(state.revision)))

    def is_here(self) -> bool:
        """Whether nothing would be downloaded but the manifest."""
        root = open_store(self.reference, self.reach.access).resolve(self.reference.name)
        return self._folder(root.descriptor.digest).exists()

    def _folder(self, digest: Digest) -> Path:
        chosen = digest_of_bytes("\n".join(self.include).encode())
        return self.reach.folder / f"{digest.partition(':')[2]}-{chosen[-12:]}"


@contextmanager
def _turn(path: Path, log: Log) -> Iterator[None]:
    """Wait until nobody else holds a file, which is made and stays, and hold it while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_own(path)
    try:
        await_lock(descriptor, log, f"another packer is fetching the same model; waiting until it ends ({path})")
        yield
    finally:
        os.close(descriptor)


def _refuse_part(path: Path) -> None:
    """Refuse a file that is no model without those beside it."""
    shard = numbered_set(path.name)
    if INDEX.fullmatch(path.name) or (shard and int(shard[1]) > 1):
        found = f"one of {int(shard[1])} shards" if shard else "the index of its shards"
        raise UsageError(
            "this file is a part of a model",
            subject=str(path),
            expected="a folder, or a file that is a whole model",
            found=found,
            hint=f"give the folder: {path.absolute().parent}",
        )


@dataclass(frozen=True)
class FileSource:
    """One weight file that is a whole model."""

    path: Path

    def fetch(self) -> Snapshot:
        """The file under its own name."""
        return Snapshot.of(Origin("file"), [ModelFile.of(self.path.name, FileBlob.at(self.path))])

    def state(self, digest_of: DigestOf) -> State:
        """The digest of its name and its content."""
        return State("", _digest(self.fetch(), digest_of))

    def at(self, state: State) -> FileSource:  # noqa: ARG002 - it has no past
        """The file as it is."""
        return self


@dataclass(frozen=True)
class FolderSource:
    """A folder in the Hugging Face layout. Hidden files and folders are no part of the model."""

    path: Path
    include: tuple[str, ...] = ()

    def fetch(self) -> Snapshot:
        """Every file, or those that match an `include` glob; links to files are followed, links to folders refused."""
        if (self.path / STAGING).is_dir():
            raise ModelError(
                "this folder is not finished",
                subject=str(self.path),
                expected=f"a folder without {STAGING}",
                found="an unfinished run of packer shard, merge, quantize or pull: run it again, and it goes on",
                hint="or remove what it left, and start anew",
            )
        there = list(self._walk())
        if not there:
            raise ModelError(
                "no file of this folder is taken",
                subject=str(self.path),
                expected="at least one file",
                found="an empty folder",
            )
        names = included(there, self.include, str(self.path))
        return Snapshot.of(Origin("folder"), [ModelFile.of(name, FileBlob.at(self.path / name)) for name in names])

    def state(self, digest_of: DigestOf) -> State:
        """The digest of the names and contents of its files."""
        return State("", _digest(self.fetch(), digest_of))

    def at(self, state: State) -> FolderSource:  # noqa: ARG002 - it has no past
        """The folder as it is."""
        return self

    def _walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.path, onerror=_reraise):
            folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
            for name in folders:
                if (Path(folder) / name).is_symlink():
                    raise _irregular(Path(folder) / name, "a link to a folder")
            for path in (Path(folder) / name for name in names if not name.startswith(".")):
                if not path.is_file():
                    raise _irregular(path, "a broken link" if path.is_symlink() else "not a regular file")
                yield path.relative_to(self.path).as_posix()


def _digest(snapshot: Snapshot, digest_of: DigestOf) -> Digest:
    return digest_of_bytes(encode({file.name: digest_of(file) for file in snapshot.files}))


def _reraise(error: OSError) -> None:
    raise error


def _irregular(path: Path, found: str) -> ModelError:
    return ModelError("this is no part of a model", subject=str(path), expected="files and folders", found=found)
