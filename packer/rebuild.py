"""`packer rebuild`: whether anything that a release is made of has changed, and whether it comes out the same again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from containers.artifact import Artifact
from containers.base import Base
from packer.lock import Change, Entry, Layer, Locked, Outputs, changes, model_layers
from packer.pipeline import Build, pipeline
from packer.plan import find_base
from packer.sources import Source
from packer.stages import STAGES
from packer.state import State
from packer.watch import Run
from registry.access import Access
from registry.descriptor import Digest
from registry.errors import ContentError, ModelError, NotFoundError, UsageError
from registry.reference import parse_reference


def differences(build: Build, inputs: dict[str, Entry], locked: Locked | None) -> list[Change]:
    """What is not as the lock says: inputs, and tags that name something else by now, or nothing."""
    if not locked:
        return changes({}, inputs)
    released = _released(locked.outputs)
    now = {kind: found for kind, entry in released.items() if (found := _named(build, entry))}
    return [*changes(locked.inputs, inputs), *changes(released, now)]


def _released(outputs: Outputs) -> dict[str, Entry]:
    """What each tag was given, by kind."""
    made = [reference for reference in (outputs.image, outputs.modelpack) if reference]
    return {
        f"tag {tag}": Entry(tag, reference.rpartition("@")[2])
        for tag, reference in zip(outputs.tags, made, strict=True)
    }


def _named(build: Build, entry: Entry) -> Entry | None:
    """What a tag names now; None if it is not there."""
    try:
        return Entry(entry.name, build.store.resolve(entry.name).descriptor.digest)
    except (NotFoundError, ContentError):
        return None


@dataclass(frozen=True)
class Reproduction:
    """What came of building a release again.

    `layer` is the model's first layer that differs, as it was and as it is now; `others` are the manifests that differ.
    `changed` are inputs that are not what they were, as far as they could not be had as they were.
    """

    layer: tuple[Layer | None, Layer | None] | None
    others: Sequence[str]
    changed: Sequence[Change]

    @property
    def is_same(self) -> bool:
        """Whether all of it came out as it was released."""
        return not self.layer and not self.others

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        before, after = self.layer or (None, None)
        return {
            "same": self.is_same,
            "layer": {"before": vars(before) if before else None, "after": vars(after) if after else None},
            "manifests": list(self.others),
            "changed": [change.to_json() for change in self.changed],
        }

    def render(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.is_same:
            yield "the same: every manifest and every layer comes out as it was released"
            return
        if self.layer:
            before, after = self.layer
            yield f"differs   {(before or after or Layer('?', '', 0)).path}"
            yield f"  was     {before.digest if before else 'not there'}"
            yield f"  is      {after.digest if after else 'not there'}"
        else:
            yield f"differs   {', '.join(self.others)}; the model's layers are the same"
        for change in self.changed:
            yield f"because   {change}"
        if not self.changed:
            yield "because   nothing that is known changed: these stages do not make the same of the same"


def as_locked(build: Build, now: Mapping[str, Entry], locked: Locked, access: Access) -> Build:
    """The build with its source, its baseline and its base as they were, as far as they have revisions.

    `now` are the inputs of today; `UsageError` if the file names another source, baseline or base than it did.
    """
    for kind in ("source", "baseline", "base"):
        was, found = locked.inputs.get(kind), now.get(kind)
        if (was and was.name) != (found and found.name):
            raise UsageError(
                f"the build file names another {kind} than the release was made of",
                expected=was and was.name,
                found=found and found.name,
                hint="check out the build file as it was, beside its lock",
            )
    source = _back(build.source, locked.inputs["source"])
    baseline = _back(build.baseline, locked.inputs["baseline"]) if build.baseline else None
    return replace(build, source=source, baseline=baseline, base=_base_as_locked(build.base, locked, access))


def _base_as_locked(base: Base, locked: Locked, access: Access) -> Base:
    """The base as it was, if it is one that has a past: not what this machine has, nor none."""
    was = locked.inputs["base"].value
    if was == base.digest or base.name in ("busybox", "none"):
        return base
    platforms = [image.platform for image in base.images]
    return replace(find_base(str(parse_reference(base.name).at(Digest(was))), platforms, {}, access), name=base.name)


def _back(source: Source, entry: Entry) -> Source:
    return source.at(State(entry.revision, Digest(entry.value))) if entry.revision else source


def reproduce(build: Build, locked: Locked, changed: Sequence[Change], run: Run) -> Reproduction:
    """Build it again, as far as `package`, and compare it with the release."""
    *_, result = islice(pipeline(build, run), STAGES.index("package") + 1)
    if not isinstance(result, Artifact):
        raise ModelError("this time the model is refused, so there is nothing to compare", hint="look at its scorecard")
    before, after = locked.outputs.layers, model_layers(blob.descriptor for blob in result.blobs())
    pairs = ((_at(before, number), _at(after, number)) for number in range(max(len(before), len(after))))
    made = {"image": result.image, "modelpack": result.modelpack}
    digests = {kind: graph and graph.root.descriptor.digest for kind, graph in made.items()}
    released = {"image": locked.outputs.image, "modelpack": locked.outputs.modelpack}
    others = [kind for kind, said in released.items() if (said and said.rpartition("@")[2]) != digests[kind]]
    return Reproduction(next((pair for pair in pairs if pair[0] != pair[1]), None), others, changed)


def _at(layers: Sequence[Layer], number: int) -> Layer | None:
    return layers[number] if number < len(layers) else None
