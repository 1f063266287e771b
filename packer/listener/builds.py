"""The builds that the listener looks after, and the names by which an event may mean one."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from formats.text import printable
from packer.buildfile import BuildFile, read_builds
from packer.listener.records import in_a_line
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

    An artifact is called by its repository alone: the `host` that a sender knows is often not the one that others know.
    """

    kind: str
    what: str
    version: str
    host: str = ""


@dataclass(frozen=True)
class Build:
    """A build file: what it needs, and the tags that it makes. `error` says why it is not built, if so.

    `mark` differs when the file was written anew.
    """

    name: str
    file: Path
    needs: frozenset[Name] = frozenset()
    makes: frozenset[Name] = frozenset()
    error: str = ""
    mark: tuple[int, ...] = ()


@dataclass(frozen=True)
class Builds:
    """All build files that the patterns name now, by the names of their builds."""

    patterns: Sequence[str]
    _known: dict[Path, Build] = field(default_factory=dict, repr=False)

    def read(self) -> dict[str, Build]:
        """The builds; what has not changed on the disk is not read again."""
        found = {Path(path) for pattern in self.patterns for path in glob.glob(pattern, recursive=True)}
        files = {file.resolve(): file for file in sorted(found, key=_is_link, reverse=True)}  # one file is one build
        return _judged({name: self._build(name, file) for name, file in _named(sorted(files.values())).items()})

    def _build(self, name: str, file: Path) -> Build:
        try:
            status = file.stat()
        except OSError as error:
            return Build(name, file, error=f"{file}: {error.strerror}")
        mark = (status.st_mtime_ns, status.st_ino, status.st_size)
        known = self._known.get(file)
        if not known or known.mark != mark or known.name != name:
            self._known[file] = known = _read(name, file, mark)
        return known


def _is_link(file: Path) -> tuple[bool, Path]:
    """For sorting: what links to a file comes behind the file."""
    return file.resolve() != file.absolute(), file


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """The files by the shortest ends of their paths that tell them apart: `packer.yaml` is called by its folder, where
    nothing else would be called so too.
    """
    short = {file: (file.parent if file.stem == "packer" else file.with_suffix("")).parts[1:] for file in files}
    often = Counter(short.values())
    parts = {file: own if often[own] == 1 else file.parts[1:] for file, own in short.items()}
    ends = Counter(own[-length:] for own in parts.values() for length in range(1, len(own) + 1))
    return {_shown("/".join(_shortest(own, ends))): file for file, own in parts.items()}


def _shortest(own: tuple[str, ...], ends: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    found = (own[-length:] for length in range(1, len(own)) if ends[own[-length:]] == 1)
    return next(found, own)


def _shown(name: str) -> str:
    """A name that can be shown and kept: bytes that are no UTF-8 become what they are in hexadecimal digits."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))


def _read(name: str, file: Path, mark: tuple[int, ...]) -> Build:
    try:
        variants = read_builds(file)
        needs = frozenset(found for one in variants.values() for found in _needs(one))
        makes = frozenset(found for one in variants.values() for found in _makes(one))
    except (UsageError, OSError) as error:
        said = in_a_line(error.to_json()) if isinstance(error, UsageError) else str(error)
        return Build(name, file, error=_shown(said), mark=mark)
    return Build(name, file, needs, makes, mark=mark)


def _judged(builds: dict[str, Build]) -> dict[str, Build]:
    """The builds; those that would wake each other for ever have an error."""
    makers: dict[Name, list[str]] = {}
    for build in builds.values():
        for made in build.makes:
            makers.setdefault(made, []).append(build.name)
    wrong: dict[str, str] = {}
    for made, names in makers.items():
        for name in names if len(names) > 1 else ():
            others = ", ".join(sorted(set(names) - {name}))
            wrong[name] = f"{made.host}/{made.what}:{made.version} is published by {others} too: give one another tag"
    after = {build.name: {name for need in build.needs for name in makers.get(need, ())} for build in builds.values()}
    for circle in _circles({name: before for name, before in after.items() if name not in wrong}):
        wrong |= dict.fromkeys(circle, f"each of {', '.join(sorted(set(circle)))} is made of the other")
    return builds | {name: replace(builds[name], error=builds[name].error or why) for name, why in wrong.items()}


def _circles(after: dict[str, set[str]]) -> Iterator[list[str]]:
    """The builds that are made of each other, in a circle."""
    left = dict(after)
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1]
            yield circle
            left = {name: before - set(circle) for name, before in left.items() if name not in circle}
        else:
            return


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
        yield replace(name, version=name.version + MODELPACK_SUFFIX)


def _artifact(text: str) -> Iterator[Name]:
    """The tag that a reference names; nothing where it names none, or something on this machine."""
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    if isinstance(reference, Reference) and reference.tag and not reference.digest:
        yield Name("artifact", reference.repository, reference.tag, reference.host)


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
    if found.kind != "artifact":
        return found.what.casefold() == name.what.casefold()  # as the Hub has it
    return found.what == name.what or found.what.endswith(f"/{name.what}")
