"""`packer build`, `packer plan`: from a model or a build file to a release, or to what that would take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packer.commands.evaluate import is_refused, tell_refusal, tell_report
from packer.failures import expected
from packer.options import (
    REMOTE_CODE,
    access,
    as_json,
    environment,
    evaluating,
    listener,
    moving,
    note,
    quantizing,
    resulting,
    work,
)
from packer.stages import STAGES
from registry.errors import PackerError, UsageError

if TYPE_CHECKING:
    from packer.buildfile import BuildFile
    from packer.lock import Entry
    from packer.pipeline import Build
    from packer.results import Places, Recorded, Stages, Write
    from packer.watch import Listener

MODELPACK = ("shared", "raw", "none")
PICKLES = ("reject", "convert")


@click.command(short_help="Prove MODEL, package it and publish it.")
@click.argument("model")
@click.option(
    "--to", metavar="DEST", help="HOST[:PORT]/REPO[:TAG], or oci:FOLDER[:TAG]; needed to publish. TAG: latest."
)
@click.option(
    "--until", type=click.Choice(STAGES), default=STAGES[-1], show_default=True, help="Stop after this stage."
)
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Take only files whose path matches; * reaches over /. Repeatable."
)
@click.option(
    "--pickle",
    type=click.Choice(PICKLES),
    help="Pickles are refused (reject, the default), or their tensors become safetensors (convert; needs the extra "
    "packer[convert]).",
)
@click.option(
    "--remote-code",
    type=click.Choice(REMOTE_CODE),
    help="Code that comes with the model is refused (reject, the default), or told and let through (allow).",
)
@click.option("--max-size", metavar="SIZE", help="Regroup the weights in files of at most SIZE, such as 4GiB.")
@click.option(
    "--quantize", "recipe", metavar="RECIPE", help="Quantize by this recipe: a name (packer recipes) or a .yaml file."
)
@quantizing
@click.option(
    "--evaluate",
    "evaluate_suite",
    metavar="SUITE",
    help="Measure the result on this suite, a name (packer suites) or a .yaml file, and publish it only if it retains "
    "enough.",
)
@click.option(
    "--baseline",
    "evaluate_baseline",
    metavar="MODEL",
    help="Measure against this model. Default: what the result was made from.",
)
@evaluating
@click.option(
    "--base",
    metavar="BASE",
    help="What lies below the model: HOST/REPO[:TAG|@DIGEST], oci:FOLDER[:TAG], none, or busybox (the default): "
    "the host's static busybox, for the host's architecture.",
)
@click.option(
    "--busybox",
    multiple=True,
    metavar="PLATFORM=FILE",
    help="With --base busybox: a static busybox for another platform, such as linux/arm64=FILE. Repeatable.",
)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="OS/ARCH",
    help="Only this one of the base's platforms. Repeatable.",
)
@click.option(
    "--modelpack",
    type=click.Choice(MODELPACK),
    help="The ModelPack manifest at DEST-modelpack: over the image's own tar layers (shared, the default; no extra "
    "space), over the files as they are (raw; the model is stored twice), or not at all.",
)
@click.option(
    "--variant", multiple=True, metavar="NAME", help="Of a build file with variants, only this one. Repeatable."
)
@resulting
@moving
@as_json
def build(model: str, *, until: str, variant: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Build MODEL and publish it: an image at DEST and a ModelPack manifest at DEST-modelpack.

    MODEL is a folder in the Hugging Face layout, a .safetensors, .gguf or .onnx file, hf://ORG/NAME[@REVISION],
    oci://HOST/REPO[:TAG|@DIGEST] (an artifact of packer or another tool), or a build file (packer.yaml).
    """
    from packer.results import Places

    places = Places(*(flags.pop(name) for name in ("result_file", "result_dir", "result_env", "refusal")))
    if before := places.refused():
        note(f"this was refused before, and is not tried again: {before.why}")
        places.write(before.document, before.values)
        if as_json:
            click.echo(json.dumps(before.document, ensure_ascii=False))
        return before.exit_code
    places.ready()
    with _told(places.take, "", {}):
        builds = chosen(builds_of(model, flags), variant)
        if len(builds) > 1 and places.holds_one:
            raise UsageError(
                "the result of one build is asked for, and there are several",
                found=", ".join(builds),
                hint=f"choose one: --variant {next(iter(builds))}; --result-file takes all",
            )
    path = Path(model) if _is_build_file(model) else None
    if len(builds) == 1:
        ((name, file),) = builds.items()
        return _build(path, name, file, until, places.take, flags, as_json=as_json)
    return _build_all(path, builds, until, places, flags, as_json=as_json)


def _build_all(
    path: Path | None, builds: dict[str, BuildFile], until: str, places: Places, flags: dict[str, Any], *, as_json: bool
) -> int:
    """One variant after the other, and at the end a line for each, also if one fails; the highest exit code."""
    from packer.variants import Variants

    ended, codes = Variants(tuple(builds), places), [0]
    try:
        for name, file in builds.items():
            codes.append(_build(path, name, file, until, ended.of(name), flags, as_json=as_json))
    finally:
        click.echo(json.dumps(ended.to_json(), ensure_ascii=False) if as_json else f"\n{ended.render()}")
    return max(codes)


@click.command(short_help="Show what a build would do, without doing it.")
@click.argument("model", metavar="MODEL_OR_FILE")
@click.option("--to", metavar="DEST", help="HOST[:PORT]/REPO[:TAG], or oci:FOLDER[:TAG].")
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match. Repeatable.")
@click.option("--max-size", metavar="SIZE", help="Regroup the weights in files of at most SIZE, such as 4GiB.")
@click.option("--quantize", "recipe", metavar="RECIPE", help="Quantize by this recipe: a name or a .yaml file.")
@click.option("--evaluate", "evaluate_suite", metavar="SUITE", help="Measure it on this suite: a name or a .yaml file.")
@click.option("--baseline", "evaluate_baseline", metavar="MODEL", help="Measure it against this model.")
@evaluating
@click.option(
    "--variant", multiple=True, metavar="NAME", help="Of a build file with variants, only this one. Repeatable."
)
@click.option("--require-room", is_flag=True, help="Exit with 6 if the disk is too full for what the build writes.")
@moving
@as_json
def plan(model: str, *, variant: tuple[str, ...], require_room: bool, as_json: bool, **flags: Any) -> None:
    """Show what a build of MODEL_OR_FILE would do: bytes to download, to read, to upload, to mount and to skip, the
    disk and memory it needs, and layers that the registry would refuse.

    Headers are read, and the destination is asked what it has; nothing is fetched or written.
    """
    from packer.forecast import foresee
    from packer.plan import resolve
    from registry.disk import require_free

    reach = access(flags, note)
    builds = chosen(builds_of(model, flags), variant)
    forecasts = {
        name: foresee(resolve(file, STAGES[-1], work(), reach, environment()), reach, file.source)
        for name, file in builds.items()
    }
    if require_room:
        hint = "take a machine with more room, or set PACKER_CACHE to a folder on another disk"
        require_free(work(), max(forecast.disk for forecast in forecasts.values()), hint)
    for name, forecast in forecasts.items():
        told = json.dumps({"event": "plan", **_named(name), **forecast.to_json()}) if as_json else forecast.render()
        click.echo(told if as_json or len(forecasts) == 1 else f"variant   {name}\n{told}")


def build_one(path: Path, name: str, file: BuildFile, flags: dict[str, Any], *, as_json: bool) -> int:
    """Build and publish one variant of a build file; the exit code."""
    from packer.results import Places

    return _build(path, name, file, STAGES[-1], Places().take, flags, as_json=as_json)


def _build(
    path: Path | None,
    name: str,
    file: BuildFile,
    until: str,
    write: Write,
    flags: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    """One build, told, locked, and its outcome written; the exit code."""
    from packer.evaluate import ready_report
    from packer.inputs import pinned
    from packer.plan import resolve
    from packer.results import Recorded

    if name:
        click.echo(
            json.dumps({"event": "variant", **_named(name)}) if as_json else f"variant   {name}", err=not as_json
        )
    with listener(in_json=as_json) as told:
        recorded = Recorded(told)
        with _told(write, name, recorded.stages):
            reach = access(dict(flags), told.noted)
            plan = resolve(file, until, work(), reach, environment())
            if plan.evaluation and file.evaluate.report:
                ready_report(file.evaluate.report)
            plan, inputs = pinned(plan, file, path.parent) if path else (plan, {})
            result = _run(plan, until, recorded, file.evaluate.report)
        if path and "publish" in recorded.stages:
            _lock(path, name, inputs, recorded)
    if is_refused(result):
        write({"event": "scorecard", **_named(name), **result.scorecard.to_json()}, recorded.stages)
        return tell_refusal(result, name, as_json=as_json)
    event = "release" if until == STAGES[-1] else "stopped"
    document = {"event": event, "after": until, **_named(name), **_outcome(plan, result)}
    write(document, recorded.stages)
    click.echo(json.dumps(document, ensure_ascii=False) if as_json else _conclusion(plan, until, result))
    return 0


@contextmanager
def _told(write: Write, name: str, stages: Stages) -> Iterator[None]:
    """An error of the block is a result too."""
    try:
        yield
    except Exception as error:
        known = expected(error)
        if isinstance(known, PackerError):
            write({"event": "error", **_named(name), **known.to_json()}, stages)
        raise


def _lock(path: Path, name: str, inputs: dict[str, Entry], recorded: Recorded) -> None:
    """Keep what the release was made of beside the build file; that it cannot be is no reason to fail by then."""
    from packer.buildfile import read_builds
    from packer.inputs import outputs, used_by
    from packer.lock import Locked, lock_path, write_locked

    try:
        locked = Locked({**used_by(recorded.stages), **inputs}, outputs(recorded.stages, path.parent))
        write_locked(path, name, locked, read_builds(path))
    except (OSError, UsageError) as error:
        recorded.noted(f"{lock_path(path)} is not written: {error}")


def _named(name: str) -> dict[str, str]:
    return {"variant": name} if name else {}


def chosen(builds: dict[str, BuildFile], names: Sequence[str]) -> dict[str, BuildFile]:
    """The builds of those names; all, if none is named."""
    from formats.text import printable

    for name in names:
        if name not in builds:
            expected = ", ".join(filter(None, builds)) or "a build file with variants:"
            raise UsageError("there is no such variant", expected=expected, found=printable(name))
    return {name: builds[name] for name in names or builds}


def _is_build_file(model: str) -> bool:
    return model.endswith((".yaml", ".yml")) and Path(model).is_file()


def builds_of(model: str, flags: dict[str, Any]) -> dict[str, BuildFile]:
    """The builds that are asked for, by the names of their variants, flags in place of what the file says."""
    from containers.modelpack import ModelPack
    from packer.buildfile import BuildFile, Pickles, RemoteCode, override, parse_size, read_builds, with_variant
    from registry.descriptor import Platform

    builds = read_builds(Path(model)) if _is_build_file(model) else {"": BuildFile(source=model)}
    convert: dict[str, Callable[[Any], Any]] = {
        "platforms": lambda names: tuple(map(Platform.parse, names)),
        "busybox": lambda pairs: dict(map(_binary, pairs)),
        "modelpack": ModelPack,
        "pickle": Pickles,
        "remote_code": RemoteCode,
        "max_size": parse_size,
    }
    given = {key: value for key, value in flags.items() if value is not None and value is not False and value != ()}
    values = {key: convert.get(key, lambda value: value)(value) for key, value in given.items()}
    to = values.pop("to", None)
    places = {name: {"to": with_variant(to, name) if name else to} if to else {} for name in builds}
    return {name: _apart(name, override(file, values | places[name])) for name, file in builds.items()}


def _apart(name: str, file: BuildFile) -> BuildFile:
    """A variant with a folder of its own for its report."""
    said = file.evaluate
    if not (name and said.report):
        return file
    return file.model_copy(update={"evaluate": said.model_copy(update={"report": said.report / name})})


def _binary(text: str) -> tuple[Any, Path]:
    from registry.descriptor import Platform

    platform, equals, path = text.partition("=")
    if not equals:
        raise UsageError("this names no file for a platform", expected="--busybox linux/arm64=FILE", found=text)
    return Platform.parse(platform), Path(path)


def _run(plan: Build, until: str, listener: Listener, report: Path | None) -> Any:
    """The result of the last stage, or of the one that says no; a report is written before anything comes after it."""
    from packer.pipeline import pipeline
    from packer.watch import Run

    result = None
    for result in islice(pipeline(plan, Run(listener)), STAGES.index(until) + 1):
        tell_report(result, work(), report, listener)
    return result


def _outcome(plan: Build, result: object) -> dict[str, Any]:
    from packer.watch import facts

    return {**facts(result), "base": {"name": plan.base.name, "digest": plan.base.digest}}


def _conclusion(plan: Build, until: str, result: object) -> str:
    release = _outcome(plan, result)
    if until == "package":
        digests = [f"{form:<9}  {release[form]}" for form in ("image", "modelpack") if release[form]]
        return "\n".join([*digests, "nothing was published"])
    if until != STAGES[-1]:
        return f"stopped after {until}; nothing was published"
    from packer.stages import MODELPACK_SUFFIX

    lines = [f"image      {plan.to}", f"           {release['image']}"]
    if release["modelpack"]:
        lines += [f"modelpack  {plan.to}{MODELPACK_SUFFIX}", f"           {release['modelpack']}"]
    return "\n".join([*lines, f"base       {plan.base.name} {plan.base.digest or ''}".rstrip()])
