"""What automates builds: from a build file to the documents that a pipeline service runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from containers.ci.tekton.bundle import bundle
from containers.ci.tekton.pipeline import pipeline, pipeline_run
from containers.ci.tekton.plan import Claim, Plan, Watched
from containers.ci.tekton.support import support
from containers.ci.tekton.tasks import tasks
from containers.ci.tekton.triggers import triggers
from containers.manifests.document import Document, render
from containers.modelpack import ModelPack
from packer.buildfile import BuildFile
from packer.sources import parse_source
from recipes.described import is_path
from recipes.evaluation.suite import find_suite, is_aside
from recipes.recipe import Engine, find_recipe
from registry.access import Access
from registry.errors import PackerError, UsageError
from registry.reference import LayoutReference, Reference, parse_reference
from registry.store import open_store, push_graph
from registry.transfer import push_blobs

MAX_FOLDER = 900_000
"""Bytes of the texts that a ConfigMap takes; Kubernetes refuses objects of more than 1 MiB."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_PINNED = re.compile(r"[0-9a-f]{40}")


def plan_tekton(
    file: Path, builds: Mapping[str, BuildFile], name: str, namespace: str, image: str, claim: Claim
) -> Plan:
    """What the documents for the builds of a file are made from; `UsageError` for one that no cluster can do."""
    for build in builds.values():
        _require_far(build, file)
    first = next(iter(builds.values()))
    destination = parse_reference(first.publish.to)
    assert isinstance(destination, Reference)
    stages = ["fetch", "publish"]
    if any(build.evaluate.suite for build in builds.values()):
        stages.insert(1, "evaluate")
    if any(build.quantize.recipe for build in builds.values()):
        stages.insert(1, "quantize")
    plan = Plan(
        name=_name(name or destination.repository.rpartition("/")[2].replace(".", "-").replace("_", "-")),
        namespace=namespace,
        image=image,
        file=file.name,
        texts=_texts(file, builds.values()),
        stages=tuple(stages),
        variants=tuple(filter(None, builds)),
        on_gpu=frozenset(_on_gpu(builds.values())),
        reports=any(build.evaluate.report for build in builds.values()),
        pins=all(build.source.startswith(("hf://", "oci://")) for build in builds.values()),
        modelpack=all(build.publish.modelpack is not ModelPack.NONE for build in builds.values()),
        watched=tuple(dict.fromkeys(found for build in builds.values() for found in _watched(build))),
        claim=claim,
    )
    if plan.uses_gpus and not plan.nodes:
        what, hint = "nobody knows which nodes have these GPUs", "name them: --node-selector LABEL=VALUE"
        raise UsageError(what, expected="nvidia.com/... or amd.com/...", found=claim.gpu, hint=hint)
    return plan


def pinned(image: str, access: Access) -> str:
    """The image by its digest, so that what runs is what was meant; as it is, if its registry does not tell."""
    reference = parse_reference(image)
    if isinstance(reference, LayoutReference):
        raise UsageError("a cluster pulls packer's image from a registry", found=image, hint="push it to one")
    if reference.digest:
        return image
    try:
        digest = open_store(reference, access).resolve(reference.name).descriptor.digest
    except PackerError as error:
        access.log(f"{image} is not pinned: {error.what}")
        return image
    return f"{reference.host}/{reference.repository}:{reference.tag}@{digest}"


def push_bundle(plan: Plan, to: str, access: Access) -> str:
    """Publish the Tasks and the Pipeline as a Tekton bundle; where it is, pinned by digest."""
    place = parse_reference(to)
    if isinstance(place, LayoutReference):
        raise UsageError("a cluster takes a bundle from a registry", found=to, hint="--bundle HOST/REPO:TAG")
    store, graph = open_store(place, access), bundle([*tasks(plan), pipeline(plan, is_whole=True)])
    push_blobs(graph.blobs, store, access.concurrency)
    list(push_graph(graph, store))
    store.tag(graph.root, place.tag)
    return str(place.at(graph.root.descriptor.digest))


def tekton_files(plan: Plan, origin: str, at: str = "") -> dict[str, str]:
    """The documents as files of YAML, by their paths; `at` is the bundle, if Tasks and Pipeline are in one."""
    head = f"Written by `{origin}`; docs/ci-tekton.md of packer tells what it does."
    files = {} if at else {"tasks.yaml": tasks(plan), "pipeline.yaml": [pipeline(plan)]}
    files |= {
        "support.yaml": support(plan),
        "triggers.yaml": triggers(plan, at),
        "run/run.yaml": [pipeline_run(plan, at)],
    }
    labels = " and ".join(f"{name}={value}" for name, value in plan.nodes.items())
    notes = {
        "tasks.yaml": [_TASKS],
        "pipeline.yaml": [_PIPELINE],
        "support.yaml": [_SUPPORT.format(name=plan.name)],
        "triggers.yaml": [_TRIGGERS.format(name=plan.name)],
        "run/run.yaml": [_RUN, *([_NODES.format(labels)] if labels else [])],
    }
    return {
        path: render([head, *notes[path]], map(Document, documents)) for path, documents in files.items() if documents
    }


_TASKS = "Needs Tekton Pipelines 1.0 or later."
_PIPELINE = (
    "Needs Tekton Pipelines 1.0 or later. Variants (matrix) need `enable-api-fields: beta`, which is the default; the "
    "results of each are those of its TaskRun."
)
_SUPPORT = (
    "The login at registries is a secret that is yours to make, of type kubernetes.io/dockerconfigjson: "
    "{name}-registry. A token of the Hugging Face Hub, if one is needed: the key token of the secret huggingface."
)
_TRIGGERS = (
    "Needs Tekton Triggers 0.30 or later, and a secret that is yours to make, {name}-webhooks, with what senders prove "
    "themselves by: its key huggingface is the secret of the webhook, its key registry the whole Authorization header."
)
_RUN = "Starts a run: kubectl create -f, since its name is made up anew each time."
_NODES = "All of it runs on nodes that have the label {}; others are named with --node-selector."


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        expected = "at most 40 of a-z, 0-9 and -, a letter first"
        raise UsageError(
            "this cannot begin the names of objects", expected=expected, found=text[:100], hint="--name NAME"
        )
    return text


def _models(build: BuildFile) -> Iterator[str]:
    yield build.source
    if build.evaluate.baseline:
        yield build.evaluate.baseline


def _require_far(build: BuildFile, file: Path) -> None:
    """`UsageError` for what lies in a folder of this machine, which a cluster does not see."""
    for text in _models(build):
        if text.startswith("hf://"):
            parse_source(text)
        if "://" not in text:
            hint = "publish it first (packer push), and name it: oci://HOST/REPO:TAG"
            raise UsageError(
                "a cluster does not see a folder of this machine", subject=str(file), found=text, hint=hint
            )
    places = {"publish.to": build.publish.to, "publish.base": build.publish.base}
    for key, text in places.items():
        if text.startswith("oci:") or not text:
            expected, found = "a registry: HOST/REPO:TAG", text or "nothing"
            raise UsageError(
                f"{key}: a cluster publishes to a registry", subject=str(file), expected=expected, found=found
            )
    if build.publish.busybox:
        hint = "make the base an image in a registry"
        raise UsageError("publish.busybox: a ConfigMap holds no programs", subject=str(file), hint=hint)


def _on_gpu(builds: Iterable[BuildFile]) -> Iterator[str]:
    """The stages that compute with llmcompressor or torch, where they may."""
    for build in builds:
        recipe = build.quantize.recipe
        is_torch = not recipe or find_recipe(recipe).engine is Engine.LLMCOMPRESSOR
        if recipe and is_torch and build.quantize.device != "cpu":
            yield "quantize"
        if build.evaluate.suite and is_torch and build.evaluate.device != "cpu":
            yield "evaluate"


def _texts(file: Path, builds: Iterable[BuildFile]) -> Mapping[str, str]:
    """The build file and the files that it names, by their paths from its folder."""
    named = [path for build in builds for path in _named(build)]
    paths = {_place(path, file): path for path in [file, *chain.from_iterable(map(_files, named))]}
    texts = {name: _text(path) for name, path in sorted(paths.items())}
    if (size := sum(len(text.encode()) for text in texts.values())) > MAX_FOLDER:
        expected, hint = f"at most {MAX_FOLDER} bytes in a ConfigMap", "take a dataset of the Hub, or less of it"
        raise UsageError(
            "these files are too large", subject=", ".join(texts)[:200], expected=expected, found=size, hint=hint
        )
    return texts


def _named(build: BuildFile) -> Iterator[Path]:
    """The files and folders that a build names, and those that its suite does; what comes with packer is none."""
    recipe, said = build.quantize.recipe, build.evaluate.suite
    if recipe and is_path(recipe):
        find_recipe(recipe)
        yield Path(recipe)
    if said and (not isinstance(said, str) or is_path(said)):
        suite = find_suite(said, Path())
        own = Path(said) if isinstance(said, str) else None
        yield from (path for path in (own, suite.data, suite.include) if path)
    for data in (build.quantize.calibration.data, build.evaluate.data):
        if data and Path(data).exists():  # or it is the name of a dataset
            yield Path(data)


def _files(path: Path) -> Iterator[Path]:
    """A file, or all files of a folder but those that nobody reads."""
    if not path.is_dir():
        yield path
        return
    yield from (each for each in sorted(path.rglob("*")) if each.is_file() and not is_aside(each.relative_to(path)))


def _place(path: Path, file: Path) -> str:
    """The path of a file from the folder of the build file; `UsageError` if it lies elsewhere."""
    place = Path(os.path.relpath(path, file.parent))
    if place.parts[0] == "..":
        hint = f"put it into the folder of {file.name}"
        raise UsageError("a cluster gets the build file and files beside it", subject=str(path), hint=hint)
    return place.as_posix()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # with the line ends that it has: digests depend on them
    except ValueError as error:
        hint = "take a .jsonl or .txt file, or a dataset of the Hub"
        raise UsageError("a ConfigMap of texts holds no such file", subject=str(path), hint=hint) from error


def _watched(build: BuildFile) -> Iterator[Watched]:
    """The sources and bases of a build that may come to mean something else."""
    if build.source.startswith("hf://"):
        name, _, revision = build.source.removeprefix("hf://").partition("@")
        if not _PINNED.fullmatch(revision):
            yield Watched("huggingface", "source", name, revision or "main")
    elif build.source.startswith("oci://"):
        yield from _tagged(build.source, "source")
    if build.publish.base not in ("busybox", "none"):
        yield from _tagged(build.publish.base, "base")


def _tagged(text: str, role: str) -> Iterator[Watched]:
    reference = parse_reference(text)
    if isinstance(reference, Reference) and not reference.digest:
        yield Watched("registry", role, reference.repository, reference.tag)
