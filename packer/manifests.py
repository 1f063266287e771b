"""`packer manifests`: what must be known of a published model is read, and becomes documents for a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from containers.artifact import CARD
from containers.check.programs import has_shell
from containers.layers import FILEPATH
from containers.look import model_snapshot
from containers.manifests.document import Manifests, render
from containers.manifests.model import Model, Sizes, sizes_of_config, sizes_of_gguf
from containers.manifests.modes import make, require_use
from containers.manifests.options import Mode, Options
from containers.manifests.serving import Serving
from containers.unpack import model_manifest
from formats import gguf
from formats.config import CONFIG
from formats.document import read_json
from formats.rules import model as rules
from formats.snapshot import Snapshot
from registry.access import Access
from registry.descriptor import IMAGE_CONFIG, Descriptor
from registry.errors import UsageError
from registry.manifest import Index, Manifest
from registry.reference import LayoutReference, Reference, parse_reference
from registry.store import Source, open_store


@dataclass(frozen=True)
class Made:
    """What was made for which model."""

    model: Model
    options: Options
    manifests: Manifests
    serving: Serving | None

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        serving = self.serving
        decided = (
            {
                "runtime": serving.runtime.name,
                "runtime_image": self._image,
                "gpu": serving.gpus,
                "max_length": serving.estimate.length or None,
                "memory": {"device": serving.estimate.needed if serving.gpus else None, "host": serving.estimate.host},
                "explanation": serving.estimate.explain(),
            }
            if serving
            else {}
        )
        return {
            "reference": str(self.model.reference),
            "asked": self.model.asked,
            "mode": self.options.mode.value,
            "requires": list(self.manifests.requires),
            **decided,
            "documents": [document.body for document in self.manifests.documents],
        }

    def names(self, image: str) -> bool:
        """Whether the documents name an image."""
        return any(repr(image) in repr(document.body) for document in self.manifests.documents)

    @property
    def _image(self) -> str | None:
        """The server's image; None if it is KServe's choice."""
        is_free = self.options.mode is Mode.LLM_INFERENCE_SERVICE and not self.options.runtime_image
        return self.serving.image if self.serving and not is_free else None

    def render(self, *, explain: bool) -> str:
        """The documents as YAML, with what they need above them, and the arithmetic if asked for."""
        return render(list(self._head(explain=explain)), self.manifests.documents)

    def _head(self, *, explain: bool) -> Iterable[str]:
        yield f"{self.options.mode} of {self.model.asked}"
        yield str(self.model.reference)
        yield f"Needs: {'; '.join(self.manifests.requires)}."
        if not (serving := self.serving):
            return
        estimate = serving.estimate
        yield f"Runs: {serving.runtime.name}, {self._image or 'in the image of KServe itself'}."
        length = f"; sequences of {estimate.length:,} tokens" if estimate.length else ""
        device = f"{_gib(estimate.needed)} of {'each' if serving.gpus > 1 else 'the'} GPU and " if serving.gpus else ""
        yield f"Memory, estimated: {device}{_gib(estimate.host)} of the node{length}. --explain shows the arithmetic."
        if explain:
            yield "\n".join(f"  {line}" for line in estimate.explain())


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def manifests(text: str, options: Options, access: Access) -> Made:
    """The documents for the model that `text` names, pinned by the digest that it has now.

    `UsageError` for a layout, which no node can reach, and for options that have no effect; `ModelError` for a model
    that cannot be served so.
    """
    require_use(options)
    reference = parse_reference(text)
    if isinstance(reference, LayoutReference):
        raise UsageError(
            "no node reaches a layout in a folder",
            subject=str(reference),
            expected="a reference in a registry",
            hint=f"packer push {reference} HOST/REPO:TAG, and give that",
        )
    model = read_model(reference, open_store(reference, access))
    made, serving = make(model, options)
    return Made(model, options, made, serving)


def read_model(reference: Reference, source: Source) -> Model:
    """What must be known of an artifact, from its manifests, the headers of its layers, and its config.json."""
    root = source.resolve(reference.name)
    manifest = model_manifest(root, source)
    snapshot = model_snapshot(manifest, source, MAX_COMPRESSED)
    config = _config(snapshot)
    return Model(
        reference=reference.at(root.descriptor.digest),
        asked=str(reference),
        is_image=manifest.config.media_type in _IMAGES,
        has_shell=has_shell(_unlike_ours(manifest), source),
        architectures=_architectures(root),
        files={str(file.name): file.size for file in snapshot.files},
        sizes=sizes_of_config(config) or _gguf_sizes(snapshot),
    )


MAX_COMPRESSED = 64 << 20
"""Bytes of a compressed layer that is fetched to look into it: those of bases and configurations are smaller."""

_IMAGES = (IMAGE_CONFIG, "application/vnd.docker.container.image.v1+json")


def _unlike_ours(manifest: Manifest) -> Sequence[Descriptor]:
    """The layers that may hold programs: in an image of ours those below the model, in another all."""
    is_ours = CARD in manifest.annotations
    return [layer for layer in manifest.layers if not (is_ours and FILEPATH in layer.annotations)]


def _architectures(root: Manifest | Index) -> tuple[str, ...]:
    """The architectures that an index is for; none, if it does not say."""
    if isinstance(root, Manifest):
        return ()
    known = {entry.platform.architecture for entry in root.manifests if entry.platform}
    return tuple(sorted(known - {"unknown", ""}))


def _config(snapshot: Snapshot) -> dict[str, Any]:
    file = snapshot.get(CONFIG)
    return read_json(file, rules.CONFIG_JSON) if file else {}


def _gguf_sizes(snapshot: Snapshot) -> Sizes | None:
    """The sizes in the first GGUF file that tells them; those of a split stand in its first part."""
    for file in snapshot.files:
        if file.suffix == ".gguf":
            header = gguf.read_header(file)
            metadata = {key: pair.value for key, pair in header.pairs.items()}
            rows = [tensor.shape[0] for tensor in header.tensors if tensor.name == "token_embd.weight"]
            if sizes := sizes_of_gguf(metadata, rows[0] if rows else 0):
                return sizes
    return None
