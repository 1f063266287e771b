"""`packer inspect`: what a model or an artifact is, without changing or fetching more than is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from containers.artifact import CARD
from containers.layers import FILEPATH
from containers.look import model_snapshot
from containers.modelpack import ARTIFACT
from containers.unpack import model_manifest
from formats.checkpoint import Checkpoint
from formats.examine import graphs_of
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo
from formats.text import printable
from packer.look import artifact, look
from packer.progress import human
from packer.publish import MODELPACK_SUFFIX
from registry.blob import file_of, read_all
from registry.errors import NotFoundError
from registry.manifest import MAX_MANIFEST, Index, Manifest, parse_json_object
from registry.reference import LayoutReference, Reference
from registry.store import Source, open_store


def inspect(text: str, *, tensors: bool = False, plain_http: bool = False) -> dict[str, Any]:
    """What `text` names, as JSON values: a folder or file that is there, a repository of the Hub, else a reference.

    Of a reference only manifests and configs are read, and headers for its `tensors`; of files, headers and what else
    `Checkpoint` looks at; of a repository, headers.
    """
    reference = artifact(text)
    if not reference:
        return _model(text, tensors=tensors)
    source = open_store(reference, plain_http=plain_http)
    root = source.resolve(reference.name)
    report = _reference(reference, root, source)
    return {**report, **_tensors(model_snapshot(model_manifest(root, source), source))} if tensors else report


def _reference(reference: Reference | LayoutReference, root: Manifest | Index, source: Source) -> dict[str, Any]:
    roots = {str(reference): root, **_sibling(source, reference, root)}
    return {"reference": str(reference), "digest": root.descriptor.digest, **_artifact(roots, source)}


def _model(text: str, *, tensors: bool) -> dict[str, Any]:
    checkpoint = Checkpoint(look(text), allow_code=True)
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
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "bytes": tensor.end - tensor.start,
        "file": tensor.file,
        "offset": tensor.start,
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
        f"{name} {place}".strip(): manifest for name, root in roots.items() for place, manifest in _flat(root, source)
    }
    users: dict[str, list[str]] = {}
    layers: dict[str, dict[str, Any]] = {}
    for name, manifest in manifests.items():
        for layer in manifest.layers:
            users.setdefault(layer.digest, []).append(name)
            known = layers.setdefault(layer.digest, {"digest": layer.digest, "bytes": layer.size})
            known.setdefault("path", layer.annotations.get(FILEPATH))
    return {
        "model": _card(manifests.values(), source),
        "base": next((root.annotations.get("org.opencontainers.image.base.digest") for root in roots.values()), None),
        "manifests": [_facts(name, manifest) for name, manifest in manifests.items()],
        "layers": [{**layer, "in": users[digest]} for digest, layer in layers.items()],
        "bytes": sum(layer["bytes"] for layer in layers.values()),
        "bytes_if_not_shared": sum(layer.size for manifest in manifests.values() for layer in manifest.layers),
    }


def _flat(root: Manifest | Index, source: Source) -> Iterable[tuple[str, Manifest]]:
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


def _card(manifests: Iterable[Manifest], source: Source) -> dict[str, Any] | None:
    """Our own annotation, or the config of a ModelPack manifest that somebody else made."""
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
    lines += describe_graphs(report.get("graphs") or {})
    lines += ["", *_tables(report)]
    return "\n".join(map(printable, "\n".join(lines).split("\n")))


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
        yield f"{manifest['kind']:<9}  {manifest['digest']}  {manifest['layers']} layers  {manifest['name']}"
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
    for tensor in report.get("tensors", ()):
        shape = f"[{', '.join(map(str, tensor['shape']))}]"
        yield f"{human(tensor['bytes']):>11}  {tensor['dtype']:<7}  {shape:<18}  {tensor['name']}"


def _show(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(member)}" for key, member in value.items())
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)
