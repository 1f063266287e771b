"""The modes: what each makes of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from containers.manifests import kserve, ways
from containers.manifests.cache import model_cache
from containers.manifests.claim import claim
from containers.manifests.document import Manifests
from containers.manifests.llm import llm_inference_service
from containers.manifests.model import Model
from containers.manifests.options import Mode, Options
from containers.manifests.prefetch import prefetch
from containers.manifests.serving import Serving, decide
from registry.errors import ModelError

MODES: Mapping[Mode, Callable[[Serving], Manifests]] = {
    Mode.IMAGE_VOLUME: ways.image_volume,
    Mode.MODELCAR: ways.modelcar,
    Mode.INIT_CONTAINER: ways.init_container,
    Mode.PVC: claim,
    Mode.KSERVE: kserve.kserve,
    Mode.KSERVE_NATIVE: kserve.kserve_native,
    Mode.LLM_INFERENCE_SERVICE: llm_inference_service,
    Mode.MODEL_CACHE: model_cache,
}
"""What serves; a prefetch serves nothing, and takes any image."""

ARTIFACTS = frozenset((Mode.PVC, Mode.KSERVE, Mode.MODEL_CACHE))
"""The modes in which packer's own image fetches the model, whatever its manifest is."""


def make(model: Model, options: Options) -> tuple[Manifests, Serving | None]:
    """The documents of a mode, and what was decided; `ModelError` or `UsageError` for what does not go together."""
    if not model.is_image and options.mode not in ARTIFACTS:
        raise ModelError(
            f"{options.mode} needs an image; of a ModelPack artifact containerd mounts an empty folder",
            subject=str(model.reference),
            expected="the tag of the image",
            found=model.asked,
            hint=f"leave out -modelpack behind the tag, or use --mode {', '.join(sorted(ARTIFACTS))}",
        )
    if options.mode is Mode.PREFETCH:
        return prefetch(model, options), None
    serving = decide(model, options)
    return MODES[options.mode](serving), serving
