"""The builds that the listener looks after, and the names by which an event may mean one."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packer.buildfile import BuildFile, read_builds
from packer.stages import MODELPACK_SUFFIX
from registry.errors import UsageError
from registry.events.change import Change
from registry.reference import Reference, parse_reference

_DATASET = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/.*)?")
_OF_REFERRERS = re.compile(r"sha256-[0-9a-f]{64}(\.\w+)?")
"""The tags under which older registries keep referrers, and signers their signatures."""


@dataclass(frozen=True)
class Name:
    """What an event may name: a kind of `Change`, what it is called there, and a branch or a tag.

    An artifact is called by its repository alone: the host that a sender knows is often not the one that others know.
    """

    kind: str
    what: str
    version: str


@dataclass(frozen=True)
class Build:
    """A build file: what it needs, and the tags that it makes. `error` says why it cannot be read, if so."""

    name: str
    file: Path
    needs: frozenset[Name] = frozenset()
    makes: frozenset[Name] = frozenset()
    error: str = ""


@dataclass(frozen=True)
class Builds:
    """All build files that the patterns name now, by the names of their builds."""

    patterns: Sequence[str]
    _known: dict[Path, tuple[tuple[int, int], Build]] = field(default_factory=dict, repr=False)

    def read(self) -> dict[str, Build]:
        """The builds; what has not changed on the disk is not read again."""
        files = sorted({Path(path) for pattern in self.patterns for path in glob.glob(pattern, recursive=True)})
        return {name: self._build(name, file) for name, file in _named(files).items()}

    def _build(self, name: str, file: Path) -> Build:
        try:
            status = file.stat()
        except OSError as error:
            return Build(name, file, error=f"{file}: {error.strerror}")
        mark = (status.st_mtime_ns, status.st_ino)
        known = self._known.get(file)
        if not known or known[0] != mark or known[1].name != name:
            self._known[file] = known = (mark, _read(name, file))
        return known[1]


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """The files by the shortest ends of their paths that tell them apart: `packer.yaml` is called by its folder."""
    parts = {file: _parts(file) for file in files}
    ends = Counter(own[-length:] for own in parts.values() for length in range(1, len(own) + 1))
    return {"/".join(_shortest(own, ends)): file for file, own in parts.items()}


def _parts(file: Path) -> tuple[str, ...]:
    return (file.parent if file.stem == "packer" else file.with_suffix("")).parts[1:]


def _shortest(own: tuple[str, ...], ends: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    found = (own[-length:] for length in range(1, len(own)) if ends[own[-length:]] == 1)
    return next(found, own)


def _read(name: str, file: Path) -> Build:
    try:
        variants = read_builds(file)
        needs = frozenset(found for one in variants.values() for found in _needs(one))
        makes = frozenset(found for one in variants.values() for found in _makes(one))
    except (UsageError, OSError) as error:
        return Build(name, file, error=" ".join(str(error).split()))
    return Build(name, file, needs, makes)


def _needs(file: BuildFile) -> Iterator[Name]:
    models = (file.source, file.evaluate.baseline or "", f"oci://{file.publish.base}")
    for text in models:
        if text.startswith("hf://"):
            name, _, version = text.removeprefix("hf://").partition("@")
            yield Name("model", name, version or "main")
        elif text.startswith("oci://"):
            yield from _artifact(text.removeprefix("oci://"))
    for data in (file.quantize.calibration.data, file.evaluate.data):
        if data and not Path(data).exists() and (match := _DATASET.fullmatch(data)):
            yield Name("dataset", match[1], match[2] or "main")


def _makes(file: BuildFile) -> Iterator[Name]:
    for name in _artifact(file.publish.to):
        yield name
        yield Name(name.kind, name.what, name.version + MODELPACK_SUFFIX)


def _artifact(text: str) -> Iterator[Name]:
    """The tag that a reference names; nothing where it names none, or something on this machine."""
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    if isinstance(reference, Reference) and reference.tag and not reference.digest:
        yield Name("artifact", reference.repository, reference.tag)


def named_by(change: Change) -> Name:
    """The name of what an event says has changed."""
    if change.kind == "artifact":
        place, _, tag = change.reference.rpartition(":")
        return Name(change.kind, place, tag)
    what, _, version = change.reference.partition("@")
    return Name(change.kind, what, version)


def meant(change: Change, builds: Iterable[Build]) -> list[str]:
    """The builds that a change may concern: those that need what changed, or whose tag it moved."""
    if change.kind == "build":
        return [build.name for build in builds if build.name == change.reference]
    found = named_by(change)
    return [build.name for build in builds if any(_is(found, name) for name in build.needs | build.makes)]


def makers(change: Change, builds: Iterable[Build]) -> list[Build]:
    """The builds that publish under the tag that a change is about."""
    found = named_by(change)
    return [build for build in builds if any(_is(found, name) for name in build.makes)]


def is_of_referrers(change: Change) -> bool:
    """Whether a tag is one that holds referrers or signatures, and no model."""
    return change.kind == "artifact" and bool(_OF_REFERRERS.fullmatch(named_by(change).version))


def _is(found: Name, name: Name) -> bool:
    """Whether both mean the same; a sender may put a host before the repository."""
    if (found.kind, found.version) != (name.kind, name.version):
        return False
    return found.what == name.what or (found.kind == "artifact" and found.what.endswith(f"/{name.what}"))
