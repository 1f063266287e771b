"""`packer serve`, and `packer events`: what a listener heard, and what came of it."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import click

from packer.options import as_json, environment

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from packer.listener.records import Event as Heard
    from packer.listener.store import Store

_config = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("serve.yaml"),
    show_default=True,
    help="What the listener is told.",
)


@click.command(short_help="Listen to webhooks, and build again what changed.")
@_config
@click.option("--listen", metavar="HOST:PORT", help="In place of the address that the file says.")
def serve(*, config: Path, listen: str | None) -> int:
    """Listen to the webhooks of registries and hubs, and build again what is made of something that changed.

    An event is a hint: the source is asked what it has, and a build runs only if that differs from its lock. What is
    heard and what came of it is on the page at the address, and in `packer events`. Ends on SIGTERM or SIGINT.
    """
    _require()
    from packer.listener.config import read_config
    from packer.listener.serve import serve as listen_on

    stop = _stopped_by(signal.SIGTERM, signal.SIGINT)
    told = read_config(config)
    told = told.model_copy(update={"listen": listen}) if listen else told
    listen_on(told, environment(), _log, stop)
    return 0


def _stopped_by(*numbers: signal.Signals) -> Event:
    """What is set when one of these signals comes. Setting it in the handler could wait for itself."""
    stop = Event()
    out, into = os.pipe()
    for number in numbers:
        signal.signal(number, lambda *_: os.write(into, b"."))
    Thread(target=_set_when_told, args=(out, stop), daemon=True).start()
    return stop


def _set_when_told(out: int, stop: Event) -> None:
    os.read(out, 1)
    stop.set()


def _require() -> None:
    """`UsageError` if what a listener needs is not installed."""
    from importlib.util import find_spec

    from registry.errors import UsageError

    for module in ("sqlalchemy", "fastapi", "uvicorn", "limits", "prometheus_client"):
        if find_spec(module) is None:
            hint = "pip install 'packer[serve]'"
            raise UsageError("the listener is not here", found=f"no module {module}", hint=hint)


def _log(what: str, **members: Any) -> None:
    """One line of JSON on standard error."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    click.echo(json.dumps({"at": at, "what": what, **members}, ensure_ascii=False), err=True)


@click.group(short_help="What a listener heard: list, show, retry.")
def events() -> None:
    """What a listener heard, and what came of it. Works while it runs."""


@events.command("list", short_help="The last events.")
@_config
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, at most.")
@as_json
def list_(*, config: Path, limit: int, as_json: bool) -> int:
    """The last events, the newest first."""
    with _store(config) as store:
        found = store.events(limit)
    click.echo("\n".join(map(_in_json if as_json else _line, found)) or "no events yet")
    return 0


@events.command(short_help="One event, and the runs that it led to.")
@_config
@click.argument("number", type=click.IntRange(1))
@as_json
def show(*, config: Path, number: int, as_json: bool) -> int:
    """Event NUMBER, and the runs that it led to."""
    with _store(config) as store:
        event = store.event(number) or _missing(number)
        runs = store.led(event.runs)
    if as_json:
        click.echo(json.dumps({**_document(event), "runs": [vars(run) for run in runs]}, ensure_ascii=False))
        return 0
    click.echo(_line(event))
    for run in runs:
        repeats = f"  repeats run {run.after}" if run.after else ""
        click.echo(f"  run {run.id}  {run.build}  {run.state}{repeats}" + (f"  {run.error}" if run.error else ""))
        click.echo("".join(f"    {change}\n" for change in run.changed), nl=False)
    return 0


@events.command(short_help="Have an event looked at once more.")
@_config
@click.argument("number", type=click.IntRange(1))
def retry(*, config: Path, number: int) -> int:
    """Have event NUMBER looked at once more, as if it came now."""
    with _store(config) as store:
        if not store.again(number):
            _missing(number)
    click.echo(f"event {number} is looked at again")
    return 0


def _store(config: Path) -> AbstractContextManager[Store]:
    _require()
    from packer.listener.config import read_config
    from packer.listener.serve import database, opened

    return opened(database(read_config(config), environment()))


def _missing(number: int) -> Any:
    from registry.errors import UsageError

    raise UsageError("there is no such event, or it still waits", found=number, hint="packer events list")


def _in_json(event: Heard) -> str:
    return json.dumps(_document(event), ensure_ascii=False)


def _document(event: Heard) -> dict[str, Any]:
    return {**vars(event), "changes": [vars(change) for change in event.changes], "runs": list(event.runs)}


def _line(event: Heard) -> str:
    from formats.text import printable

    at = datetime.fromtimestamp(event.at, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    what = ", ".join(change.reference for change in event.changes)[:80] or "nothing to act on"
    runs = " ".join(f"run {run}" for run in event.runs)
    return printable(f"{event.id:>6}  {at}  {event.kind:<12} {event.state:<9} {what}  {runs or event.why}").rstrip()
