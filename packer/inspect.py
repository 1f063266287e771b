"""`packer inspect`: what a model or an artifact is, without changing or fetching more than is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from containers.artifact import CARD
from containers.evidence import CREATED
from containers.layers import FILEPATH
from containers.look import model_snapshot
from containers.modelpack import ARTIFACT
from containers.unpack import model_manifest
from formats.checkpoint import Checkpoint
from formats.examine import graphs_of
from formats.onnx_tensors import raw_size
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo
from formats.text import printable
from packer.evidence import BASELINE, LOW, RECIPE, RETENTION, SUITE, VERDICT
from packer.look import artifact, look
from packer.progress import human, plural
from packer.scorecards import is_ours
from packer.stages import MODELPACK_SUFFIX
from registry.access import Access
from registry.blob import file_of, read_all
from registry.descriptor import Descriptor
from registry.errors import ContentError, NotFoundError, ResponseError
from registry.manifest import MAX_MANIFEST, Index, Manifest, parse_json_object
from registry.reference import LayoutReference, Reference
from registry.store import Source, open_store


def inspect(text: str, access: Access, *, tensors: bool = False) -> dict[str, Any]:
    """What `text` names, as JSON values: a folder or file that is there, a repository of the Hub, else a reference.

    Of a reference only manifests and configs are read, and headers for its `tensors`; of files, headers and what else
    `Checkpoint` looks at; of a repository, headers.
    """
    reference = artifact(text)
    if not reference:
        return _model(text, access, tensors=tensors)
    source = open_store(reference, access)
    root = source.resolve(reference.name)
    report = _reference(reference, root, source)
    return {**report, **_tensors(model_snapshot(model_manifest(root, source), source))} if tensors else report


def _reference(reference: Reference | LayoutReference, root: Manifest | Index, source: Source) -> dict[str, Any]:
    roots = {str(reference): root, **_sibling(source, reference, root)}
    report = {"reference": str(reference), "digest": root.descriptor.digest, **_artifact(roots, source)}
    return {**report, "evaluation": _evaluation(root, source)} if VERDICT in root.annotations else report


def _evaluation(root: Manifest | Index, source: Source) -> dict[str, Any]:
    """What the annotations say of an evaluation, and the digest of the scorecard's referrer, if the store lists it."""
    keys = {"verdict": VERDICT, "retention": RETENTION, "retention_low": LOW}
    keys |= {"suite": SUITE, "baseline": BASELINE, "recipe": RECIPE}
    said = {name: root.annotations.get(key) for name, key in keys.items()}
    listed = list[Descriptor]()
    with suppress(NotFoundError, ContentError, ResponseError):
        listed += filter(is_ours, source.referrers(root.descriptor.digest))
    newest = max(listed, key=lambda entry: entry.annotations.get(CREATED, ""), default=None)
    return {**said, "scorecard": newest.digest if newest else None}


def _model(text: str, access: Access, *, tensors: bool) -> dict[str, Any]:
    checkpoint = Checkpoint(look(text, (), access), allow_code=True)
    files = [_file(file) for file in checkpoint.snapshot.files]
    listed = {"tensors": [_tensor(tensor) for tensor in checkpoint.tensors]} if tensors else {}
    return {
        "path": text,
        "revision": checkpoint.snapshot.origin.revision or None,
        "model": checkpoint.card.to_json(),
        "tensor_count": len(checkpoint.tensors),
        "graphs": graphs_of(checkpoint.read),
        "files": files,
        "bytes": checkpoint.snapshot.size,
        **listed,
    }


def _file(file: ModelFile) -> dict[str, Any]:
    """A file, with its digest if it is on this machine."""
    local = file_of(file.blob)
    return {"path": file.name, "bytes": file.size, **({"digest": local.descriptor.digest} if local else {})}


def _tensors(snapshot: Snapshot) -> dict[str, Any]:
    """The tensors of an artifact, from headers alone; `RejectedError` if no checkpoint is inside."""
    checkpoint = Checkpoint(snapshot, allow_code=True)
    return {
        "tensor_count": len(checkpoint.tensors),
        "tensors": [_tensor(tensor) for tensor in checkpoint.tensors],
        "graphs": graphs_of(checkpoint.read),
    }


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    """A tensor; one that is written into an ONNX model's protobuf has no `offset`, and texts there no `bytes`."""
    is_inside = tensor.end == tensor.start and tensor.parameters > 0
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "bytes": raw_size(tensor.dtype, tensor.parameters) if is_inside else tensor.end - tensor.start,
        "file": tensor.file,
        "offset": None if is_inside else tensor.start,
    }


def _sibling(
    source: Source, reference: Reference | LayoutReference, root: Manifest | Index
) -> dict[str, Manifest | Index]:
    """The ModelPack manifest beside an image of ours, if it is of the same build."""
    if not reference.tag or not isinstance(root, Index):
        return {}
    try:
        sibling = source.resolve(reference.tag + MODELPACK_SUFFIX)
    except NotFoundError:
        return {}
    return {f"{reference}{MODELPACK_SUFFIX}": sibling} if sibling.annotations == root.annotations else {}


def _artifact(roots: dict[str, Manifest | Index], source: Source) -> dict[str, Any]:
    manifests = {
        f"{name} {place}".strip(): manifest for name, root in roots.items() for place, manifest in flat(root, source)
    }
    users: dict[str, list[str]] = {}
    layers: dict[str, dict[str, Any]] = {}
    for name, manifest in manifests.items():
        for layer in manifest.layers:
            users.setdefault(layer.digest, []).append(name)
            known = layers.setdefault(layer.digest, {"digest": layer.digest, "bytes": layer.size})
            known.setdefault("path", layer.annotations.get(FILEPATH))
    return {
        "model": card_of(manifests.values(), source),
        "base": next((root.annotations.get("org.opencontainers.image.base.digest") for root in roots.values()), None),
        "manifests": [_facts(name, manifest) for name, manifest in manifests.items()],
        "layers": [{**layer, "in": users[digest]} for digest, layer in layers.items()],
        "bytes": sum(layer["bytes"] for layer in layers.values()),
        "bytes_if_not_shared": sum(layer.size for manifest in manifests.values() for layer in manifest.layers),
    }


def flat(root: Manifest | Index, source: Source) -> Iterable[tuple[str, Manifest]]:
    """The manifests below a root, or itself, each with its platform."""
    if isinstance(root, Manifest):
        yield "", root
        return
    for child in root.manifests:
        manifest = source.resolve(child.digest)
        if isinstance(manifest, Manifest):
            yield str(child.platform or ""), manifest


def _facts(name: str, manifest: Manifest) -> dict[str, Any]:
    kind = "modelpack" if manifest.artifact_type == ARTIFACT else manifest.artifact_type or "image"
    return {"name": name, "kind": kind, "digest": manifest.descriptor.digest, "layers": len(manifest.layers)}


def card_of(manifests: Iterable[Manifest], source: Source) -> dict[str, Any] | None:
    """What is said of the model: our own annotation, or the config of a ModelPack manifest that somebody else made."""
    for manifest in manifests:
        if card := manifest.annotations.get(CARD):
            return parse_json_object(card.encode(), manifest.descriptor.digest)
        if manifest.artifact_type == ARTIFACT:
            raw = read_all(source.blob(manifest.config), MAX_MANIFEST)
            config = parse_json_object(raw, manifest.config.digest)
            parts = (config.get("config"), config.get("descriptor"))
            return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}
    return None


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [report.get("reference") or report["path"]]
    if "digest" in report:
        lines.append(f"  digest        {report['digest']}")
    lines += [f"  {key:<13} {_show(value)}" for key, value in (report.get("model") or {}).items()]
    if "tensor_count" in report:
        lines.append(f"  tensors       {report['tensor_count']:,}")
    for key in ("base", "revision"):
        if report.get(key):
            lines.append(f"  {key:<13} {report[key]}")
    lines += _evaluated(report.get("evaluation") or {})
    lines += describe_graphs(report.get("graphs") or {})
    lines += ["", *_tables(report)]
    return "\n".join(map(printable, "\n".join(lines).split("\n")))


def _evaluated(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people about an evaluation."""
    if not evaluation:
        return
    known = {key: value or "unknown" for key, value in evaluation.items()}
    retention = f"{known['retention']} of the baseline, at least {known['retention_low']}"
    yield f"  {'evaluation':<13} {known['verdict']}: retains {retention}"
    yield f"  {'suite':<13} {known['suite']}, against {known['baseline']}"
    if evaluation["recipe"]:
        yield f"  {'recipe':<13} {known['recipe']}"
    yield f"  {'scorecard':<13} {evaluation['scorecard'] or 'not listed here'}"


def describe_graphs(graphs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines for people about ONNX graphs, by file: versions, operators that are not standard, inputs and outputs."""
    for name, graph in graphs.items():
        opsets = ", ".join(f"{domain} {version}" for domain, version in graph["opsets"].items())
        yield f"  {name}: IR version {graph['ir_version']}, opset {opsets}"
        for side in ("inputs", "outputs", "foreign_operators"):
            if graph[side]:
                yield f"    {side.replace('_', ' '):<9} {', '.join(graph[side])}"


def _tables(report: dict[str, Any]) -> Iterable[str]:
    for file in report.get("files", ()):
        yield f"{human(file['bytes']):>11}  {file.get('digest', 'not read')[:19]:<19}  {file['path']}"
    for manifest in report.get("manifests", ()):
        yield f"{manifest['kind']:<9}  {manifest['digest']}  {plural(manifest['layers'], 'layer')}  {manifest['name']}"
    if "layers" in report:
        yield ""
    for layer in report.get("layers", ()):
        shared = f"in {len(layer['in'])} of {len(report['manifests'])} manifests"
        yield f"{human(layer['bytes']):>11}  {layer['digest'][:19]}  {layer['path'] or 'base'}  ({shared})"
    total = f"{human(report['bytes']):>11}  in all"
    unshared = report.get("bytes_if_not_shared", report["bytes"])
    yield total + (f"; {human(unshared)} if nothing were shared" if unshared > report["bytes"] else "")
    if report.get("tensors"):
        yield ""
    yield from _tensor_table(report.get("tensors", ()))


def _tensor_table(tensors: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each tensor; with its file, where they are in several."""
    files = {tensor["file"] for tensor in tensors}
    width = max(map(len, files), default=0) + 2 if len(files) > 1 else 0
    for tensor in tensors:
        size = "in the model" if tensor["bytes"] is None else human(tensor["bytes"])
        shape = f"[{', '.join(map(str, tensor['shape']))}]"
        file = f"{tensor['file']:<{width}}" if width else ""
        yield f"{size:>12}  {tensor['dtype']:<7}  {shape:<18}  {file}{tensor['name']}"


def _show(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(member)}" for key, member in value.items())
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)
