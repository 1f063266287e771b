"""The command line. Only this module and `packer.commands` read the environment, print and exit.

Everything heavy is imported when a command runs, so that `packer --help` is quick.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from packer.commands.build import build, plan
from packer.commands.check import check
from packer.commands.ci import ci
from packer.commands.evaluate import evaluate, suites
from packer.commands.health import health
from packer.commands.manifests import manifests
from packer.commands.models import inspect, merge, quantize, recipes, shard, validate
from packer.commands.rebuild import rebuild
from packer.commands.scorecards import diff, scorecard
from packer.commands.serve import events, serve
from packer.commands.transfers import copy, login, pull, push, tag, tags
from packer.failures import expected
from registry.errors import PackerError

COMMANDS = (
    build,
    rebuild,
    plan,
    validate,
    shard,
    merge,
    quantize,
    recipes,
    evaluate,
    suites,
    scorecard,
    diff,
    inspect,
    manifests,
    check,
    pull,
    push,
    copy,
    tag,
    tags,
    login,
    ci,
    serve,
    events,
    health,
)
DEFECT, INTERRUPTED, BROKEN_PIPE = 1, 130, 141


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that the outcome has."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = cli.main(list(arguments), prog_name="packer", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        if "--json" in arguments:
            click.echo(json.dumps({"event": "interrupted"}))
        click.echo(
            "interrupted: nothing half-written has its final name; run it again, and what is whole stays", err=True
        )
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - whatever it is, a user sees one message and one exit code
        code = _report(expected(error), in_json="--json" in arguments)
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="packer")
def cli() -> None:
    """Take a language model from where it lives, prove its files, and publish it as OCI layers that Kubernetes mounts.

    \b
    packer build ./SmolLM2 --to registry.example.com/models/smollm2:v1
    packer build hf://ORG/NAME@main --to oci:./out
    packer validate ./SmolLM2 hf://ORG/NAME registry.example.com/models/smollm2:v1
    packer inspect registry.example.com/models/smollm2:v1

    Exit codes: 0 done; 2 bad usage or build file; 3 the model is not acceptable; 4 it lost too much; 5 a registry
    or source refused or failed; 6 not enough disk or memory; 7 an input changed; 130 interrupted; 1 a defect of packer.
    """


for command in COMMANDS:
    cli.add_command(command)


def _report(error: Exception, *, in_json: bool) -> int:
    """Tell the user, and return the exit code."""
    if not isinstance(error, PackerError):
        traceback.print_exception(error)
        click.echo("error: this is a defect of packer; please report it with the lines above", err=True)
        return DEFECT
    from formats.text import printable

    if in_json:
        with suppress(OSError):
            click.echo(json.dumps({"event": "error", **error.to_json()}, ensure_ascii=False))
    click.echo("\n".join(map(printable, f"error: {error}".split("\n"))), err=True)
    return error.exit_code
