"""The modes: what each makes of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from containers.manifests import kserve, ways
from containers.manifests.cache import model_cache
from containers.manifests.claim import claim
from containers.manifests.document import Manifests
from containers.manifests.llm import llm_inference_service
from containers.manifests.model import Model
from containers.manifests.options import Kind, Mode, Options, Sidecar
from containers.manifests.prefetch import prefetch
from containers.manifests.serving import Serving, decide
from registry.errors import ModelError, UsageError

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


_KSERVE = frozenset((Mode.KSERVE, Mode.KSERVE_NATIVE, Mode.LLM_INFERENCE_SERVICE, Mode.MODEL_CACHE))


def require_use(options: Options) -> None:
    """`UsageError` for what would have no effect in this mode, and may be believed to have one."""
    mode, is_pod = options.mode, options.kind is Kind.POD
    idle = {
        "--kind pod": is_pod and (mode in _KSERVE or mode is Mode.PREFETCH),
        "--kind pod, with --replicas": is_pod and options.replicas != 1,
        "--sidecar plain": options.sidecar is Sidecar.PLAIN and mode is not Mode.MODELCAR,
        "--port": options.port and mode is Mode.LLM_INFERENCE_SERVICE,
        "--storage-class": options.storage_class and mode not in (Mode.PVC, Mode.MODEL_CACHE),
    }
    if said := next((flag for flag, is_idle in idle.items() if is_idle), ""):
        raise UsageError(f"this has no effect in the mode {mode}", found=said, hint="leave it out")


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
