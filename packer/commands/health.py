"""`packer health`: what a container's health check asks."""

from __future__ import annotations

import click

SECONDS = 4
"""How long an answer may take: less than the health check itself may."""


@click.command(short_help="Ask a listener on this machine whether it is well.")
@click.option(
    "--url",
    default="http://127.0.0.1:8080/healthz",
    show_default=True,
    envvar="PACKER_HEALTH_URL",
    show_envvar=True,
    help="Where it answers.",
)
def health(*, url: str) -> int:
    """Ask a listener on this machine whether it is well: 0 if it is, or if none runs, and else 1.

    This is the health check of packer's image, in which builds run as well as listeners: where nobody listens, nobody
    is ill.
    """
    from packer.health import ailment

    if found := ailment(url, SECONDS):
        click.echo(f"{url}: {found}", err=True)
        return 1
    return 0
