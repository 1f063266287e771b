"""`packer rebuild`: build what a file describes if, and only if, something that it is made of has changed."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packer.commands.build import build_one, builds_of, chosen
from packer.options import access, as_json, environment, listener, moving, note, work
from packer.stages import STAGES
from registry.errors import PackerError

if TYPE_CHECKING:
    from packer.buildfile import BuildFile
    from packer.lock import Locked

CHANGED = 7
"""Exit code: something is not as it was."""


@click.command(short_help="Build FILE again if what it is made of has changed.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--variant", multiple=True, metavar="NAME", help="Of a file with variants, only this one. Repeatable.")
@click.option("--check", is_flag=True, help="Build nothing: exit with 0 if all is up to date, with 7 if it is not.")
@click.option(
    "--reproduce",
    is_flag=True,
    help="Build the release in the lock again, from nothing, publish nothing, and tell the first layer that differs.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the report of an evaluation to this folder, in place of the one in FILE.",
)
@moving
@as_json
def rebuild(
    file: Path,
    *,
    variant: tuple[str, ...],
    check: bool,
    reproduce: bool,
    report: Path | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Build what FILE describes if something that it is made of has changed: its source, base, recipe, data, tools, or
    the file itself.

    What the last release was made of is in the lock beside FILE, which every build of FILE writes. Sources and
    registries are asked what they have now; nothing else is downloaded for that.
    """
    from packer.lock import lock_path, read_lock

    lock = read_lock(lock_path(file))
    codes, errors = [], []
    for name, build in chosen(_builds(file, report), variant).items():
        locked = lock.builds.get(name)
        try:
            if reproduce:
                codes.append(_reproduce(file, name, build, locked, flags, as_json=as_json))
            elif _is_changed(file, name, build, locked, flags, as_json=as_json):
                codes.append(CHANGED if check else build_one(file, name, build, flags, as_json=as_json))
        except PackerError as error:
            if not name:
                raise
            errors.append(_tell(name, error, as_json=as_json))
    return max(errors or codes, default=0)


def _tell(name: str, error: PackerError, *, as_json: bool) -> int:
    """Say what is wrong with one variant, which does not stop the others; the exit code."""
    from formats.text import printable

    if as_json:
        click.echo(json.dumps({"event": "error", "variant": name, **error.to_json()}, ensure_ascii=False))
    note("\n".join(map(printable, f"error: {name}: {error}".split("\n"))))
    return error.exit_code


def _builds(file: Path, report: Path | None) -> dict[str, BuildFile]:
    """The builds of the file; those that are measured have their reports in another folder, if there is one."""
    builds = builds_of(str(file), {})
    measured = {name: build for name, build in builds.items() if report and build.evaluate.suite}
    return builds | {name: _reported(build, str(report), name) for name, build in measured.items()}


def _reported(build: BuildFile, report: str, name: str) -> BuildFile:
    return build.model_copy(update={"evaluate": build.evaluate.model_copy(update={"report": Path(report, name)})})


def _is_changed(
    path: Path, name: str, file: BuildFile, locked: Locked | None, flags: dict[str, Any], *, as_json: bool
) -> bool:
    """Whether anything differs from the lock, which is told."""
    from packer.inputs import current, pinned
    from packer.lock import to_json
    from packer.plan import resolve
    from packer.rebuild import differences

    reach = access(dict(flags), note)
    build, inputs = pinned(resolve(file, STAGES[-1], work(), reach, environment()), file, path.parent)
    now = current(inputs, locked.inputs if locked else {})
    found = differences(build, now, locked)
    if as_json:
        changed = [change.to_json() for change in found]
        document = {"event": "check", "variant": name, "changed": changed, "inputs": to_json(now)}
        click.echo(json.dumps(document, ensure_ascii=False))
    else:
        said = ("changed" if locked else "never built") if found else "up to date"
        click.echo("\n".join([f"{name or path.name}: {said}", *(f"  {change}" for change in found)]))
    return bool(found)


def _reproduce(
    path: Path, name: str, file: BuildFile, locked: Locked | None, flags: dict[str, Any], *, as_json: bool
) -> int:
    from packer.inputs import current, pinned
    from packer.lock import changes
    from packer.plan import resolve
    from packer.rebuild import as_locked, reproduce
    from packer.watch import Run
    from registry.errors import UsageError
    from registry.memory import Memory

    if not locked:
        what = "the lock knows no release of this build"
        raise UsageError(what, subject=str(path), found=name or "no lock", hint=f"packer build {path}")
    with tempfile.TemporaryDirectory(dir=work(), prefix="reproduce-") as folder, listener(in_json=as_json) as told:
        reach = replace(access(dict(flags), told.noted), memory=Memory())
        now, inputs = pinned(resolve(file, STAGES[-1], Path(folder), reach, environment()), file, path.parent)
        build, inputs = pinned(as_locked(now, inputs, locked, reach), file, path.parent)
        changed = changes(locked.inputs, current(inputs, locked.inputs))
        result = reproduce(build, locked, changed, Run(told))
    click.echo(json.dumps({"event": "reproduced", **result.to_json()}) if as_json else result.render())
    return 0 if result.is_same else CHANGED
