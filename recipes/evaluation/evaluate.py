"""The stage `evaluate`: what a candidate is worth, measured against its baseline, and the evidence of that.

Child processes run the models; what they leave lies in two folders, named for everything that it depends on. So the
baseline of many variants is measured once, and an evaluation that was killed goes on behind the last whole passage.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from formats.checkpoint import Checkpoint
from formats.identity import identity
from recipes.calibration import Samples
from recipes.child import run_child
from recipes.engines.devices import has_short_floats, kind_of
from recipes.evaluation.answers import Answers
from recipes.evaluation.backends import TRANSFORMERS, Backend, backend_of
from recipes.evaluation.card import with_evaluation
from recipes.evaluation.details import WeightError
from recipes.evaluation.engines.fidelity import HEAD, passage
from recipes.evaluation.engines.tasks import results
from recipes.evaluation.intervals import LEAST
from recipes.evaluation.outcome import Model, Outcome, remembered
from recipes.evaluation.passages import Passages
from recipes.evaluation.report import render
from recipes.evaluation.report.verdict import next_steps
from recipes.evaluation.room import room
from recipes.evaluation.rounds import Rounds, Side, with_settings
from recipes.evaluation.scorecard import Circumstances, Gate, Scorecard, Undecided
from recipes.evaluation.series import fewest, largest
from recipes.evaluation.suite import Kind, Suite
from recipes.fit import files_of
from recipes.quantize import Workplace, untold
from recipes.result import with_card
from recipes.task import PARTIAL, Step, Task, Tell, whole_file
from recipes.workshop import Workshop
from registry.descriptor import digest_of
from registry.errors import ModelError, SpaceError, UsageError

VERSION = 1
"""Of what is measured; another one has every model measured again."""

BATCH = 8
"""Items of a task whose answers are in one file."""

_FACTS, _WEIGHTS = "facts.json", "weights.json"


@dataclass(frozen=True)
class Evaluation:
    """How a model is evaluated. `samples` are the text of a fidelity suite, in the order of use.

    `endpoint` is the URL of a server that answers for the candidate, `recipe` the name of that by which it was made,
    `names` are what the baseline and the candidate are called if they do not say it. `tell` is told how far it is.
    """

    suite: Suite
    gate: Gate
    place: Workplace
    samples: Samples | None = None
    device: str = "auto"
    endpoint: str = ""
    recipe: str = ""
    names: tuple[str, str] = ("", "")
    tell: Tell = field(default=untold, compare=False)


@dataclass(frozen=True)
class Evaluated:
    """The candidate with a section about its evaluation in its card, the scorecard, and the report, an HTML page.

    `advice` is what one can do about a candidate that does not ship, as the report says it.
    """

    checkpoint: Checkpoint
    scorecard: Scorecard
    report: str
    advice: tuple[str, ...] = ()


def evaluate(baseline: Checkpoint, candidate: Checkpoint, how: Evaluation) -> Evaluated:
    """The stage: what the candidate retains of the baseline. A candidate that is lost is a result, not an error.

    `UsageError` if nothing here can run the models, or the suite is too small for what is asked; `ModelError` if the
    baseline itself does not work; `SpaceError` if memory or disk do not suffice.
    """
    backend = backend_of(baseline, candidate, how.suite, how.endpoint)
    if how.samples and len(how.samples.rows) < LEAST:
        raise too_small(how, len(how.samples.rows), LEAST)
    before, after = (
        Model(model, identity(model, how.place.digest_of), files_of(backend.reads, model), name)
        for model, name in zip((baseline, candidate), how.names, strict=True)
    )
    models = (before, replace(after, recipe=how.recipe))
    began, clock, versions = datetime.now(UTC), time.monotonic(), backend.versions()
    asked = _counted(how, backend) if how.suite.kind is Kind.TASKS else {}
    kind = _kind(how, backend, versions)
    return _Evaluating(models, how, backend, versions, kind, began, clock, asked).run()


def _kind(how: Evaluation, backend: Backend, versions: Mapping[str, str]) -> str:
    """What is expected to compute: of the libraries torch alone uses GPUs, if it was built for some."""
    uses_gpus = backend.reads is TRANSFORMERS.reads and not versions.get("torch", "").endswith("+cpu")
    return kind_of(how.device, how.place.environment) if uses_gpus else "cpu"


def _counted(how: Evaluation, backend: Backend) -> dict[str, Any]:
    """What lm-eval says of the tasks as they are now, and of the digest of all that is asked. No model is loaded."""
    how.place.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=how.place.folder, prefix=PARTIAL) as folder:
        settings = {**task_settings(how), "first": 0, "last": 0, "only_count": True}
        task = Task(backend.engine, settings, Path(folder), Path(folder), (), device=how.device)
        return dict(run_child(task, how.place.environment, how.tell).done.facts)


def task_settings(how: Evaluation) -> dict[str, Any]:
    """What a child is told of tasks, but for how far it should go."""
    suite = how.suite
    return {
        "tasks": list(suite.tasks),
        "include": str(suite.include) if suite.include else None,
        "limit": _limit(how),
        "core": suite.limit,
        "fewshot": suite.fewshot,
        "metrics": dict(suite.metrics),
        "seed": suite.seed,
        "batch": BATCH,
        "endpoint": None,
        "only_count": False,
    }


def _limit(how: Evaluation) -> int | None:
    """Documents of each task; all, if an evaluation may go on as long as it takes."""
    return None if how.gate.undecided is Undecided.EXTEND else how.suite.limit


def expected(how: Evaluation) -> int:
    """The passages that are used at most, if the evaluation is not extended; 0 for tasks."""
    return min(how.suite.passages, len(how.samples.rows)) if how.samples else 0


def too_small(how: Evaluation, found: int, least: int, measures: int = 1) -> UsageError:
    """What is said of a suite that could decide nothing, of so many `measures` that count."""
    possible = largest(how.gate, found, measures) if how.suite.kind is Kind.TASKS else 0.0
    wish = f"ask for less (--retain {math.floor(100 * possible) / 100} at most), or " if possible > 0.1 else ""
    return UsageError(
        f"the suite {how.suite.name} is too small to tell whether {how.gate.retain} is retained",
        expected=f"at least {least} {'items of each task' if how.suite.kind is Kind.TASKS else 'passages'}",
        found=found,
        hint=f"{wish}give more data",
    )


@dataclass(frozen=True)
class _Evaluating:
    """One evaluation. `versions` are those of the backend's libraries, `kind` is what should compute.

    It `began` at a time, and at this `clock` of the machine. `asked` is what lm-eval says of the tasks, if it is some.
    """

    models: tuple[Model, Model]
    how: Evaluation
    backend: Backend
    versions: Mapping[str, str]
    kind: str
    began: datetime
    clock: float
    asked: Mapping[str, Any]

    def run(self) -> Evaluated:
        """Measure the baseline and the candidate, and put together what came of it."""
        before, after = self._workshops(self.asked.get("data"))
        tell, (baseline, candidate) = self.how.tell, self.models
        with before.opened(tell), after.opened(tell):
            self._require_room(before)
            if self.asked.get("first") != self.asked.get("data"):
                for earlier, now in zip(self._workshops(self.asked["first"]), (before, after), strict=True):
                    _take_over(earlier.folder, now.folder)
            samples = before.keep(self.how.samples) if self.how.samples else None
            with before.source(baseline.snapshot) as source, after.source(candidate.snapshot) as made:
                tasks = self._task(0, source, before.folder, samples), self._task(1, made, after.folder, samples)
                return self._evaluated(tasks)

    def _require_room(self, before: Workshop) -> None:
        """`SpaceError` if the disk does not suffice for what is not there yet."""
        count = expected(self.how)
        left = sum(not passage(before.folder, at).exists() for at in range(count))
        before.require_room(room(self.models[0].checkpoint, self.how.suite, left), [HEAD])

    def _evaluated(self, tasks: tuple[Task, Task]) -> Evaluated:
        sides = self._side("baseline", tasks[0]), self._side("candidate", tasks[1])
        facts = self._facts(sides[0])
        rounds = self._rounds(sides, facts)
        stopped = rounds.run()
        _write(tasks[0].target / _FACTS, {**facts, "memory": max(sides[0].memory, facts.get("memory", 0))})
        models = tuple(replace(model, memory=side.memory) for model, side in zip(self.models, sides, strict=True))
        outcome = Outcome(models[0], models[1], self.how.suite, self.how.samples, rounds, facts)
        scorecard = remembered(tasks[1].target, outcome.scorecard(self._circumstances(facts, stopped)))
        details = replace(outcome.details(scorecard), weights=self._weights(tasks))
        told = replace(scorecard, baseline=replace(scorecard.baseline, name=models[0].checkpoint.card.name))
        card = with_card(models[1].snapshot, lambda text: with_evaluation(text, told))  # whatever folders are called
        page, advice = render(scorecard, details), next_steps(scorecard, details)
        return Evaluated(Checkpoint(card, allow_code=True), scorecard, page, advice)

    def _circumstances(self, facts: Mapping[str, Any], stopped: str) -> Circumstances:
        return Circumstances(
            backend=self.backend.engine + (f" at {self.how.endpoint}" if self.how.endpoint else ""),
            versions={**self.versions, **facts.get("versions", {})},
            kind=f"{self.kind}, and that of the endpoint" if self.how.endpoint else self.kind,
            seed=self.how.suite.seed,
            stopped=stopped,
            seconds=round((datetime.now(UTC) - self.began).total_seconds(), 1),
            time=self.began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        )

    def _workshops(self, asked: str | None) -> tuple[Workshop, Workshop]:
        """The folders of the baseline's results and of the candidate's, for tasks that ask what has this digest.
        Results of a server are nobody else's.
        """
        how = self.how
        before = _workshop(
            how.place.folder,
            {
                "version": VERSION,
                "backend": self.backend.engine,
                "versions": self.versions,
                "kind": [self.kind, has_short_floats()],
                "model": self.models[0].digest,
                "suite": how.suite.measures,
                "seed": None if how.samples else how.suite.seed,  # by which samples were chosen, or answers are drawn
                "samples": how.samples.chosen if how.samples else None,
                "asked": asked,
            },
        )
        server = [how.endpoint, self.began.isoformat()] if how.endpoint else None
        against = {"against": before.key, "model": self.models[1].digest, "server": server}
        return before, _workshop(how.place.folder, against)

    def _task(self, at: int, source: Path, target: Path, samples: Path | None) -> Task:
        """What a child is asked for, but for how far it should go."""
        return Task(
            engine=self.backend.engine,
            settings=task_settings(self.how) if self.asked else {},
            source=source,
            target=target,
            files=tuple(file.name for file in self.models[at].weights),
            device=self.how.device,
            samples=samples,
            max_length=self.how.suite.window,
        )

    def _side(self, name: str, task: Task) -> Side:
        return Side(name, task, passage if self.how.samples else results)

    def _facts(self, side: Side) -> dict[str, Any]:
        """What is known of the suite once the baseline's tokenizer, or lm-eval, has read it; remembered."""
        path = side.task.target / _FACTS
        facts = dict(json.loads(path.read_bytes())) if path.exists() else dict(self.asked)
        if not facts:
            answer = run_child(with_settings(side.task, first=0, last=0), self.how.place.environment, self.how.tell)
            facts = dict(answer.done.facts)
        side.memory = max(side.memory, facts.get("memory", 0))
        return facts

    def _rounds(self, sides: tuple[Side, Side], facts: Mapping[str, Any]) -> Rounds:
        how, (before, after) = self.how, sides
        folders = before.task.target, after.task.target
        units: int = facts["units"]
        reader: Passages | Answers
        if how.samples:
            units = units if how.gate.undecided is Undecided.EXTEND else min(how.suite.passages, units)
            if units < LEAST:
                raise too_small(how, units, LEAST)
            reader, least = Passages(*folders, how.suite.gate), LEAST
            after.task = with_settings(after.task, against=str(folders[0]))
        else:
            is_less_better = frozenset(task for task, higher in facts["higher_is_better"].items() if not higher)
            reader, least = Answers(*folders, facts["metrics"], is_less_better), self._least(facts)
            if how.endpoint:
                after.task = with_settings(after.task, endpoint={"url": how.endpoint, "model": None})
        return Rounds(before, after, reader, how.gate, units, least, how.place.environment, how.tell, self.clock)

    def _least(self, facts: Mapping[str, Any]) -> int:
        """Files of items below which nothing is known; `UsageError` if there are fewer items of a task."""
        items, chosen = facts["items"], facts["metrics"]
        methods = {task: "asymptotic" if "perplexity" in chosen[task] else "betting" for task in items}
        least = {task: fewest(method, self.how.gate, len(items)) for task, method in methods.items()}
        for task, count in items.items():
            if count < least[task]:
                raise too_small(self.how, count, least[task], len(items))
        return -(-sum(least.values()) // BATCH)

    def _weights(self, tasks: tuple[Task, Task]) -> tuple[WeightError, ...]:
        """How far the weights are from what they were; remembered."""
        before, after = tasks
        if self.backend.reads is not TRANSFORMERS.reads or not self.models[1].is_quantized:
            return ()
        path = after.target / _WEIGHTS
        if not path.exists():
            self.how.tell("weights of both for the report: how far they are from each other")
            settings = {"against": str(before.source), "files": before.files}
            task = replace(after, engine="compressed-tensors", settings=settings, device="cpu")
            try:
                _write(path, dict(run_child(task, self.how.place.environment, self._of_weights).done.facts))
            except (ModelError, SpaceError) as error:  # the report shows less
                self.how.tell(f"the errors of the weights are not known: {error.what} ({error.found})")
                return ()
        return tuple(WeightError(*each) for each in json.loads(path.read_bytes())["errors"])

    def _of_weights(self, what: Step | str) -> None:
        self.how.tell(replace(what, part="weights for the report") if isinstance(what, Step) else what)


def _workshop(folder: Path, known: Mapping[str, Any]) -> Workshop:
    key = digest_of(json.dumps(known, sort_keys=True).encode()).partition(":")[2]
    return Workshop(folder / key, key, is_single=False)


def _take_over(earlier: Path, folder: Path) -> None:
    """Have the answers of an evaluation that went less far: what that asked comes first here too."""
    for path in earlier.glob("[0-9]*.json"):
        if not (folder / path.name).exists():
            with whole_file(folder / path.name) as scratch:
                shutil.copyfile(path, scratch)


def _write(path: Path, document: object) -> None:
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(document))
