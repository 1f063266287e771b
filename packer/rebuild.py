"""`packer rebuild`: whether anything that a release is made of has changed, and whether it comes out the same again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from containers.artifact import Artifact
from containers.base import Base
from containers.layers import FILEPATH
from packer.lock import Change, Entry, Layer, Locked, changes
from packer.pipeline import Build, pipeline
from packer.plan import find_base
from packer.stages import STAGES
from packer.state import State
from packer.watch import Run
from registry.access import Access
from registry.descriptor import IMAGE_LAYER, Digest
from registry.errors import ContentError, ModelError, NotFoundError
from registry.reference import parse_reference


def differences(build: Build, inputs: dict[str, Entry], locked: Locked | None) -> list[Change]:
    """What is not as the lock says: inputs, and the tag, if it names something else by now or nothing."""
    if not locked:
        return changes({}, inputs)
    found = changes(locked.inputs, inputs)
    released = Entry(str(build.to), locked.outputs.image.rpartition("@")[2])
    now = _released(build)
    return [*found, *([] if now == released else [Change("release", released, now)])]


def _released(build: Build) -> Entry | None:
    try:
        return Entry(str(build.to), build.store.resolve(build.to.tag).descriptor.digest)
    except (NotFoundError, ContentError):
        return None


@dataclass(frozen=True)
class Reproduction:
    """What came of building a release again. `layer` is the first that differs, as it was and as it is now.

    `changed` are inputs that are not what they were, as far as they could not be had as they were.
    """

    is_same: bool
    layer: tuple[Layer | None, Layer | None] | None
    changed: Sequence[Change]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        before, after = self.layer or (None, None)
        return {
            "same": self.is_same,
            "layer": {"before": vars(before) if before else None, "after": vars(after) if after else None},
            "changed": [change.to_json() for change in self.changed],
        }

    def render(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.is_same:
            yield "the same: every layer comes out as it was released"
            return
        before, after = self.layer or (None, None)
        yield f"differs   {(before or after or Layer('?', '', 0)).path}"
        yield f"  was     {before.digest if before else 'not there'}"
        yield f"  is      {after.digest if after else 'not there'}"
        for change in self.changed:
            yield f"because   {change}"
        if not self.changed:
            yield "because   nothing that is known changed: these stages do not make the same of the same"


def as_locked(build: Build, locked: Locked, access: Access) -> Build:
    """The build with its source, its baseline and its base as they were, as far as they have revisions."""
    source = _back(build.source, locked.inputs["source"])
    baseline = build.baseline
    if baseline and (known := locked.inputs.get("baseline")):
        baseline = _back(baseline, known)
    return replace(build, source=source, baseline=baseline, base=_base_as_locked(build.base, locked, access))


def _base_as_locked(base: Base, locked: Locked, access: Access) -> Base:
    """The base as it was, if it is one that has a past: not what this machine has, nor none."""
    was = locked.inputs["base"].value
    if was == base.digest or base.name in ("busybox", "none"):
        return base
    platforms = [image.platform for image in base.images]
    return replace(find_base(str(parse_reference(base.name).at(Digest(was))), platforms, {}, access), name=base.name)


def _back(source: Any, entry: Entry) -> Any:
    return source.at(State(entry.revision, Digest(entry.value))) if entry.revision else source


def reproduce(build: Build, locked: Locked, changed: Sequence[Change], run: Run) -> Reproduction:
    """Build it again, as far as `package`, and compare the model's layers with those of the release."""
    *_, result = islice(pipeline(build, run), STAGES.index("package") + 1)
    if not isinstance(result, Artifact):
        raise ModelError("this time the model is refused, so there is nothing to compare", hint="look at its scorecard")
    before, after = locked.outputs.layers, _layers(result)
    for number in range(max(len(before), len(after))):
        pair = _at(before, number), _at(after, number)
        if pair[0] != pair[1]:
            return Reproduction(is_same=False, layer=pair, changed=changed)
    return Reproduction(is_same=True, layer=None, changed=changed)


def _at(layers: Sequence[Layer], number: int) -> Layer | None:
    return layers[number] if number < len(layers) else None


def _layers(artifact: Artifact) -> list[Layer]:
    found = (blob.descriptor for blob in artifact.blobs())
    model = [one for one in found if one.media_type == IMAGE_LAYER and FILEPATH in one.annotations]
    return [Layer(one.annotations[FILEPATH], one.digest, one.size) for one in model]
