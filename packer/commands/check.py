"""`packer check`."""

from __future__ import annotations

import json
import shutil
from typing import Any

import click

from packer.options import access, as_json, note, reaching


@click.command(short_help="Tell which clients can use what is published.")
@click.argument("reference", metavar="REF")
@click.option("--for", "clients", metavar="CLIENT,...", help="Clients to ask about. Default: all of them.")
@reaching
@as_json
def check(reference: str, *, clients: str | None, as_json: bool, **flags: Any) -> int:
    """Tell which clients can use the artifact REF, ours or another tool's, in a registry or a layout.

    For each of containerd, crio, podman, kserve, kserve-native, kserve-fetch, modctl, kitops, docker-model-runner and
    oras: whether it works, works with a condition, fails, or mounts nothing without a word; by which rule, where, and
    what to do. Only manifests, configs and the headers of layers are downloaded. Exits with 3 if any client that was
    asked about fails or mounts nothing.
    """
    from packer.check import check as answer_to
    from packer.check import clients_named, render

    names = clients_named(clients if clients is not None else ",".join(_all()))
    answer = answer_to(reference, names, access(flags, note))
    width = shutil.get_terminal_size((100, 24)).columns
    click.echo(json.dumps(answer.to_json(), ensure_ascii=False) if as_json else render(answer, max(width, 60)))
    return answer.exit_code


def _all() -> list[str]:
    from containers.check.clients import CLIENTS

    return list(CLIENTS)
