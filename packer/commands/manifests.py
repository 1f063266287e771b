"""`packer manifests`: documents for Kubernetes and KServe, for one release."""

from __future__ import annotations

import json
from typing import Any

import click

from containers.manifests.options import PACKER_IMAGE, Kind, Mode, Options, Sidecar
from packer.options import access, as_json, note, pairs, reaching

_FORMS = {
    "namespace": "namespace",
    "pull_secret": "name",
    "storage_class": "name",
    "gpu_resource": "key",
    "runtime_image": "image",
    "packer_image": "image",
}
"""What Kubernetes must take, and as what."""

RUNTIMES = ("vllm", "sglang", "llama.cpp", "triton")


@click.command(short_help="Write documents for Kubernetes that serve a published model.")
@click.argument("reference", metavar="REF")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), required=True, help="How it gets there.")
@click.option("--runtime", type=click.Choice(RUNTIMES), help="What serves it. Default: what serves its format.")
@click.option("--name", help="Of the objects, and of the model in requests. Default: the repository's.")
@click.option("--namespace", metavar="NS", help="Where the objects are. Default: the one that kubectl has.")
@click.option("--gpu", type=click.IntRange(0, 64), help="GPUs of a server. Default: 1; 0 for llama.cpp and triton.")
@click.option("--gpu-resource", default="nvidia.com/gpu", show_default=True, help="What the cluster calls a GPU.")
@click.option("--replicas", type=click.IntRange(0), default=1, show_default=True, help="Servers.")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    default="deployment",
    show_default=True,
    help="What runs the server.",
)
@click.option(
    "--memory", metavar="SIZE", help="Of each GPU, such as 80GiB, or without GPUs of a server: sequences are cut to it."
)
@click.option(
    "--max-length", type=click.IntRange(16), help="Tokens of a sequence. Default: the model's own, or what fits."
)
@click.option(
    "--sequences", type=click.IntRange(1), default=1, show_default=True, help="Of full length, held at a time."
)
@click.option("--port", type=click.IntRange(1024, 65535), help="Of the server. Default: the runtime's own.")
@click.option(
    "--sidecar",
    type=click.Choice([each.value for each in Sidecar]),
    default="native",
    show_default=True,
    help="How a modelcar runs: native needs Kubernetes 1.29; plain runs anywhere, and the server waits.",
)
@click.option("--runtime-image", metavar="IMAGE", help="Run this image instead of the runtime's own.")
@click.option("--packer-image", metavar="IMAGE", default=PACKER_IMAGE, show_default=True, help="packer's own image.")
@click.option("--pull-secret", metavar="SECRET", help="With the login for the registries of all images.")
@click.option("--storage-class", metavar="CLASS", help="Of volumes. Default: the cluster's.")
@click.option("--node-selector", multiple=True, metavar="LABEL=VALUE", help="Only on these nodes. Repeatable.")
@click.option("--explain", is_flag=True, help="Show the arithmetic of the memory.")
@reaching
@as_json
def manifests(reference: str, *, explain: bool, as_json: bool, **flags: Any) -> None:
    """Write documents for Kubernetes or KServe that serve the model of REF, pinned by its digest, as YAML.

    \b
    image-volume           the node mounts the image (Kubernetes 1.33)
    modelcar               a sidecar of the image links its files
    init-container         a container of the image copies them
    pvc                    a job pulls them into a volume
    kserve, kserve-native  an InferenceService: oci://, oci+native://
    llm-inference-service  an LLMInferenceService
    model-cache            on the disks of a group of nodes
    prefetch               only pulls the image, on every node
    """
    from packer.manifests import manifests as made_of

    plain = bool(flags["plain_http"])
    reach = access(flags, note)
    made = made_of(reference, _options(flags, plain_http=plain), reach)
    if made.names(PACKER_IMAGE):
        note(f"note: {PACKER_IMAGE} stands for packer's own image, which is in no registry; name yours: --packer-image")
    if as_json:
        click.echo(json.dumps({"event": "manifests", **made.to_json()}, ensure_ascii=False))
    else:
        click.echo(made.render(explain=explain), nl=False)


def _options(flags: dict[str, Any], *, plain_http: bool) -> Options:
    from containers.names import require_labels, require_name
    from packer.buildfile import parse_size

    for name, form in _FORMS.items():
        require_name(form, f"--{name.replace('_', '-')}", flags[name] or "")
    said = {name: value for name, value in flags.items() if value is not None}
    said |= {"mode": Mode(said["mode"]), "kind": Kind(said["kind"]), "sidecar": Sidecar(said["sidecar"])}
    said["length"] = said.pop("max_length", None)
    said["node_selector"] = pairs(said["node_selector"], "--node-selector LABEL=VALUE")
    require_labels("--node-selector", said["node_selector"])
    if "memory" in said:
        said["memory"] = parse_size(said["memory"])
    return Options(**said, plain_http=plain_http)
