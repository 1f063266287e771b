"""The command line. Only this module reads the environment, prints and exits.

Everything heavy is imported when a command runs, so that `packer --help` is quick.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packer.commands.evaluate import evaluate, is_refused, suites, tell_refusal, tell_report
from packer.commands.scorecards import diff, scorecard
from packer.options import access, as_json, environment, evaluating, listener, moving, note, quantizing, reaching, work
from packer.stages import STAGES
from registry.errors import PackerError, SpaceError, TransferError, UsageError

if TYPE_CHECKING:
    from packer.buildfile import BuildFile
    from packer.pipeline import Build
    from packer.watch import Listener

MODELPACK = ("shared", "raw", "none")
PICKLES = ("reject", "convert")
REMOTE_CODE = ("reject", "allow")
DEFECT, INTERRUPTED, BROKEN_PIPE = 1, 130, 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that the outcome has."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = cli.main(list(arguments), prog_name="packer", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        if "--json" in arguments:
            click.echo(json.dumps({"event": "interrupted"}))
        click.echo("interrupted: no tag was moved, nothing half-written has its final name; run it again", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - whatever it is, a user sees one message and one exit code
        code = _report(_expected(error), in_json="--json" in arguments)
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="packer")
def cli() -> None:
    """Take a language model from where it lives, prove its files, and publish it as OCI layers that Kubernetes mounts.

    \b
    packer build ./SmolLM2 --to registry.example.com/models/smollm2:v1
    packer build hf://ORG/NAME@main --to oci:./out
    packer validate ./SmolLM2 hf://ORG/NAME registry.example.com/models/smollm2:v1
    packer inspect registry.example.com/models/smollm2:v1

    Exit codes: 0 done; 2 bad usage or build file; 3 the model is not acceptable; 4 it lost too much; 5 a registry
    or source refused or failed; 6 not enough disk or memory; 130 interrupted; 1 a defect of packer.
    """


@cli.command(short_help="Prove MODEL, package it and publish it.")
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
@moving
@as_json
def build(model: str, *, until: str, as_json: bool, **flags: Any) -> int:
    """Build MODEL and publish it: an image at DEST and a ModelPack manifest at DEST-modelpack.

    MODEL is a folder in the Hugging Face layout, a .safetensors, .gguf or .onnx file, hf://ORG/NAME[@REVISION],
    oci://HOST/REPO[:TAG|@DIGEST] (an artifact of packer or another tool), or a build file (packer.yaml).
    """
    from packer.plan import resolve

    with listener(in_json=as_json) as told:
        reach = access(flags, told.noted)
        file = _build_file(model, flags)
        plan, report = resolve(file, until, work(), reach, environment()), file.evaluate.report
        result = _run(plan, until, told, report)
    if is_refused(result):
        return tell_refusal(result, as_json=as_json)
    if as_json:
        event = "release" if until == STAGES[-1] else "stopped"
        click.echo(json.dumps({"event": event, "after": until, **_outcome(plan, result)}, ensure_ascii=False))
    else:
        click.echo(_conclusion(plan, until, result))
    return 0


@cli.command(short_help="Show what a build would do, without doing it.")
@click.argument("model", metavar="MODEL_OR_FILE")
@click.option("--to", metavar="DEST", help="HOST[:PORT]/REPO[:TAG], or oci:FOLDER[:TAG].")
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match. Repeatable.")
@click.option("--max-size", metavar="SIZE", help="Regroup the weights in files of at most SIZE, such as 4GiB.")
@click.option("--quantize", "recipe", metavar="RECIPE", help="Quantize by this recipe: a name or a .yaml file.")
@moving
@as_json
def plan(model: str, *, as_json: bool, **flags: Any) -> None:
    """Show what a build of MODEL_OR_FILE would do: bytes to download, to read, to upload, to mount and to skip, the
    disk and memory it needs, and layers that the registry would refuse.

    Headers are read, and the destination is asked what it has; nothing is fetched or written.
    """
    from packer.forecast import foresee
    from packer.plan import resolve

    reach = access(flags, note)
    file = _build_file(model, flags)
    build = resolve(file, STAGES[-1], work(), reach, environment())
    forecast = foresee(build, reach, file.source)
    click.echo(json.dumps({"event": "plan", **forecast.to_json()}) if as_json else forecast.render())


@cli.command(short_help="Prove that models are what they claim to be.")
@click.argument("paths", metavar="PATH_OR_REF...", nargs=-1, required=True)
@click.option("--include", multiple=True, metavar="GLOB", help="Look at files that match alone. Repeatable.")
@click.option("--deep", is_flag=True, help="Read every value: NaN, Inf, zeros, scales, and statistics of each tensor.")
@click.option(
    "--remote-code",
    type=click.Choice(REMOTE_CODE),
    default=REMOTE_CODE[0],
    help="allow: code only warns. Default: reject.",
)
@reaching
@as_json
def validate(
    paths: tuple[str, ...], *, include: tuple[str, ...], deep: bool, remote_code: str, as_json: bool, **flags: Any
) -> int:
    """Prove that models are what they claim to be.

    Each is a folder, a file, an OCI layout, hf://ORG/NAME[@REVISION] or a reference; of what is far away only headers
    are read. Each is judged by itself. Exits with 0 if all are good, else with 3; with 5 or 2 if one could not be had.
    """
    from packer.judge import Judgement, judge

    judgements, reach = [], access(flags, note)
    for path in paths:
        try:
            judgement = judge(path, include, reach, deep=deep, allow_code=remote_code == "allow")
        except (PackerError, OSError, MemoryError) as error:
            if not isinstance(expected := _expected(error), PackerError):
                raise
            judgement = Judgement.failed(path, expected)
        click.echo(json.dumps(judgement.to_json()) if as_json else judgement.render())
        judgements.append(judgement)
    return max((judgement.exit_code for judgement in judgements), key=_EXIT_ORDER.index)


_EXIT_ORDER = (0, 6, 2, 5, 3)
"""What counts most of several: a model that is wrong, then one that could not be had."""


@cli.command(short_help="Write a model with its weights in files of a given size.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path, file_okay=False))
@click.option("--max-size", metavar="SIZE", required=True, help="Bytes a file may have, such as 4GiB or 500MB.")
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match; may be repeated.")
@as_json
def shard(source: str, target: Path, *, max_size: str, include: tuple[str, ...], as_json: bool) -> None:
    """Write the model SRC to the folder DST with its weights in files of at most SIZE.

    No tensor is split: one that is larger gets a file of its own. Run it again after a kill and it goes on.
    """
    from packer.buildfile import parse_size
    from packer.reshard import shard_to

    size = parse_size(max_size)
    with listener(in_json=as_json) as told:
        written = shard_to(source, target, size, include, told)
    _tell_written(written, as_json=as_json)


@cli.command(short_help="Write a model with its weights in one file.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path, file_okay=False))
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match; may be repeated.")
@as_json
def merge(source: str, target: Path, *, include: tuple[str, ...], as_json: bool) -> None:
    """Write the model SRC to the folder DST with its weights in one file. Undoes shard."""
    from packer.reshard import merge_to

    with listener(in_json=as_json) as told:
        written = merge_to(source, target, include, told)
    _tell_written(written, as_json=as_json)


@cli.command(short_help="Write a model in fewer bits.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path, file_okay=False))
@click.option("--recipe", metavar="RECIPE", required=True, help="A name (packer recipes lists them) or a .yaml file.")
@quantizing
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match; may be repeated.")
@reaching
@as_json
def quantize(source: str, target: Path, *, include: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Write the model SRC to the folder DST, quantized by a recipe, with everything else that it has.

    SRC is what build takes. Run it again after a kill and it goes on behind the last whole file.
    """
    from packer.buildfile import Quantize, fill
    from packer.quantize import quantize_to
    from packer.sources import Reach
    from packer.watch import Run, facts

    with listener(in_json=as_json) as told:
        reach = access(flags, told.noted)
        how = fill(Quantize(), {key: value for key, value in flags.items() if value is not None})
        reached = Reach(reach, work() / "artifacts")
        quantized, written = quantize_to(source, target, how, include, reached, environment(), Run(told))
    if as_json:
        files = [str(path) for path in written]
        click.echo(json.dumps({"event": "quantized", **facts(quantized), "files": files}, ensure_ascii=False))
    else:
        for why, count, first in quantized.account.reasons():
            click.echo(f"{'left':<9} {count}, such as {first}: {why}", err=True)
        click.echo("\n".join(map(str, written)))


@cli.command(short_help="List the recipes for quantizing.")
@click.argument("name", required=False)
@as_json
def recipes(name: str | None, *, as_json: bool) -> None:
    """List the recipes for quantizing: what each does, what it needs, and which hardware runs it fast.

    With NAME, or a file, show that one whole.
    """
    from packer.recipes import catalogue, whole
    from recipes.recipe import find_recipe, shipped

    chosen = [find_recipe(name)] if name else list(shipped())
    if as_json:
        click.echo("\n".join(json.dumps({"event": "recipe", **recipe.to_json()}) for recipe in chosen))
    else:
        click.echo(whole(chosen[0]) if name else catalogue(chosen))


@cli.command(short_help="Show what a model or an artifact holds.")
@click.argument("what", metavar="REF_OR_PATH")
@click.option("--tensors", is_flag=True, help="List every tensor; of a reference or hf:// only headers are downloaded.")
@reaching
@as_json
def inspect(what: str, *, tensors: bool, as_json: bool, **flags: Any) -> None:
    """Show what a folder, a file, a layout, a reference or hf://ORG/NAME holds.

    Of a reference only manifests and configs are downloaded.
    """
    from packer.inspect import inspect as report_on
    from packer.inspect import render

    report = report_on(what, access(flags, note), tensors=tensors)
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else render(report))


@cli.command(short_help="Write the model in an artifact to a folder.")
@click.argument("reference", metavar="REF")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--include", multiple=True, metavar="GLOB", help="Write only files that match; may be repeated.")
@moving
@as_json
def pull(reference: str, folder: Path, *, include: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Write the model's files of REF below DIR, verified."""
    from containers.unpack import model_manifest, unpack
    from packer.watch import Run
    from registry.reference import parse_reference
    from registry.store import open_store

    with listener(in_json=as_json) as told:
        reach, place = access(flags, told.noted), parse_reference(reference)
        store = open_store(place, reach)
        manifest = model_manifest(store.resolve(place.name), store)
        written = Run(told)("pull", unpack, manifest, store, folder, include, reach.concurrency)
    if as_json:
        click.echo(json.dumps({"event": "pulled", "digest": manifest.descriptor.digest, "files": len(written)}))
    else:
        click.echo("\n".join(map(str, written)))


@cli.command(short_help="Send an OCI layout to registries.")
@click.argument("source", metavar="SRC")
@click.argument("targets", metavar="REF...", nargs=-1, required=True)
@moving
@as_json
def push(source: str, targets: tuple[str, ...], *, as_json: bool, **flags: Any) -> None:
    """Send what is in the OCI layout SRC (oci:FOLDER[:TAG], as build --to oci:FOLDER writes it) to each REF.

    The ModelPack manifest beside it and all referrers go along. What a registry has is not sent again; an upload that
    broke goes on where it broke, also in another run, where the registry can.
    """
    from packer.transfers import layout_source

    _tell_copies(layout_source(source), targets, flags, in_json=as_json)


@cli.command(short_help="Copy an artifact from registry to registry.")
@click.argument("source", metavar="SRC")
@click.argument("targets", metavar="DEST...", nargs=-1, required=True)
@moving
@as_json
def copy(source: str, targets: tuple[str, ...], *, as_json: bool, **flags: Any) -> None:
    """Have the artifact SRC at each DEST too: references, or oci:FOLDER[:TAG].

    Bytes stream from one to the other and never touch the disk; within one registry they are mounted. The ModelPack
    manifest beside it and all referrers go along.
    """
    _tell_copies(source, targets, flags, in_json=as_json)


@cli.command(short_help="Give an artifact another tag.")
@click.argument("reference", metavar="REF")
@click.argument("tag", metavar="TAG")
@reaching
@as_json
def tag(reference: str, tag: str, *, as_json: bool, **flags: Any) -> None:
    """Point TAG, in the same repository, at what REF names."""
    from packer.transfers import retag

    facts = retag(reference, tag, access(flags, note))
    click.echo(json.dumps({"event": "tagged", **facts}) if as_json else f"{facts['reference']}  {facts['digest']}")


@cli.command(short_help="List the tags of a repository.")
@click.argument("repository", metavar="REPO")
@reaching
@as_json
def tags(repository: str, *, as_json: bool, **flags: Any) -> None:
    """List the tags of REPO, a repository (HOST/REPO) or an OCI layout (oci:FOLDER)."""
    from packer.transfers import tags as tags_of

    found = tags_of(repository, access(flags, note))
    click.echo(json.dumps({"event": "tags", "tags": found}) if as_json else "\n".join(found))


@cli.command(short_help="Keep a login for a registry.")
@click.argument("host")
@click.option("-u", "--username", help="Asked for if it is not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@reaching
def login(host: str, *, username: str | None, password_stdin: bool, **flags: Any) -> None:
    """Prove a login at HOST and keep it where docker does: its helper, or its config.json."""
    from packer.transfers import login as log_in

    if password_stdin and not username:
        raise UsageError("--password-stdin says nothing of the user", hint="add -u NAME")
    username = username or click.prompt("Username")
    password = sys.stdin.read().rstrip("\r\n") if password_stdin else click.prompt("Password", hide_input=True)
    if not password:
        raise UsageError("the password is empty", hint="packer login HOST -u NAME --password-stdin < FILE")
    click.echo(f"logged in at {host}; kept by {log_in(host, username, password, access(flags, note))}")


cli.add_command(evaluate)
cli.add_command(suites)
cli.add_command(scorecard)
cli.add_command(diff)


def _tell_copies(source: str, targets: Sequence[str], flags: dict[str, Any], *, in_json: bool) -> None:
    from packer.transfers import copy as copy_to
    from packer.watch import Run, facts

    with listener(in_json=in_json) as told:
        copies = copy_to(source, targets, access(flags, told.noted), Run(told))
    for copied in copies:
        click.echo(json.dumps({"event": "copied", **facts(copied)}) if in_json else copied.reference)


def _tell_written(written: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": "written", "files": [str(path) for path in written]}))
    else:
        click.echo("\n".join(map(str, written)))


def _build_file(model: str, flags: dict[str, Any]) -> BuildFile:
    from containers.modelpack import ModelPack
    from packer.buildfile import BuildFile, Pickles, RemoteCode, override, parse_size, read_build_file
    from registry.descriptor import Platform

    is_file = model.endswith((".yaml", ".yml")) and Path(model).is_file()
    file = read_build_file(Path(model)) if is_file else BuildFile(source=model)
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
    return override(file, values)


def _binary(text: str) -> tuple[Any, Path]:
    from registry.descriptor import Platform

    platform, equals, path = text.partition("=")
    if not equals:
        raise UsageError("this names no file for a platform", expected="--busybox linux/arm64=FILE", found=text)
    return Platform.parse(platform), Path(path)


def _run(plan: Build, until: str, listener: Listener, report: Path | None) -> object:
    """The result of the last stage, or of the one that says no; a report is written before anything comes after it."""
    from packer.pipeline import pipeline
    from packer.watch import Run

    result: object = None
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


def _expected(error: Exception) -> Exception:
    """The error of our tree that a failure of the machine amounts to; other errors as they are."""
    if isinstance(error, PackerError):
        return error
    if isinstance(error, MemoryError):
        return SpaceError("there is not enough memory", hint="free some, or build on a larger machine")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            "the disk is full", subject=str(error.filename or ""), hint="free some space and run it again"
        )
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        hint = "check the path, its permissions and the limits of this process"
        return TransferError(
            f"a file cannot be used ({error.strerror or error})", subject=str(error.filename or ""), hint=hint
        )
    return error


def _report(error: Exception, *, in_json: bool) -> int:
    """Tell the user, and return the exit code."""
    if not isinstance(error, PackerError):
        traceback.print_exception(error)
        click.echo("error: this is a defect of packer; please report it with the lines above", err=True)
        return DEFECT
    from formats.text import printable

    if in_json:
        with suppress(OSError):
            click.echo(json.dumps({"event": "error", **error.to_json()}, ensure_ascii=False))
    click.echo("\n".join(map(printable, f"error: {error}".split("\n"))), err=True)
    return error.exit_code
