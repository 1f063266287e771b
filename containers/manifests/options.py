"""What the user asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PACKER_IMAGE = "registry.example.com/packer:latest"
"""Stands for packer's own image, which everybody builds and pushes to a registry of their own."""


class Mode(StrEnum):
    """How the model gets to the server."""

    IMAGE_VOLUME = "image-volume"
    MODELCAR = "modelcar"
    INIT_CONTAINER = "init-container"
    PVC = "pvc"
    KSERVE = "kserve"
    KSERVE_NATIVE = "kserve-native"
    LLM_INFERENCE_SERVICE = "llm-inference-service"
    MODEL_CACHE = "model-cache"
    PREFETCH = "prefetch"


class Kind(StrEnum):
    """What runs the server where no operator does."""

    DEPLOYMENT = "deployment"
    POD = "pod"


class Sidecar(StrEnum):
    """How the modelcar runs: before the server, by Kubernetes 1.29, or beside it, and the server waits."""

    NATIVE = "native"
    PLAIN = "plain"


@dataclass(frozen=True)
class Options:
    """Everything but the model; what is empty or None is chosen by the model or the runtime.

    `memory` are the bytes of each GPU, or without GPUs those that the server may take; `sequences` how many of full
    length are held at the same time.
    """

    mode: Mode
    runtime: str = ""
    name: str = ""
    namespace: str = ""
    kind: Kind = Kind.DEPLOYMENT
    gpu: int | None = None
    gpu_resource: str = "nvidia.com/gpu"
    replicas: int = 1
    memory: int | None = None
    length: int | None = None
    sequences: int = 1
    port: int | None = None
    sidecar: Sidecar = Sidecar.NATIVE
    runtime_image: str = ""
    packer_image: str = PACKER_IMAGE
    pull_secret: str = ""
    storage_class: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    plain_http: bool = False
