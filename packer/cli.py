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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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

plain_http = click.option("--plain-http", is_flag=True, help="Speak HTTP to registries beyond this machine.")
as_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output, one object a line.")


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
        click.echo("interrupted: no tag was moved and nothing half-written has its final name", err=True)
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

    Exit codes: 0 done; 2 bad usage or build file; 3 the model is not acceptable; 5 a registry or source
    refused or failed; 6 not enough disk or memory; 1 a defect of packer.
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
@plain_http
@as_json
def build(model: str, *, until: str, as_json: bool, **flags: Any) -> None:
    """Build MODEL and publish it: an image at DEST and a ModelPack manifest at DEST-modelpack.

    MODEL is a folder in the Hugging Face layout, a .safetensors, .gguf or .onnx file, hf://ORG/NAME[@REVISION],
    or a build file (packer.yaml).
    """
    from packer.plan import resolve

    plan = resolve(_build_file(model, flags), until, _work())
    with _listener(as_json=as_json) as listener:
        result = _run(plan, until, listener)
    if as_json:
        event = "release" if until == STAGES[-1] else "stopped"
        click.echo(json.dumps({"event": event, "after": until, **_outcome(plan, result)}, ensure_ascii=False))
    else:
        click.echo(_conclusion(plan, until, result))


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
@plain_http
@as_json
def validate(
    paths: tuple[str, ...], *, include: tuple[str, ...], deep: bool, remote_code: str, plain_http: bool, as_json: bool
) -> int:
    """Prove that models are what they claim to be.

    Each is a folder, a file, an OCI layout, hf://ORG/NAME[@REVISION] or a reference; of what is far away only headers
    are read. Each is judged by itself. Exits with 0 if all are good, else with 3; with 5 or 2 if one could not be had.
    """
    from packer.judge import Judgement, judge

    judgements = []
    for path in paths:
        try:
            judgement = judge(path, include, deep=deep, allow_code=remote_code == "allow", plain_http=plain_http)
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
    with _listener(as_json=as_json) as listener:
        written = shard_to(source, target, size, include, listener)
    _tell_written(written, as_json=as_json)


@cli.command(short_help="Write a model with its weights in one file.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path, file_okay=False))
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match; may be repeated.")
@as_json
def merge(source: str, target: Path, *, include: tuple[str, ...], as_json: bool) -> None:
    """Write the model SRC to the folder DST with its weights in one file. Undoes shard."""
    from packer.reshard import merge_to

    with _listener(as_json=as_json) as listener:
        written = merge_to(source, target, include, listener)
    _tell_written(written, as_json=as_json)


@cli.command(short_help="Show what a model or an artifact holds.")
@click.argument("what", metavar="REF_OR_PATH")
@click.option("--tensors", is_flag=True, help="List every tensor; of a reference or hf:// only headers are downloaded.")
@plain_http
@as_json
def inspect(what: str, *, tensors: bool, plain_http: bool, as_json: bool) -> None:
    """Show what a folder, a file, a layout, a reference or hf://ORG/NAME holds.

    Of a reference only manifests and configs are downloaded.
    """
    from packer.inspect import inspect as report_on
    from packer.inspect import render

    report = report_on(what, tensors=tensors, plain_http=plain_http)
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else render(report))


@cli.command(short_help="Write the model in an artifact to a folder.")
@click.argument("reference", metavar="REF")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--include", multiple=True, metavar="GLOB", help="Write only files that match; may be repeated.")
@plain_http
@as_json
def pull(reference: str, folder: Path, *, include: tuple[str, ...], plain_http: bool, as_json: bool) -> None:
    """Write the model's files of REF below DIR, verified."""
    from containers.unpack import model_manifest, unpack
    from packer.watch import Run
    from registry.reference import parse_reference
    from registry.store import open_store

    place = parse_reference(reference)
    store = open_store(place, plain_http=plain_http)
    manifest = model_manifest(store.resolve(place.name), store)
    with _listener(as_json=as_json) as listener:
        written = Run(listener)("pull", unpack, manifest, store, folder, include)
    if as_json:
        click.echo(json.dumps({"event": "pulled", "digest": manifest.descriptor.digest, "files": len(written)}))
    else:
        click.echo("\n".join(map(str, written)))


def _tell_written(written: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": "written", "files": [str(path) for path in written]}))
    else:
        click.echo("\n".join(map(str, written)))


def _work() -> Path:
    """The folder for what outlasts a build."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PACKER_CACHE") or Path(cache) / "packer")


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
    values = {key: convert.get(key, lambda value: value)(value) for key, value in flags.items() if value}
    return override(file, values)


def _binary(text: str) -> tuple[Any, Path]:
    from registry.descriptor import Platform

    platform, equals, path = text.partition("=")
    if not equals:
        raise UsageError("this names no file for a platform", expected="--busybox linux/arm64=FILE", found=text)
    return Platform.parse(platform), Path(path)


def _run(plan: Build, until: str, listener: Listener) -> object:
    from packer.pipeline import pipeline
    from packer.watch import Run

    results = pipeline(plan, Run(listener))
    return [next(results) for _ in range(STAGES.index(until) + 1)][-1]


@contextmanager
def _listener(*, as_json: bool) -> Iterator[Listener]:
    """JSON on standard output if asked for, else bars on a terminal and lines elsewhere, on standard error."""
    from packer.progress import Bars, JsonLines, PlainLines

    if as_json:
        yield JsonLines(click.echo)
        return
    if not sys.stderr.isatty():
        yield PlainLines(lambda text: click.echo(text, err=True))
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()


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
    from packer.publish import MODELPACK_SUFFIX

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
    if in_json:
        with suppress(OSError):
            click.echo(json.dumps({"event": "error", **error.to_json()}, ensure_ascii=False))
    click.echo(f"error: {error}", err=True)
    return error.exit_code
