"""`packer scorecard` and `packer diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from packer.options import access, as_json, note, reaching


@click.command(short_help="Show what an evaluation found about a published model.")
@click.argument("reference", metavar="REF")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the report, a page of HTML.",
)
@reaching
@as_json
def scorecard(reference: str, *, report: Path | None, as_json: bool, **flags: Any) -> None:
    """Show what an evaluation found about the model that REF names: a tag or a digest, of an image or a ModelPack
    manifest, in a registry or a layout.

    Of several evaluations the last is shown. With --json it is the document itself.
    """
    from packer.scorecards import fetch_scorecard, render

    published, place = fetch_scorecard(reference, access(flags, note))
    if report:
        report.write_bytes(published.read_report())
    click.echo(json.dumps(published.document) if as_json else f"{render(published.scorecard)}\n\n{place}")


@click.command(short_help="Compare two published variants of a model.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@reaching
@as_json
def diff(first: str, second: str, *, as_json: bool, **flags: Any) -> None:
    """Compare what A and B name, in registries or layouts: the models, their layers, and what evaluations found.

    Only manifests, configs and scorecards are downloaded.
    """
    from packer.diff import compare, render

    difference = compare(first, second, access(flags, note))
    if as_json:
        click.echo(json.dumps({"event": "difference", **difference.to_json()}))
    else:
        click.echo(render(difference))
