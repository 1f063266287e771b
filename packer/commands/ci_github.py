"""`packer ci github`, and what a job of any service shows of a build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from packer.options import access, note, reaching

NOWHERE = """note: the workflow takes the action of its own repository (uses: ./), as it does in packer's; elsewhere say
      which it is: --action OWNER/REPO@COMMIT"""


@click.command(short_help="Write a workflow for GitHub Actions.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="The root of the repository. Default: this folder.",
)
@click.option("--name", default="", help="The workflow's name, and its file's. Default: the last part of publish.to.")
@click.option(
    "--action",
    metavar="OWNER/REPO@COMMIT",
    help="Where packer's action lies. Default: where this packer was installed from, if that is GitHub, else ./",
)
@click.option("--runner", multiple=True, metavar="LABEL", help="Label of a runner. Repeatable. Default: ubuntu-latest.")
@click.option("--branch", default="main", show_default=True, help="A change of the build file here starts a build.")
@click.option(
    "--schedule", default="17 4 * * 1", show_default=True, metavar="CRON", help="When it is built again; '' for never."
)
@click.option("--attest/--no-attest", "attests", default=True, help="Whether GitHub attests where a model was built.")
@click.option("--installed", is_flag=True, help="packer is on the runner, as in its image: nothing is installed.")
def github(
    file: Path, *, out: Path, name: str, action: str | None, runner: tuple[str, ...], installed: bool, **flags: Any
) -> None:
    """Write a workflow that builds FILE to DIR/.github/workflows/NAME.yml.

    It runs when the build file changes, by schedule, by hand, and for the event build-NAME of repository_dispatch: all
    variants side by side, one run at a time.
    """
    from containers.ci.github import COMMENTS, workflow
    from containers.ci.text import workflow_yaml
    from packer.buildfile import read_builds
    from packer.github import HERE, checked_schedule, in_repository, installed_from, plan_workflow

    place = in_repository(file, out)
    action = action or installed_from()
    if not action:
        note(NOWHERE)
    build = plan_workflow(read_builds(file), place, name, action or HERE)
    flags["schedule"] = checked_schedule(flags["schedule"])
    build = replace(build, runner=runner or build.runner, installs=not installed, **flags)
    head = f"Written by `packer ci github {place}`; docs/ci-github.md of packer tells what it does."
    target = out / build.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(workflow_yaml(workflow(build), COMMENTS, head))
    click.echo(target)


@click.command(short_help="Show the outcome of a build as Markdown.")
@click.argument("result", type=click.Path(path_type=Path, dir_okay=False))
@reaching
def summary(result: Path, **flags: Any) -> None:
    """Show the outcome of a build, the file that build --result-file wrote, as a page of Markdown: what was published,
    its scorecard, or what went wrong.

    A GitHub job appends it to $GITHUB_STEP_SUMMARY.
    """
    from packer.summary import read_result
    from packer.summary import summary as page

    click.echo(page(read_result(result), access(flags, note)), nl=False)
