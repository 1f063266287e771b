"""GitHub Actions: the workflow that builds the models of a build file, and the one that other repositories call.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax. Whatever is not ours is pinned by
commit. No expression stands in a script: values reach scripts as variables of the environment, in `action.yml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHECKOUT = "actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd"
ATTEST = "actions/attest@1e69f48acb82d1966a394da916b4c1698aa569d6"
UPLOAD = "actions/upload-artifact@043fb46d1a93c77aae656e7c1c64a875d1fc6a0a"

GHCR = "ghcr.io"
"""The registry where a job's own token is the login."""

TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
"""An index whose torch has no libraries for GPUs: gigabytes less on a runner with 14 GB of disk."""

MINUTES = 350
"""What a build may take, in minutes: hosted runners end a job after 360, and say less about it."""

COMMENTS: Mapping[str, str] = {
    f"uses: {CHECKOUT}": "v6.0.2",
    f"uses: {ATTEST}": "v4.2.2",
    f"uses: {UPLOAD}": "v7.0.1",
    "contents: read": "to check out",
    "packages: write": "to push to ghcr.io",
    "id-token: write": "to sign attestations",
    "attestations: write": "to keep them at GitHub",
    "uses: ./.packer": "zizmor: ignore[self-repository] another repository's, checked out above",
    "uses: ./": "zizmor: ignore[self-repository] $/ cannot name an action at the root",
    "permissions: {}": "none but those of the job",
    "HOME: ${{ steps.build.outputs.home }}": "where it looks for the login",
    "create-storage-record: false": "it would need artifact-metadata: write",
    "cancel-in-progress: false": "a build that has begun is not wasted",
    "fail-fast: false": "a variant that is refused does not stop the others",
}
"""What is said beside lines of the documents."""

_OUTPUTS = ("reference", "digest", "verdict", "retention", "changed")
"""The outputs of the action that are those of a job too."""

_MEANINGS = {
    "reference": "The image, HOST/REPO:TAG; empty if nothing was published.",
    "digest": "Its digest, sha256:...",
    "verdict": "retained, lost or undecided; empty if nothing was measured.",
    "retention": "The share of the original that the model retains.",
    "changed": "Whether the tag names something else than before, true or false.",
}


@dataclass(frozen=True)
class Workflow:
    """What a workflow is made of.

    `name` is the model's and the file's; `file` the build file in the repository; `place` is HOST/REPO, where it goes;
    `action` is OWNER/REPO@REF or ./, `registry` the host to log in at, empty for none; `schedule` is in the form of
    cron, empty for never; `asks_hub` says whether the source is the Hugging Face Hub.
    """

    name: str
    file: str
    place: str
    action: str
    registry: str = GHCR
    variants: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    runner: tuple[str, ...] = ("ubuntu-latest",)
    branch: str = "main"
    schedule: str = ""
    attests: bool = True
    installs: bool = True
    asks_hub: bool = False

    @property
    def path(self) -> str:
        """Where the workflow lies in the repository."""
        return f".github/workflows/{self.name}.yml"


def workflow(build: Workflow) -> dict[str, Any]:
    """The workflow that builds all variants of a build file, side by side, one run at a time for each model."""
    return {
        "name": build.name,
        "on": _triggers(build),
        "permissions": {},
        "concurrency": {"group": f"model-{build.place}", "cancel-in-progress": False},
        "jobs": {"build": _job(build)},
    }


def _triggers(build: Workflow) -> dict[str, Any]:
    attest = {"description": "Attest where the model was built.", "type": "boolean", "default": True}
    triggers: dict[str, Any] = {
        "push": {"branches": [build.branch], "paths": [build.file, build.path]},
        "repository_dispatch": {"types": [f"build-{build.name}"]},
        "workflow_dispatch": {"inputs": {"attest": attest}} if build.attests else {},
    }
    if build.schedule:
        triggers["schedule"] = [{"cron": build.schedule}]
    return triggers


def _job(build: Workflow) -> dict[str, Any]:
    given = {
        "file": build.file,
        "variant": "${{ matrix.variant }}" if build.variants else "",
        **_installation(build),
        "unless-unchanged": "${{ github.event_name == 'schedule' }}" if build.schedule else "",
        **_login(build.registry),
        "hf-token": "${{ secrets.HF_TOKEN }}" if build.asks_hub else "",
    }
    attested = "github.event_name != 'workflow_dispatch' || inputs.attest"
    matrix = {"strategy": {"fail-fast": False, "matrix": {"variant": list(build.variants)}}} if build.variants else {}
    return {
        "name": "Build ${{ matrix.variant }}" if build.variants else "Build",
        "runs-on": build.runner[0] if len(build.runner) == 1 else list(build.runner),
        "timeout-minutes": MINUTES,
        "permissions": _permissions(pushes_to_ghcr=build.registry == GHCR, attests=build.attests),
        **matrix,
        "outputs": _job_outputs(build.variants),
        "steps": [
            _checkout(),
            {
                "name": "Build",
                "id": "build",
                "uses": build.action,
                "with": {key: value for key, value in given.items() if value != "" or key == "registry"},
            },
            _keeping(f"{build.name}-${{{{ matrix.variant }}}}" if build.variants else build.name),
            *(_attestations(attested) if build.attests else ()),
        ],
    }


def _installation(build: Workflow) -> dict[str, str]:
    """With which extras packer is installed, and from where; a hosted runner has no GPU."""
    if not build.installs:
        return {"install": "false"}
    is_small = {"quantize", "evaluate", "convert"} & set(build.extras) and build.runner[0].startswith("ubuntu-")
    return {"extras": ",".join(build.extras), "extra-index-url": TORCH_FOR_CPUS if is_small else ""}


def _login(registry: str) -> dict[str, str]:
    """The login at a registry; that at GHCR is what the action does by itself."""
    if registry == GHCR:
        return {}
    if not registry:
        return {"registry": ""}
    return {
        "registry": registry,
        "username": "${{ secrets.REGISTRY_USERNAME }}",
        "password": "${{ secrets.REGISTRY_PASSWORD }}",
    }


def _permissions(*, pushes_to_ghcr: bool, attests: bool) -> dict[str, str]:
    names = ["packages"] if pushes_to_ghcr else []
    names += ["id-token", "attestations"] if attests else []
    return {"contents": "read", **dict.fromkeys(names, "write")}


def _job_outputs(variants: Sequence[str]) -> dict[str, str]:
    """Those of the action; in a matrix, whose jobs share them, each variant has some of its own."""
    built = "steps.build.outputs"
    if not variants:
        return {name: f"${{{{ {built}.{name} }}}}" for name in _OUTPUTS}
    return {
        f"{name}-{output_of(variant)}": f"${{{{ matrix.variant == '{variant}' && {built}.{name} || '' }}}}"
        for variant in variants
        for name in _OUTPUTS
    }


def output_of(variant: str) -> str:
    """What a variant is called in the names of outputs, which have no dots."""
    return variant.replace(".", "_")


def _checkout(**more: str) -> dict[str, Any]:
    return {"name": "Check out", "uses": CHECKOUT, "with": {"persist-credentials": False, **more}}


def _keeping(name: str) -> dict[str, Any]:
    """What is worth keeping of a build as an artifact of the run, whatever the outcome."""
    return {
        "name": "Keep the report",
        "if": "${{ always() && steps.build.outputs.kept != '' }}",
        "uses": UPLOAD,
        "with": {"name": name, "path": "${{ steps.build.outputs.kept }}", "overwrite": True},
    }


def _attestations(condition: str) -> list[dict[str, Any]]:
    """An attestation of where each manifest was built, beside it in the registry.

    actions/attest reads ~/.docker/config.json, whatever DOCKER_CONFIG says (@sigstore/oci 0.6.0).
    """
    parts = (("the image", "digest"), ("the ModelPack manifest", "modelpack-digest"))
    return [
        {
            "name": f"Attest {what}",
            "if": f"${{{{ steps.build.outputs.{digest} != '' && ({condition}) }}}}",
            "uses": ATTEST,
            "env": {"HOME": "${{ steps.build.outputs.home }}"},
            "with": {
                "subject-name": "${{ steps.build.outputs.name }}",
                "subject-digest": f"${{{{ steps.build.outputs.{digest} }}}}",
                "push-to-registry": True,
                "create-storage-record": False,
            },
        }
        for what, digest in parts
    ]


# ---------------------------------------------------------------- the workflow that others call


def reusable() -> dict[str, Any]:
    """The workflow that other repositories call for a build: `.github/workflows/build-model.yml`.

    It takes the action from the commit that it lies in itself (`job.workflow_sha`), so that who pins the one has pinned
    the other.
    """
    step = {"name": "Build", "id": "build", "uses": "./.packer"}
    given = {name: f"${{{{ inputs.{name} }}}}" for name in _INPUTS if name not in _OF_THE_JOB}
    secrets = {
        "username": "${{ secrets.registry-username }}",
        "password": "${{ secrets.registry-password }}",
        "hf-token": "${{ secrets.hf-token }}",
    }
    packer = _checkout(repository="${{ job.workflow_repository }}", ref="${{ job.workflow_sha }}", path=".packer")
    return {
        "name": "Build a model",
        "on": {
            "workflow_call": {
                "inputs": {name: _input(*said) for name, said in _INPUTS.items()},
                "secrets": {name: {"description": said, "required": False} for name, said in _SECRETS.items()},
                "outputs": {
                    name: {"description": said, "value": f"${{{{ jobs.build.outputs.{name} }}}}"}
                    for name, said in _MEANINGS.items()
                },
            }
        },
        "permissions": {},
        "jobs": {
            "build": {
                "name": "Build ${{ inputs.variant || inputs.file }}",
                "runs-on": "${{ inputs.runner }}",
                "timeout-minutes": "${{ inputs.timeout-minutes }}",
                "permissions": _permissions(pushes_to_ghcr=True, attests=True),
                "concurrency": {
                    "group": "model-${{ inputs.file }}-${{ inputs.variant }}-${{ inputs.to }}",
                    "cancel-in-progress": False,
                },
                "outputs": _job_outputs(()),
                "steps": [
                    _checkout(),
                    {**packer, "name": "Check out packer, at the commit of this workflow"},
                    {**step, "with": {**given, **secrets}},
                    _keeping("${{ inputs.artifact }}${{ inputs.variant && format('-{0}', inputs.variant) }}"),
                    *_attestations("inputs.attest"),
                ],
            }
        },
    }


_INPUTS: Mapping[str, tuple[str, Any]] = {
    "file": ("The build file.", "packer.yaml"),
    "variant": ("Of a build file with variants, the one to build.", ""),
    "to": ("HOST/REPO[:TAG], in place of what the build file says.", ""),
    "extras": ("What packer is installed with, such as quantize,evaluate.", ""),
    "extra-index-url": ("Another package index, such as that of torch for CPUs.", ""),
    "unless-unchanged": ("Build nothing if nothing that the release in packer.lock was made of has changed.", False),
    "registry": ("The host to log in at; empty for none.", GHCR),
    "runner": ("The label of the runner.", "ubuntu-latest"),
    "timeout-minutes": ("What the build may take.", MINUTES),
    "attest": ("Attest where the model was built.", True),
    "artifact": ("What the artifact with the report is called; a variant stands behind it.", "model"),
}
_OF_THE_JOB = ("runner", "timeout-minutes", "attest", "artifact")
_SECRETS = {
    "registry-username": "The user at the registry; not needed at ghcr.io.",
    "registry-password": "The password or token of the user; not needed at ghcr.io.",
    "hf-token": "A token of the Hugging Face Hub, for models that need one.",
}
_TYPES = {bool: "boolean", int: "number", str: "string"}


def _input(description: str, default: str | float | bool) -> dict[str, Any]:  # noqa: FBT001 - a value of any type
    return {"description": description, "type": _TYPES[type(default)], "default": default}
