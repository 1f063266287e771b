"""What the documents are made from, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from containers.gpus import gpu_nodes, is_nvidia

Document = dict[str, Any]
"""A Kubernetes object."""

USER = 65532
"""Whom pods run as: the user of packer's image, who has no rights."""


@dataclass(frozen=True)
class Watched:
    """What a build is made of and may change: `name` is a repository, `tag` its branch or tag.

    `kind` is `huggingface` or `registry`; `role` what the build does with it, `source` or `base`.
    """

    kind: str
    role: str
    name: str
    tag: str


@dataclass(frozen=True)
class Claim:
    """What pods ask a cluster for. `memory` is what quantization and evaluation ask for, `cache` the size of the volume
    that outlasts tasks, both in Kubernetes' words; `gpus` is the number of GPUs, `nodes` are labels of nodes.
    """

    gpus: int = 0
    gpu: str = "nvidia.com/gpu"
    memory: str = "8Gi"
    cache: str = "100Gi"
    storage_class: str = ""
    nodes: Mapping[str, str] = field(default_factory=dict)
    queue: str = ""


@dataclass(frozen=True)
class Plan:
    """One build file in a cluster.

    `name` begins the names of all objects; `image` is packer's image; `file` is the name of the build file in its
    folder and `texts` what that folder holds. `stages` are those of `STAGES` that have a task, `on_gpu` those that use
    a GPU. `reports` says whether evaluation writes one, `pins` whether the
    source has a revision, `modelpack` whether a ModelPack manifest is published. `environment` is what else steps get.
    """

    name: str
    namespace: str
    image: str
    file: str
    texts: Mapping[str, str]
    stages: tuple[str, ...]
    variants: tuple[str, ...] = ()
    on_gpu: frozenset[str] = frozenset()
    reports: bool = False
    pins: bool = False
    modelpack: bool = True
    watched: tuple[Watched, ...] = ()
    claim: Claim = Claim()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def uses_gpus(self) -> bool:
        """Whether any task asks for one."""
        return bool(self.claim.gpus and self.on_gpu)

    @property
    def nodes(self) -> Mapping[str, str]:
        """The labels of the nodes for all tasks: those that were given, or else of nodes with the GPUs that one needs.

        Pods that share a volume are placed where the first of them is, and that one needs no GPU.
        """
        return self.claim.nodes or (gpu_nodes(self.claim.gpu) if self.uses_gpus else {})

    @property
    def with_gpu(self) -> frozenset[str]:
        """The stages whose tasks ask for GPUs: those that use them, and those behind them if they could not know what
        kind of GPU made what they look for. The driver of NVIDIA tells that to every pod of a node, AMD's to none
        that has no GPU.
        """
        if not self.uses_gpus:
            return frozenset()
        first = next(at for at, stage in enumerate(self.stages) if stage in self.on_gpu)
        return self.on_gpu if is_nvidia(self.claim.gpu) else frozenset(self.stages[first:])

    def named(self, what: str) -> str:
        """The name of one of the objects."""
        return f"{self.name}-{what}"

    def meta(self, name: str, **more: Any) -> Document:
        """The metadata of an object."""
        labels = {"app.kubernetes.io/name": self.name, "app.kubernetes.io/managed-by": "packer"}
        return {"name": name, "namespace": self.namespace, "labels": labels, **more}


STAGES = {
    "fetch": "Fetch the model, prove its files and regroup its weights.",
    "quantize": "Quantize the model.",
    "evaluate": "Measure what the model retains of its baseline, and refuse it if that is too little.",
    "publish": "Package the model and publish it, if it retains enough.",
}
"""The tasks, in their order, and what each does."""
