"""From what a user wrote to a build with everything resolved, so that a mistake costs a second and not a download."""

from __future__ import annotations

import platform as host
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from containers.base import Base, base_from, busybox_base, no_base
from packer.buildfile import BuildFile, Pickles, RemoteCode
from packer.evaluate import evaluation_place, model_name, resolve_evaluate
from packer.pipeline import Build
from packer.quantize import resolve_quantize, workplace
from packer.sources import Reach, parse_source
from packer.stages import MODELPACK_SUFFIX, STAGES
from packer.validate import Policy
from recipes.evaluation.evaluate import Evaluation
from recipes.quantize import Workplace
from registry.access import Access
from registry.descriptor import Platform
from registry.errors import ContentError, NotFoundError, ResponseError, UsageError
from registry.reference import MAX_TAG, LayoutReference, Reference, parse_reference
from registry.store import open_store

HOST_BUSYBOX = Path("/bin/busybox")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def resolve(file: BuildFile, until: str, work: Path, access: Access, environment: Mapping[str, str]) -> Build:
    """The build that a build file and flags describe, as far as the stage `until`.

    Reads the manifests of the base and asks for what the tag names now, so that a base that is missing and a registry
    that cannot be reached are known before anything is fetched. A registry may refuse to answer about a repository that
    is yet to be made: that is no reason to stop. Reads nothing of the model. `work` is a folder of ours for what lasts
    longer than a build, such as converted weights; `environment` is what a child process may need of ours.
    """
    publish, publishes = file.publish, until == STAGES[-1]
    access = replace(access, plain_http=access.plain_http or publish.plain_http)
    source = parse_source(file.source, file.include, Reach(access, work / "artifacts"))
    to = _destination(publish.to, needed=publishes)
    if isinstance(to, LayoutReference) and to.folder.resolve().is_relative_to(Path(file.source).resolve()):
        raise UsageError(
            "the layout would lie inside the model, and be part of it at the next build",
            subject=str(to.folder),
            hint="name a folder beside the model",
        )
    store = open_store(to, access)
    if publishes:
        try:
            store.resolve(to.tag)
        except (NotFoundError, ContentError):
            pass
        except ResponseError as error:
            access.log(f"{to} cannot be looked at: {error.what} ({error.found})")
    base = no_base()
    if STAGES.index(until) >= STAGES.index("package"):
        base = find_base(publish.base, publish.platforms, publish.busybox, access)
    policy = Policy(
        allow_code=file.validation.remote_code is RemoteCode.ALLOW,
        convert_into=work / "converted" if file.validation.pickle is Pickles.CONVERT else None,
    )
    quantization = None
    if STAGES.index(until) >= STAGES.index("quantize"):
        quantization = resolve_quantize(file.quantize, workplace(work / "quantized", environment, access.memory))
    evaluation, baseline = None, None
    if STAGES.index(until) >= STAGES.index("evaluate"):
        recipe = quantization.recipe.name if quantization else ""
        evaluation = _evaluation(file, recipe, evaluation_place(work, environment, access.memory))
        baseline = file.evaluate.baseline if evaluation else None
    return Build(
        source=source,
        policy=policy,
        max_size=file.shard.max_size,
        quantization=quantization,
        baseline=parse_source(baseline, (), Reach(access, work / "artifacts")) if baseline else None,
        evaluation=evaluation,
        base=base,
        modelpack=publish.modelpack,
        to=to,
        store=store,
        concurrency=access.concurrency,
        memory=access.memory,
    )


def _evaluation(file: BuildFile, recipe: str, place: Workplace) -> Evaluation | None:
    """What is asked for; `UsageError` if nothing has been done to the model, and nothing says what else it is like."""
    found = resolve_evaluate(file.evaluate, place, recipe)
    if found and not (recipe or file.evaluate.baseline):
        raise UsageError(
            "there is nothing to measure the model against, since nothing is done to it",
            hint="add --quantize RECIPE, or --baseline MODEL if another tool has quantized it",
        )
    names = (model_name(file.evaluate.baseline or file.source), model_name(file.source))
    return replace(found, names=names) if found else None


def _destination(text: str, *, needed: bool) -> Reference | LayoutReference:
    if not text and needed:
        raise UsageError(
            "nothing says where the result goes", hint="add --to HOST/REPO:TAG, or --to oci:./out for a folder"
        )
    to = parse_reference(text or "oci:unpublished")
    if to.digest:
        raise UsageError("a build is published under a tag, not a digest", found=text)
    if len(to.tag + MODELPACK_SUFFIX) > MAX_TAG:
        raise UsageError(
            f"this tag is too long, because {MODELPACK_SUFFIX} is added to it",
            expected=f"at most {MAX_TAG - len(MODELPACK_SUFFIX)} characters",
            found=f"{len(to.tag)} characters",
        )
    return to


def find_base(text: str, platforms: Sequence[Platform], binaries: Mapping[Platform, Path], access: Access) -> Base:
    """The base that `text` names: `busybox`, `none`, or a reference."""
    if text == "none":
        return no_base(platforms)
    if text == "busybox":
        return busybox_base(_binaries(platforms, binaries))
    reference = parse_reference(text)
    return base_from(open_store(reference, access), reference.name, str(reference), platforms)


def _binaries(platforms: Sequence[Platform], given: Mapping[Platform, Path]) -> Mapping[Platform, Path]:
    here = Platform("linux", _ARCHITECTURES.get(host.machine(), host.machine()))
    known = {here: HOST_BUSYBOX, **given}
    if missing := [str(platform) for platform in platforms if platform not in known]:
        raise UsageError(
            f"no busybox is at hand for {', '.join(missing)}",
            found=f"one for {', '.join(map(str, known))}",
            hint=f"name one with --busybox {missing[0]}=FILE, or choose a --base from a registry",
        )
    return {platform: known[platform] for platform in platforms} if platforms else known
