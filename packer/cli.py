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
from collections.abc import Iterator, Sequence
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

    plan = resolve(_build_file(model, flags), until)
    with _listener(as_json=as_json) as listener:
        result = _run(plan, until, listener)
    if as_json:
        event = "release" if until == STAGES[-1] else "stopped"
        click.echo(json.dumps({"event": event, "after": until, **_outcome(plan, result)}, ensure_ascii=False))
    else:
        click.echo(_conclusion(plan, until, result))


@cli.command()
@click.argument("what", metavar="REF_OR_PATH")
@plain_http
@as_json
def inspect(what: str, *, plain_http: bool, as_json: bool) -> None:
    """Show what a folder, a file, a layout or a reference holds.

    Of a reference only manifests and configs are downloaded.
    """
    from packer.inspect import inspect as report_on
    from packer.inspect import render

    report = report_on(what, plain_http=plain_http)
    click.echo(json.dumps(report, ensure_ascii=False) if as_json else render(report))


@cli.command()
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


def _build_file(model: str, flags: dict[str, Any]) -> BuildFile:
    from packer.buildfile import BuildFile, override, read_build_file
    from registry.descriptor import Platform

    is_file = model.endswith((".yaml", ".yml")) and Path(model).is_file()
    file = read_build_file(Path(model)) if is_file else BuildFile(source=model)
    values = {key: value for key, value in flags.items() if value}
    if "platforms" in values:
        values["platforms"] = tuple(map(Platform.parse, values["platforms"]))
    if "busybox" in values:
        values["busybox"] = dict(map(_binary, values["busybox"]))
    if "modelpack" in values:
        from containers.modelpack import ModelPack

        values["modelpack"] = ModelPack(values["modelpack"])
    source = {"include": values.pop("include")} if "include" in values else {}
    return override(file, source, values)


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
    if isinstance(error, OSError) and error.filename:
        hint = "check the path and its permissions"
        return TransferError(f"the file cannot be used ({error.strerror})", subject=str(error.filename), hint=hint)
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
