"""`packer pull`, `push`, `copy`, `tag`, `tags`, `login`: artifacts on their way between registries and folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from packer.options import access, as_json, listener, moving, note, reaching
from registry.errors import UsageError


@click.command(short_help="Write the model in an artifact to a folder.")
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


@click.command(short_help="Send an OCI layout to registries.")
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


@click.command(short_help="Copy an artifact from registry to registry.")
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


@click.command(short_help="Give an artifact another tag.")
@click.argument("reference", metavar="REF")
@click.argument("tag", metavar="TAG")
@reaching
@as_json
def tag(reference: str, tag: str, *, as_json: bool, **flags: Any) -> None:
    """Point TAG, in the same repository, at what REF names."""
    from packer.transfers import retag

    facts = retag(reference, tag, access(flags, note))
    click.echo(json.dumps({"event": "tagged", **facts}) if as_json else f"{facts['reference']}  {facts['digest']}")


@click.command(short_help="List the tags of a repository.")
@click.argument("repository", metavar="REPO")
@reaching
@as_json
def tags(repository: str, *, as_json: bool, **flags: Any) -> None:
    """List the tags of REPO, a repository (HOST/REPO) or an OCI layout (oci:FOLDER)."""
    from packer.transfers import tags as tags_of

    found = tags_of(repository, access(flags, note))
    click.echo(json.dumps({"event": "tags", "tags": found}) if as_json else "\n".join(found))


@click.command(short_help="Keep a login for a registry.")
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


def _tell_copies(source: str, targets: Sequence[str], flags: dict[str, Any], *, in_json: bool) -> None:
    from packer.transfers import copy as copy_to
    from packer.watch import Run, facts

    with listener(in_json=in_json) as told:
        copies = copy_to(source, targets, access(flags, told.noted), Run(told))
    for copied in copies:
        click.echo(json.dumps({"event": "copied", **facts(copied)}) if in_json else copied.reference)
