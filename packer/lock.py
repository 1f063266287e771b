"""`packer.lock`: what the last release of each variant was made of, and what it is, by digest.

It lies beside the build file and is written by every build of it that publishes. It has no time and no path of a
machine: the same inputs write the same file. `packer rebuild` compares it with what the inputs are now.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from containers.layers import FILEPATH
from recipes.task import whole_file
from registry.descriptor import IMAGE_LAYER, Descriptor
from registry.errors import UsageError

VERSION = 1
MAX_SIZE = 8 << 20
"""Bytes of a lock: thousands of layers."""

_STRICT = ConfigDict(extra="forbid")


@checked(frozen=True, config=_STRICT)
class Entry:
    """One input: what it is called, and its digest, or the version of a tool.

    `revision` is where it was found, a commit or a digest: one that has another but the same digest is the same.
    """

    name: str
    value: str
    revision: str = field(default="", compare=False)


@checked(frozen=True, config=_STRICT)
class Layer:
    """A layer of the model: the path that it makes in the image, its digest and its size in bytes."""

    path: str
    digest: str
    size: int


def model_layers(descriptors: Iterable[Descriptor]) -> tuple[Layer, ...]:
    """Those of some blobs that are the model's layers in an image: they say which path they make."""
    found = (one for one in descriptors if one.media_type == IMAGE_LAYER and FILEPATH in one.annotations)
    return tuple(Layer(one.annotations[FILEPATH], one.digest, one.size) for one in found)


@checked(frozen=True, config=_STRICT)
class Outputs:
    """What was published: references pinned by digest, the tags that name them, and the model's layers."""

    image: str
    modelpack: str | None
    scorecard: str | None
    tags: tuple[str, ...]
    layers: tuple[Layer, ...]


@checked(frozen=True, config=_STRICT)
class Locked:
    """A release. `inputs` are by kind: source, base, file, recipe, suite and so on, and `tool NAME`."""

    inputs: Mapping[str, Entry]
    outputs: Outputs


@dataclass(frozen=True)
class Change:
    """One input that is not what it was; None where there was or is none."""

    kind: str
    before: Entry | None
    after: Entry | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind:<24} {self._shown(self.before)} -> {self._shown(self.after)}"

    def _shown(self, entry: Entry | None) -> str:
        if not entry:
            return "none"
        return entry.value if self.kind.endswith(entry.name) else f"{entry.name} {entry.value[:19]}".rstrip()


def changes(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[Change]:
    """The inputs that differ, by kind."""
    return list(_changes(before, after))


def _changes(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> Iterator[Change]:
    for kind in sorted(before.keys() | after.keys()):
        if before.get(kind) != after.get(kind):
            yield Change(kind, before.get(kind), after.get(kind))


_INPUTS = TypeAdapter(Mapping[str, Entry])


def to_json(inputs: Mapping[str, Entry]) -> dict[str, Any]:
    """Inputs as a JSON object."""
    return {kind: asdict(inputs[kind]) for kind in sorted(inputs)}


def from_json(document: object) -> Mapping[str, Entry]:
    """The inputs in what `to_json` made; `ValueError` if they are not."""
    return _INPUTS.validate_python(document)


@checked(frozen=True, config=_STRICT)
class Lock:
    """The releases of a build file, by the names of its variants."""

    version: int = VERSION
    builds: Mapping[str, Locked] = field(default_factory=dict)


_LOCK = TypeAdapter(Lock)


def lock_path(build_file: Path) -> Path:
    """Where the lock of a build file is: `packer.lock` for `packer.yaml`."""
    return build_file.with_suffix(".lock")


def read_lock(path: Path) -> Lock:
    """The lock in a file, an empty one if there is none; `UsageError` if it is damaged or of another version."""
    if not path.exists():
        return Lock()
    hint = "remove it, and the next build writes it anew"
    if path.stat().st_size > MAX_SIZE:
        raise UsageError("this is too large for a lock", subject=str(path), expected=f"at most {MAX_SIZE}", hint=hint)
    try:
        lock = _LOCK.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UsageError("this is no lock", subject=str(path), found=found, hint=hint) from error
    if lock.version != VERSION:
        raise UsageError("this lock is of another version", subject=str(path), expected=VERSION, found=lock.version)
    return lock


def write_locked(build_file: Path, name: str, locked: Locked, names: Collection[str]) -> None:
    """Keep the release of a variant; those of the others that the build file has, by `names`, stay as they are.

    Who builds another variant at the same time waits.
    """
    path = lock_path(build_file)
    with build_file.open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        others = {other: known for other, known in read_lock(path).builds.items() if other in names}
        document = _LOCK.dump_python(Lock(VERSION, {**others, name: locked}), mode="json")
        with whole_file(path) as scratch:
            scratch.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
