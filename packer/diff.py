"""`packer diff`: two published variants of a model, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from containers.layers import FILEPATH
from formats.card import Card
from packer.evidence import RECIPE
from packer.inspect import card_of, flat
from packer.look import artifact
from packer.progress import human, plural
from packer.scorecards import Published, agreements, divergences, find_scorecard, labelled, plain, shares, table
from recipes.evaluation.report.verdict import headline
from recipes.evaluation.scorecard import Scorecard
from registry.access import Access
from registry.descriptor import Descriptor, Digest
from registry.errors import ContentError, UsageError
from registry.manifest import Index, Manifest
from registry.reference import LayoutReference, Reference
from registry.store import open_store

BASE = "org.opencontainers.image.base.digest"
SOURCE, REVISION = "org.opencontainers.image.source", "org.opencontainers.image.revision"


@dataclass(frozen=True)
class Variant:
    """A published variant: what `reference` names, its manifests by platform, what is said of the model, and the
    scorecard, if there is one.
    """

    reference: str
    root: Manifest | Index
    manifests: Mapping[str, Manifest]
    model: Mapping[str, Any]
    published: Published | None

    @property
    def scorecard(self) -> Scorecard | None:
        """What was measured of it."""
        return self.published.scorecard if self.published else None

    @property
    def recipe(self) -> str:
        """By which recipe it was made, if that is told."""
        return self.scorecard.candidate.recipe if self.scorecard else self.root.annotations.get(RECIPE, "")


@dataclass(frozen=True)
class Layers:
    """The layers of two variants, on a platform that both have; of those for no common one, whichever is first."""

    platforms: tuple[str, str]
    shared: tuple[Descriptor, ...]
    only_a: tuple[Descriptor, ...]
    only_b: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Difference:
    """Two variants, the layers that they share or not, and why their scorecards cannot be compared, if they cannot."""

    a: Variant
    b: Variant
    layers: Layers
    unlike: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The whole, as JSON values. `bytes` of `only_b` are what a node that has A still pulls for B."""
        kinds = {"shared": self.layers.shared, "only_a": self.layers.only_a, "only_b": self.layers.only_b}
        return {
            "a": _to_json(self.a, self.layers.platforms[0]),
            "b": _to_json(self.b, self.layers.platforms[1]),
            "layers": {kind: list(map(_layer, layers)) for kind, layers in kinds.items()},
            "bytes": {kind: _bytes(layers) for kind, layers in kinds.items()},
            "comparable": not self.unlike,
            "why_not": list(self.unlike),
        }


def compare(a: str, b: str, access: Access) -> Difference:
    """What two references say of two variants. Only manifests, configs and scorecards are read."""
    one, other = _variant(a, access), _variant(b, access)
    return Difference(one, other, _layers(one, other), tuple(_unlike(one, other)))


def _variant(text: str, access: Access) -> Variant:
    reference: Reference | LayoutReference | None = artifact(text)
    if not reference:
        hint = "packer inspect shows what is not published"
        raise UsageError("this is no published artifact", subject=text, hint=hint)
    store = open_store(reference, access)
    root = store.resolve(reference.name)
    manifests = dict(flat(root, store))
    if not manifests:
        raise ContentError("this index holds no image", subject=str(reference))
    model = card_of(manifests.values(), store) or {}
    return Variant(str(reference), root, manifests, model, find_scorecard(root, store))


def _layers(a: Variant, b: Variant) -> Layers:
    common = [platform for platform in a.manifests if platform in b.manifests]
    platforms = (common[0], common[0]) if common else (next(iter(a.manifests)), next(iter(b.manifests)))
    ours, theirs = _by_digest(a.manifests[platforms[0]]), _by_digest(b.manifests[platforms[1]])
    return Layers(
        platforms,
        shared=tuple(layer for digest, layer in ours.items() if digest in theirs),
        only_a=tuple(layer for digest, layer in ours.items() if digest not in theirs),
        only_b=tuple(layer for digest, layer in theirs.items() if digest not in ours),
    )


def _by_digest(manifest: Manifest) -> dict[Digest, Descriptor]:
    return {layer.digest: layer for layer in manifest.layers}


def _unlike(one: Variant, other: Variant) -> Iterator[str]:
    """Why what was measured of two variants says nothing about which is better."""
    for (name, variant), (base, measured_against) in permutations((("A", one), ("B", other))):
        if variant.scorecard and _is_baseline(measured_against, variant.scorecard):
            yield (
                f"{base} is what {name} was measured against, so the scorecard of {name} compares them: "
                f"{headline(variant.scorecard)} (packer scorecard {variant.reference})"
            )
            return
    a, b = one.scorecard, other.scorecard
    yield from (f"{name} has no scorecard" for name, card in (("A", a), ("B", b)) if not card)
    if not a or not b:
        return
    if a.baseline.digest != b.baseline.digest:
        yield f"they were measured against other baselines: A {_named(a)}, B {_named(b)}"
    if a.samples.suite_digest != b.samples.suite_digest:
        yield f"they were measured by other suites: A {a.samples.suite}, B {b.samples.suite}"
    elif a.samples.data_digest != b.samples.data_digest:
        yield f"they were measured on other data: A {a.samples.data}, B {b.samples.data}"


def _is_baseline(variant: Variant, of: Scorecard) -> bool:
    """Whether a variant is what a scorecard calls the baseline: by its own scorecard, by its digest, or since it was
    made from the same revision and left as it was.
    """
    if variant.scorecard:
        return variant.scorecard.candidate.digest == of.baseline.digest
    if not of.baseline.revision:
        return False
    if of.baseline.revision == variant.root.descriptor.digest:
        return True
    said = variant.root.annotations
    is_same = (said.get(SOURCE), said.get(REVISION)) == (of.baseline.url, of.baseline.revision)
    return is_same and (variant.model.get("quantization") or _precision(variant.model)) == of.baseline.precision


def _named(scorecard: Scorecard) -> str:
    return f"{scorecard.baseline.name} {scorecard.baseline.digest[:19]}".strip()


def _to_json(variant: Variant, platform: str) -> dict[str, Any]:
    layers = variant.manifests[platform].layers
    published = variant.published
    return {
        "reference": variant.reference,
        "digest": variant.root.descriptor.digest,
        "platform": platform or None,
        "model": dict(variant.model),
        "precision": _precision(variant.model) or None,
        "recipe": variant.recipe or None,
        "base": variant.root.annotations.get(BASE),
        "layers": len(layers),
        "bytes": _bytes(layers),
        "scorecard": {"digest": published.digest, **published.document} if published else None,
    }


def _layer(layer: Descriptor) -> dict[str, Any]:
    return {"digest": layer.digest, "bytes": layer.size, "path": layer.annotations.get(FILEPATH)}


def _bytes(layers: Iterable[Descriptor]) -> int:
    return sum(layer.size for layer in layers)


def _precision(model: Mapping[str, Any]) -> str:
    """The dtype of most weights; a ModelPack config of others may tell it."""
    dtypes = model.get("dtypes")
    if isinstance(dtypes, dict):
        return Card("", "", "", "", "", "", "", 0, dtypes).precision
    return str(model.get("precision", ""))


# ---------------------------------------------------------------- for people


def render(difference: Difference) -> str:
    """The difference for people."""
    a, b = difference.a, difference.b
    lines = [
        f"A  {a.reference}",
        f"   {a.root.descriptor.digest}",
        f"B  {b.reference}",
        f"   {b.root.descriptor.digest}",
    ]
    lines += ["", *table([["", "A", "B", ""], *_facts(difference)]), "", *_layer_lines(difference.layers)]
    lines += ["", *_evaluations(difference)]
    return plain(lines)


def _facts(difference: Difference) -> Iterator[list[str]]:
    rows = [_row(difference.a, difference.layers.platforms[0]), _row(difference.b, difference.layers.platforms[1])]
    for label, one in rows[0].items():
        if one or rows[1][label]:
            yield [label, one or "-", rows[1][label] or "-", "" if one == rows[1][label] else "differs"]


def _row(variant: Variant, platform: str) -> dict[str, str]:
    model, layers = variant.model, variant.manifests[platform].layers
    parameters = model.get("parameters", model.get("paramSize", ""))
    return {
        "name": str(model.get("name", "")),
        "format": str(model.get("format", "")),
        "precision": _precision(model),
        "quantization": str(model.get("quantization", "")),
        "parameters": f"{parameters:,}" if isinstance(parameters, int) else str(parameters),
        "recipe": variant.recipe,
        "base": variant.root.annotations.get(BASE, "")[:19],
        "platform": platform,
        "layers": f"{human(_bytes(layers))} in {len(layers)}",
        "verdict": variant.scorecard.verdict.value if variant.scorecard else "",
    }


def _layer_lines(layers: Layers) -> Iterator[str]:
    pulled = f"a node that has A still pulls {human(_bytes(layers.only_b))} for B"
    yield f"{plural(len(layers.shared), 'layer')} of {human(_bytes(layers.shared))} in both; {pulled}"
    for where, some in (("A and B", layers.shared), ("A", layers.only_a), ("B", layers.only_b)):
        for layer in some:
            path = layer.annotations.get(FILEPATH, "base")
            yield f"  {human(layer.size):>10}  {layer.digest[:19]}  {where:<7}  {path}"


def _evaluations(difference: Difference) -> Iterator[str]:
    a, b = difference.a.scorecard, difference.b.scorecard
    if difference.unlike or not a or not b:
        yield f"the evaluations cannot be compared: {'; '.join(difference.unlike)}"
        return
    yield f"measured by {a.samples.suite}, against {_named(a)}"
    header = ["", "A", "between", "B", "between", ""]
    yield from table([header, *([label, *one, *other, ""] for label, one, other in _measured(a, b))])
    yield from _circumstances(a, b)


def _measured(a: Scorecard, b: Scorecard) -> Iterator[tuple[str, tuple[str, str], tuple[str, str]]]:
    """What was measured of both: a label, and of each an estimate and its interval."""
    theirs = {metric.name: metric.retention for metric in b.metrics}
    for one in a.metrics:
        if other := theirs.get(one.name):
            yield f"retention of {one.name}", shares(one.retention, a.gate.retain), shares(other, b.gate.retain)
    if a.divergence and b.divergence:
        yield "divergence, nats", divergences(a.divergence.mean), divergences(b.divergence.mean)
        yield "agreement", agreements(a.divergence.agreement), agreements(b.divergence.agreement)


def _circumstances(a: Scorecard, b: Scorecard) -> Iterator[str]:
    """What may have a part in the difference, though it is not the models."""
    one, other = a.circumstances, b.circumstances
    parts = {
        "samples": (a.samples.used, b.samples.used),
        "seed": (one.seed, other.seed),
        "what computed": (f"{one.backend} on {one.kind}", f"{other.backend} on {other.kind}"),
        "versions": (dict(one.versions), dict(other.versions)),
    }
    if unequal := [name for name, (ours, theirs) in parts.items() if ours != theirs]:
        yield labelled("note", f"not the same in both: {', '.join(unequal)}")
