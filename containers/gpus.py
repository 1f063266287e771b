"""What clusters call GPUs, and where the nodes are that have them."""

from __future__ import annotations

from collections.abc import Mapping

_NVIDIA = "nvidia.com/"

_NODES = {
    _NVIDIA: {"nvidia.com/gpu.present": "true"},
    "amd.com/": {"feature.node.kubernetes.io/amd-gpu": "true"},
}
"""The labels that the operators of NVIDIA and AMD give to nodes, by how the names of their resources begin."""


def is_nvidia(resource: str) -> bool:
    """Whether a resource is GPUs of NVIDIA, or parts of them."""
    return resource.startswith(_NVIDIA)


def gpu_nodes(resource: str) -> Mapping[str, str]:
    """The labels of nodes that have a resource; none if nobody knows them."""
    return next((labels for start, labels in _NODES.items() if resource.startswith(start)), {})
