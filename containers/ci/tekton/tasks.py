"""The Tasks: one step each, `packer build FILE --until STAGE`.

What a step makes lies in the workspace `cache`, so a task that is tried again goes on where it stopped, and the next
one finds what it needs. Each pod has one step that asks for anything: Tekton adds up what the steps of a pod ask for.
https://tekton.dev/docs/pipelines/tasks/
"""

from __future__ import annotations

from containers.ci.tekton.plan import STAGES, Document, Plan

RESULTS = "/tekton/results"
"""Where Tekton looks for the results of a step."""

REFUSAL = "$(workspaces.cache.path)/refusals/$(context.taskRun.uid)"
"""Where a step notes that another try is of no use: Tekton tries a task again whatever its exit was. All its tries are
one TaskRun, and what lies on the volume outlasts them.
"""

UNTIL = {"fetch": "shard", "quantize": "quantize", "evaluate": "evaluate", "publish": "publish"}
"""How far `packer build` goes in each task."""

MEANINGS = {
    "IMAGE_URL": "The model's image, HOST/REPO:TAG.",
    "IMAGE_DIGEST": "Its digest, sha256:...",
    "SOURCE_URL": "What the model was made from.",
    "SOURCE_REVISION": "Its commit or digest.",
    "VERDICT": "retained, lost or undecided; empty if nothing was measured.",
    "RETENTION": "The share of the baseline that the model retains.",
    "CHANGED": "Whether the tag names something else than before: true or false.",
    "source_ARTIFACT_INPUTS": "The source, as Tekton Chains reads it.",
    "modelpack_ARTIFACT_OUTPUTS": "The ModelPack manifest, as Tekton Chains reads it.",
}
"""The results, and what they mean."""

_PARTS = {
    "source_ARTIFACT_INPUTS": ("uri", "digest"),
    "modelpack_ARTIFACT_OUTPUTS": ("uri", "digest", "isBuildArtifact"),
}
"""The results that are objects, and of what."""


def tasks(plan: Plan) -> list[Document]:
    """The Tasks of all stages."""
    return [_task(plan, stage) for stage in plan.stages]


def task_results(plan: Plan, stage: str) -> tuple[str, ...]:
    """The results of a stage's Task: all of a task fit into 4096 bytes together."""
    if stage == "fetch":
        return ("SOURCE_URL", "SOURCE_REVISION") if plan.pins else ()
    measured = ("VERDICT", "RETENTION") if "evaluate" in plan.stages else ()
    if stage == "evaluate":
        return measured
    hints = (
        *(["source_ARTIFACT_INPUTS"] if plan.pins else []),
        *(["modelpack_ARTIFACT_OUTPUTS"] if plan.modelpack else []),
    )
    return ("IMAGE_URL", "IMAGE_DIGEST", *measured, "CHANGED", *hints) if stage == "publish" else ()


def parameters(plan: Plan) -> list[Document]:
    """The parameters that all Tasks have."""
    file = {
        "name": "file",
        "type": "string",
        "description": "The build file, in the workspace build.",
        "default": plan.file,
    }
    variant = {"name": "variant", "type": "string", "description": "Which of the build file's variants."}
    return [file, {**variant, "default": plan.variants[0]}] if plan.variants else [file]


def workspaces() -> list[Document]:
    """The workspaces that all Tasks have."""
    return [
        {"name": "build", "description": "The build file, and what it names beside it.", "readOnly": True},
        {"name": "cache", "description": "What outlasts a task: downloads, quantized weights, measurements."},
        {
            "name": "dockerconfig",
            "description": "A config.json with the logins at registries.",
            "readOnly": True,
            "optional": True,
        },
    ]


def _task(plan: Plan, stage: str) -> Document:
    return {
        "apiVersion": "tekton.dev/v1",
        "kind": "Task",
        "metadata": plan.meta(plan.named(stage)),
        "spec": {
            "description": STAGES[stage],
            "params": parameters(plan),
            "workspaces": workspaces(),
            **({"results": list(map(_result, task_results(plan, stage)))} if task_results(plan, stage) else {}),
            "steps": [_step(plan, stage)],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def _result(name: str) -> Document:
    said = {"name": name, "description": MEANINGS[name]}
    if name not in _PARTS:
        return {**said, "type": "string"}
    return {**said, "type": "object", "properties": {part: {"type": "string"} for part in _PARTS[name]}}


def _step(plan: Plan, stage: str) -> Document:
    return {
        "name": stage,
        "image": plan.image,
        "command": ["packer"],
        "args": _arguments(plan, stage),
        "env": _environment(plan),
        "computeResources": _resources(plan, stage),
        "securityContext": {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108 - in the container
    }


def _arguments(plan: Plan, stage: str) -> list[str]:
    words = ["build", "$(workspaces.build.path)/$(params.file)", "--until", UNTIL[stage]]
    if plan.variants:
        words += ["--variant", "$(params.variant)"]
    if plan.reports and stage in ("evaluate", "publish"):
        words += ["--report", "$(workspaces.cache.path)/report"]
    return [*words, "--result-dir", RESULTS, "--refusal", REFUSAL]


def _environment(plan: Plan) -> list[Document]:
    token = {"name": "huggingface", "key": "token", "optional": True}
    return [
        {"name": "PACKER_CACHE", "value": "$(workspaces.cache.path)"},
        {"name": "DOCKER_CONFIG", "value": "$(workspaces.dockerconfig.path)"},
        {"name": "HF_HOME", "value": "$(workspaces.cache.path)/huggingface"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}},
        *({"name": name, "value": value} for name, value in plan.environment.items()),
    ]


def _resources(plan: Plan, stage: str) -> Document:
    is_heavy = stage in ("quantize", "evaluate")
    requests = {"cpu": "1", "memory": plan.claim.memory if is_heavy else "2Gi"}
    if stage in plan.with_gpu:
        count = str(plan.claim.gpus)
        return {"requests": {**requests, plan.claim.gpu: count}, "limits": {plan.claim.gpu: count}}
    return {"requests": requests}
