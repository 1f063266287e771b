"""`packer ci tekton`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packer.options import access, note, pairs, reaching

if TYPE_CHECKING:
    from containers.ci.tekton.plan import Claim


@click.command(short_help="Write Tasks, a Pipeline and triggers for Tekton.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--packer-image",
    "image",
    required=True,
    metavar="IMAGE",
    help="packer's image, with the extras that the build needs: HOST/REPO:TAG, which is pinned by its digest.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write files to this folder."
)
@click.option("--name", default="", help="Of the objects. Default: the last part of publish.to.")
@click.option("--variant", "variants", multiple=True, metavar="NAME", help="Only this variant. Repeatable.")
@click.option("--namespace", default="default", show_default=True, metavar="NS", help="Where the objects are.")
@click.option(
    "--gpu", "gpus", type=click.IntRange(0, 64), default=1, show_default=True, help="GPUs of a task that uses them."
)
@click.option(
    "--gpu-resource", "gpu", default="nvidia.com/gpu", show_default=True, help="What the cluster calls a GPU."
)
@click.option(
    "--memory", default="8GiB", show_default=True, metavar="SIZE", help="Of a task that quantizes or evaluates."
)
@click.option(
    "--cache", default="100GiB", show_default=True, metavar="SIZE", help="Of the volume for what outlasts tasks."
)
@click.option("--storage-class", default="", metavar="CLASS", help="Of that volume. Default: the cluster's.")
@click.option(
    "--node-selector",
    "nodes",
    multiple=True,
    metavar="LABEL=VALUE",
    help="Only on these nodes. Repeatable. Default: those with GPUs of NVIDIA or AMD, if a task asks for one.",
)
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="NAME=VALUE",
    help="For every task, such as HF_ENDPOINT or HTTPS_PROXY. Repeatable.",
)
@click.option("--queue", default="", metavar="NAME", help="The LocalQueue of Kueue that runs wait in.")
@click.option("--bundle", metavar="REF", help="Publish Tasks and Pipeline there as a Tekton bundle, and run that.")
@reaching
def tekton(
    file: Path,
    *,
    image: str,
    out: Path | None,
    name: str,
    namespace: str,
    variants: tuple[str, ...],
    nodes: tuple[str, ...],
    environment: tuple[str, ...],
    bundle: str | None,
    **flags: Any,
) -> None:
    """Write what builds FILE with Tekton: Tasks and a Pipeline, what they need, triggers, and a PipelineRun.

    Each stage is a task on one volume, so that one that is tried again goes on where it stopped; variants are built
    side by side. Without --out all is printed as one file.
    """
    from containers.names import require_name
    from packer.buildfile import read_builds
    from packer.ci import pinned, plan_tekton, push_bundle, tekton_files
    from packer.commands.build import chosen

    claim = _claim(flags, nodes)
    require_name("namespace", "--namespace", namespace)
    variables = pairs(environment, "--env NAME=VALUE")
    for variable in variables:
        require_name("variable", "--env", variable)
    reach = access(flags, note)
    builds = chosen(read_builds(file), variants)
    plan = plan_tekton(file, builds, name, namespace, pinned(image, reach), claim)
    plan = replace(plan, environment=variables)
    at = push_bundle(plan, bundle, reach) if bundle else ""
    if at:
        note(f"bundle  {at}")
    if not plan.watched:
        note("note: nothing that the build is made of can change by itself, so there are no triggers")
    files = tekton_files(plan, f"packer ci tekton {file.name}", at)
    if out is None:
        click.echo("".join(files.values()), nl=False)
        return
    for path, text in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(text)
        click.echo(out / path)


def _claim(flags: dict[str, Any], nodes: tuple[str, ...]) -> Claim:
    """What pods ask for, out of the flags, which lose it."""
    from containers.ci.tekton.plan import Claim
    from containers.manifests.quantity import quantity
    from containers.names import require_labels, require_name
    from packer.buildfile import parse_size

    sizes = {name: quantity(parse_size(flags.pop(name))) for name in ("memory", "cache")}
    labels = pairs(nodes, "--node-selector LABEL=VALUE")
    require_labels("--node-selector", labels)
    names = {name: flags.pop(name) for name in ("gpu", "storage_class", "queue")}
    require_name("key", "--gpu-resource", names["gpu"])
    require_name("name", "--storage-class", names["storage_class"])
    require_name("name", "--queue", names["queue"])
    return Claim(gpus=flags.pop("gpus"), **names, **sizes, nodes=labels)
