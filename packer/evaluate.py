"""`evaluate:` of a build, and `packer evaluate`: from what a user wrote to what the stage needs, and what is left."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

import packer.facts  # noqa: F401 - what is told of the values here
from formats.snapshot import Snapshot
from formats.text import printable
from packer.buildfile import Evaluate
from packer.datasets import data_name, find_data
from packer.look import artifact
from packer.quantize import require_device, workplace
from packer.sources import ArtifactSource, Reach, Source, parse_source
from packer.validate import Policy, validate
from packer.watch import Run
from recipes.calibration import Samples, read_samples
from recipes.evaluation.evaluate import Evaluated, Evaluation, evaluate
from recipes.evaluation.scorecard import Gate, Scorecard
from recipes.evaluation.suite import Kind, Suite, find_suite
from recipes.quantize import Workplace
from recipes.task import whole_file
from registry.descriptor import digest_of
from registry.errors import UsageError
from registry.manifest import encode
from registry.memory import Memory

DEFAULT_RETAIN = 0.99

PASSAGES = 4096
"""Passages of a text that may be used, however far an evaluation is extended."""


def resolve_evaluate(said: Evaluate, place: Workplace, recipe: str) -> Evaluation | None:
    """The evaluation that is asked for, its suite found and its text read; None if none is.

    `recipe` is the name of that by which the candidate is made. `UsageError` for a suite, data or a device of which
    nothing is known, and for values that mean nothing without a suite; nothing heavy is loaded.
    """
    if not said.suite:
        if said != Evaluate():
            idle = {key: value for key, value in said if value != getattr(Evaluate(), key)}
            found = ", ".join(f"{key} {value}" for key, value in idle.items())
            hint = "name a suite: --evaluate fidelity, or evaluate: {suite: fidelity}"
            raise UsageError("nothing says on what to evaluate", found=printable(found), hint=hint)
        return None
    suite = find_suite(said.suite, Path())
    if said.seed is not None:
        suite = replace(suite, seed=said.seed)
    require_device(said.device)
    retain = said.retain or suite.retain or DEFAULT_RETAIN
    gate = Gate(retain, said.confidence, said.undecided, said.budget)
    samples = _samples(suite, said.data)
    return Evaluation(suite, gate, place, samples, device=said.device, recipe=recipe)


def _samples(suite: Suite, data: str | None) -> Samples | None:
    """The text of a fidelity suite, whose origin is named as another machine would name it."""
    if suite.kind is Kind.TASKS:
        if data:
            hint = "leave the data out, or take the suite fidelity"
            raise UsageError(f"the suite {suite.name} brings its own data", found=printable(data), hint=hint)
        return None
    path = find_data(data) if data else suite.data
    if not path:
        hint = "data: FILE in the suite, or --data FILE"
        raise UsageError(f"nothing says on which text the suite {suite.name} is measured", hint=hint)
    samples = read_samples(path, None, suite.seed, least=1, most=PASSAGES)
    return replace(samples, origin=data_name(data) if data else path.name)


def evaluate_models(candidate: str, baseline: str, how: Evaluation, reach: Reach, run: Run) -> Evaluated:
    """The stage, for two models that are named."""
    policy = Policy(allow_code=True)
    models = []
    named = {"baseline": baseline, "candidate": candidate}
    sources = {part: _source(part, text, reach) for part, text in named.items()}  # a typo is known before a download
    for part, source in sources.items():
        run.listener.noted(f"the {part}: {named[part]}")
        snapshot: Snapshot = run("fetch", source.fetch)
        models.append(run("validate", validate, snapshot, policy))
    how = replace(how, names=(model_name(baseline), model_name(candidate)))
    return run("evaluate", evaluate, models[0], models[1], how)


def _source(part: str, text: str, reach: Reach) -> Source:
    """The model that is named as a build takes it, or as `packer inspect` does; if it is not there, `UsageError` says
    which of the two that is.
    """
    try:
        reference = None if "://" in text else artifact(text)
        return ArtifactSource(reference, (), reach) if reference else parse_source(text, (), reach)
    except UsageError as error:
        error.what = f"the {part}: {error.what}"
        raise


def model_name(text: str) -> str:
    """What a model is called that says nothing of it: a folder or a file by its own name, all else as it is named."""
    return Path(os.path.normpath(Path(text).absolute())).name if Path(text).exists() else text.rpartition("/")[2]


def ready_report(folder: Path) -> None:
    """`UsageError` if no report can be written to a folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = error.strerror or str(error)
        hint = "name another folder with --report"
        raise UsageError("no report can be written here", subject=str(folder), found=found, hint=hint) from error


def write_report(evaluated: Evaluated, folder: Path) -> Path:
    """Write the report and the scorecard to a folder, each whole or not at all; the path of the report."""
    report, card = folder / "report.html", folder / "scorecard.json"
    for path, text in (
        (card, json.dumps(evaluated.scorecard.to_json(), indent=2, allow_nan=False) + "\n"),
        (report, evaluated.report),
    ):
        with whole_file(path) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return report


def report_folder(work: Path, scorecard: Scorecard) -> Path:
    """Where a report goes that nobody asked for: another for each baseline, suite, data, seed and gate."""
    used, gate = scorecard.samples, scorecard.to_json()["gate"]
    asked = [scorecard.baseline.digest, used.suite_digest, used.data_digest, scorecard.circumstances.seed, gate]
    digests = scorecard.candidate.digest, digest_of(encode({"asked": asked}))
    return work / "reports" / "-".join(digest.partition(":")[2][:16] for digest in digests)


def evaluation_place(work: Path, environment: Mapping[str, str], memory: Memory) -> Workplace:
    """Where results are kept."""
    return workplace(work / "evaluated", environment, memory)
