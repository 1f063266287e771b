"""What the commands share: how registries are reached, how progress is shown. Here the environment is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.errors import UsageError

if TYPE_CHECKING:
    from packer.watch import Listener
    from registry.access import Access
    from registry.retry import Log

F = TypeVar("F", bound=Callable[..., Any])

UNDECIDED = ("refuse", "accept", "extend")

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output, one object a line.")

_REACH = (
    click.option("--plain-http", is_flag=True, help="Speak HTTP to registries beyond this machine."),
    click.option("--insecure", is_flag=True, help="Do not verify the certificates of registries."),
    click.option("--ca-file", type=click.Path(path_type=Path), metavar="FILE", help="Trust these authorities too."),
    click.option("--client-cert", type=click.Path(path_type=Path), metavar="FILE", help="Prove yourself with it."),
    click.option("--client-key", type=click.Path(path_type=Path), metavar="FILE", help="The key of --client-cert."),
)

_CONCURRENCY = click.option(
    "--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Blobs that move at once."
)

_QUANTIZING = (
    click.option(
        "--calibration",
        "data",
        metavar="DATA",
        help="What a calibrated recipe sees: a .jsonl, .json, .parquet or .txt file, a folder of such, or a dataset of "
        "the Hub, ORG/NAME[@REVISION][/PATH]. Default: a small set of packer's own.",
    ),
    click.option("--samples", type=click.IntRange(1), help="How many of its rows. Default: all, at most 512."),
    click.option("--max-length", type=click.IntRange(8), help="Tokens of a sample at most. Default: 2048."),
    click.option("--seed", type=int, help="Which rows, and in which order. Default: 0."),
    click.option("--device", metavar="DEVICE", help="auto (the default), cpu, cuda, or one GPU: cuda:1."),
)

_EVALUATING = (
    click.option(
        "--retain",
        "evaluate_retain",
        metavar="SHARE",
        help="The share of the baseline to keep, such as 0.95. Default: the suite's, or 0.99.",
    ),
    click.option(
        "--confidence",
        "evaluate_confidence",
        type=click.FloatRange(0.5, 1, max_open=True),
        help="How sure one must be. Default: 0.95.",
    ),
    click.option(
        "--budget", "evaluate_budget", metavar="TIME", help="Time that it may take, such as 20m (the default)."
    ),
    click.option(
        "--undecided",
        "evaluate_undecided",
        type=click.Choice(UNDECIDED),
        help="When nobody can tell: refuse (the default), accept, or extend: go on with more of the data.",
    ),
    click.option(
        "--data",
        "evaluate_data",
        metavar="DATA",
        help="The text of a fidelity suite, in the forms that --calibration of build takes. Default: a novel.",
    ),
    click.option(
        "--report",
        "evaluate_report",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Write report.html and scorecard.json to this folder.",
    ),
)

_RESULTS = (
    click.option(
        "--result-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write the outcome to this file, as a JSON object, whatever it is.",
    ),
    click.option(
        "--result-dir",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Write IMAGE_URL, IMAGE_DIGEST, VERDICT, RETENTION and more to a file each, as a Tekton step needs it.",
    ),
    click.option(
        "--result-env",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Append the same as NAME=VALUE lines to this file, as a GitHub step needs it ($GITHUB_OUTPUT).",
    ),
    click.option(
        "--refusal",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Write the outcome to this file if it is exit 2, 3 or 4. If it is there, nothing is tried again: the same "
        "exit at once, for services that try again whatever the exit was.",
    ),
)

REMOTE_CODE = ("reject", "allow")
"""What may be done about code that comes with a model."""

REACH = ("plain_http", "insecure", "ca_file", "client_cert", "client_key")
"""The parameters that `reaching` adds."""


def _with(options: Sequence[Callable[[F], F]], command: F) -> F:
    """A command with options, which its help lists in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def reaching(command: F) -> F:
    """The options of every command that speaks to a registry, as the keywords in `REACH`."""
    return _with(_REACH, command)


def moving(command: F) -> F:
    """The options of every command that moves blobs."""
    return _CONCURRENCY(reaching(command))


def quantizing(command: F) -> F:
    """The options of every command that quantizes."""
    return _with(_QUANTIZING, command)


def evaluating(command: F) -> F:
    """The options of every command that evaluates."""
    return _with(_EVALUATING, command)


def resulting(command: F) -> F:
    """The options of every command whose outcome a job acts on."""
    return _with(_RESULTS, command)


def note(text: str) -> None:
    """Tell a line on standard error."""
    click.echo(text, err=True)


def pairs(texts: Iterable[str], expected: str) -> dict[str, str]:
    """Texts of the form NAME=VALUE, of a flag that takes several; `UsageError` with the form in `expected`."""
    parts = {text: text.partition("=") for text in texts}
    if wrong := [text for text, (name, equals, _) in parts.items() if not (name and equals)]:
        raise UsageError("this is no name with a value", expected=expected, found=wrong[0])
    return {name: value for name, _, value in parts.values()}


def access(flags: dict[str, Any], log: Log) -> Access:
    """How registries are reached, by what the user said and the environment says; takes its flags out of `flags`."""
    from urllib.request import getproxies_environment

    from registry.access import Access
    from registry.credentials import Credentials
    from registry.memory import Memory
    from registry.wire import Limits, Tls, Wire

    said = {name: flags.pop(name, None) for name in (*REACH, "concurrency")}
    if said["insecure"]:
        log("warning: --insecure: whoever answers is believed to be the registry, and gets its password")
    tls = Tls(said["ca_file"], said["client_cert"], said["client_key"], verify=not said["insecure"])
    cache = _cache()
    return Access(
        Credentials.of(os.environ, _home()),
        Wire(tls, getproxies_environment(), Limits()),
        plain_http=bool(said["plain_http"]),
        concurrency=said["concurrency"] or 4,
        memory=Memory(cache / "memory.db" if cache else None, log),
        log=log,
    )


def environment() -> dict[str, str]:
    """The environment, for processes that are started."""
    return dict(os.environ)


def work() -> Path:
    """The folder for what outlasts a run; `UsageError` if there is none."""
    if (folder := _cache()) is None:
        raise UsageError("there is no folder to work in", hint="set PACKER_CACHE or HOME")
    return folder


def _cache() -> Path | None:
    home, named = _home(), os.environ.get("PACKER_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or (home and home / ".cache")
    return Path(named) if named else Path(shared) / "packer" if shared else None


def _home() -> Path | None:
    """The user's folder; a user id that nobody has entered anywhere, as in some clusters, has none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


@contextmanager
def listener(*, in_json: bool) -> Iterator[Listener]:
    """JSON on standard output if asked for, else bars on a terminal and lines elsewhere, on standard error."""
    from packer.progress import Bars, JsonLines, PlainLines

    if in_json:
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
