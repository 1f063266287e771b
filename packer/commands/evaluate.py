"""`packer evaluate` and `packer suites`, and what `packer build` says of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packer.failures import REFUSED
from packer.options import access, as_json, environment, evaluating, listener, reaching, work

if TYPE_CHECKING:
    from packer.watch import Listener


@click.command(short_help="Measure what a model lost against its baseline.")
@click.argument("candidate")
@click.option("--baseline", metavar="SOURCE", required=True, help="The model that it was made from.")
@click.option(
    "--suite",
    "evaluate_suite",
    default="fidelity",
    show_default=True,
    metavar="SUITE",
    help="On what: a name (packer suites lists them) or a .yaml file.",
)
@evaluating
@click.option("--seed", "evaluate_seed", type=int, help="In which order samples are used. Default: the suite's, or 0.")
@click.option(
    "--device", "evaluate_device", metavar="DEVICE", help="auto (the default), cpu, cuda, or one GPU: cuda:1."
)
@click.option(
    "--endpoint",
    metavar="URL",
    help="A server that answers for the candidate, such as http://127.0.0.1:8000/v1; for suites with tasks.",
)
@reaching
@as_json
def evaluate(candidate: str, *, baseline: str, endpoint: str | None, as_json: bool, **flags: Any) -> int:
    """Measure what CANDIDATE retains of its baseline, on held-out text or on tasks, until it is known.

    Both are what build takes as MODEL, or HOST/REPO[:TAG|@DIGEST]. Exits with 0 if enough is retained and with 4 if
    not, or if nobody can tell. Run it again after a kill and it goes on behind the last whole passage; a baseline is
    measured once for all candidates.
    """
    from dataclasses import replace

    from packer.buildfile import Evaluate, fill, of_evaluate
    from packer.evaluate import evaluate_models, evaluation_place, ready_report, resolve_evaluate
    from packer.sources import Reach
    from packer.watch import Run

    with listener(in_json=as_json) as told:
        reach = access(flags, told.noted)
        said = fill(Evaluate(), of_evaluate(flags))
        how = resolve_evaluate(said, evaluation_place(work(), environment(), reach.memory), "")
        assert how
        how = replace(how, endpoint=endpoint or "")
        if said.report:
            ready_report(said.report)
        result = evaluate_models(candidate, baseline, how, Reach(reach, work() / "artifacts"), Run(told))
        tell_report(result, work(), said.report, told)
    if not is_refused(result):
        tell_scorecard(result, as_json=as_json)
        return 0
    return tell_refusal(result, as_json=as_json)


@click.command(short_help="List the suites for evaluating.")
@click.argument("name", required=False)
@as_json
def suites(name: str | None, *, as_json: bool) -> None:
    """List the suites for evaluating: on what each measures, and how much of it.

    With NAME, or a file, show that one whole.
    """
    from recipes.evaluation.suite import find_suite, shipped

    chosen = [find_suite(name, Path())] if name else list(shipped())
    if as_json:
        click.echo("\n".join(json.dumps({"event": "suite", **suite.to_json()}) for suite in chosen))
    elif name:
        shown = {key: _shown(value) for key, value in chosen[0].to_json().items()}
        click.echo("\n".join(f"{key:<12} {value}" for key, value in shown.items() if value))
    else:
        click.echo("\n".join(f"{suite.name:<12} {suite.description}" for suite in chosen))


def _shown(value: object) -> str:
    """A value of a suite for people: lists with commas, maps as they are written in YAML, nothing for None."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else "" if value is None else str(value)


def tell_report(result: object, folder: Path, report: Path | None, listener: Listener) -> None:
    """Write the report of an evaluation, if the result is one, where the user wants it or into a folder of ours."""
    from packer.evaluate import report_folder, write_report
    from recipes.evaluation.evaluate import Evaluated

    if isinstance(result, Evaluated):
        path = write_report(result, report or report_folder(folder, result.scorecard))
        listener.noted(f"the report: {path}")


def is_refused(result: object) -> bool:
    """Whether the result is a scorecard that says no."""
    from recipes.evaluation.evaluate import Evaluated

    return isinstance(result, Evaluated) and not result.scorecard.is_accepted


def tell_scorecard(result: Any, variant: str = "", *, as_json: bool) -> None:
    """Print the scorecard of an evaluation, of a variant if it has a name."""
    from packer.scorecards import render

    if as_json:
        named = {"variant": variant} if variant else {}
        click.echo(json.dumps({"event": "scorecard", **named, **result.scorecard.to_json()}, ensure_ascii=False))
    else:
        click.echo(render(result.scorecard, result.advice))


def tell_refusal(result: Any, variant: str = "", *, as_json: bool) -> int:
    """Print the scorecard of a model that does not ship, and return the exit code."""
    tell_scorecard(result, variant, as_json=as_json)
    click.echo(
        f"refused: {f'{variant}, ' if variant else ''}{result.scorecard.verdict}; nothing was published", err=True
    )
    return REFUSED
