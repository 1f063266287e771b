"""`packer ci`: documents that have a pipeline service run the builds of a file."""

from __future__ import annotations

import click

from packer.commands.ci_github import github, summary
from packer.commands.ci_tekton import tekton


@click.group(short_help="Write what runs builds by themselves.")
def ci() -> None:
    """Write what has a pipeline service run the builds of a build file, by itself and again and again."""


ci.add_command(github)
ci.add_command(summary)
ci.add_command(tekton)
