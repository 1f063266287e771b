"""`packer validate`, `inspect`, `shard`, `merge`, `quantize`, `recipes`: a model looked at, or written anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from packer.failures import expected
from packer.options import REMOTE_CODE, access, as_json, environment, listener, note, quantizing, reaching, work
from registry.errors import PackerError


@click.command(short_help="Prove that models are what they claim to be.")
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
            if not isinstance(known := expected(error), PackerError):
                raise
            judgement = Judgement.failed(path, known)
        click.echo(json.dumps(judgement.to_json()) if as_json else judgement.render())
        judgements.append(judgement)
    return max((judgement.exit_code for judgement in judgements), key=_EXIT_ORDER.index)


_EXIT_ORDER = (0, 6, 2, 5, 3)
"""What counts most of several: a model that is wrong, then one that could not be had."""


@click.command(short_help="Write a model with its weights in files of a given size.")
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


@click.command(short_help="Write a model with its weights in one file.")
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


@click.command(short_help="Write a model in fewer bits.")
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


@click.command(short_help="List the recipes for quantizing.")
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


@click.command(short_help="Show what a model or an artifact holds.")
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


def _tell_written(written: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": "written", "files": [str(path) for path in written]}))
    else:
        click.echo("\n".join(map(str, written)))
