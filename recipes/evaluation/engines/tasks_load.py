"""Tasks as lm-eval loads them, with all their requests, and how each is scored."""

from __future__ import annotations

import difflib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats.text import printable
from recipes.evaluation.engines.tasks_measure import Measure, choose, scores
from registry.errors import UsageError


@dataclass(frozen=True)
class Loaded:
    """A task of lm-eval that is ready, and what counts of it."""

    name: str
    task: Any
    measure: Measure
    documents: list[Document] = field(default_factory=list)

    def scores(self, document: Document) -> dict[str, Any]:
        """Each metric's value of a document whose requests were answered and filtered."""
        return scores(self.task, document.doc, document.requests)

    def target(self, doc: Any) -> str:
        """The right answer, as text."""
        return target_of(self.task, doc)


@dataclass(frozen=True)
class Document:
    """One item: its number in its task, lm-eval's hash of it, and what a model is asked."""

    loaded: Loaded
    at: int
    doc: Any
    hash: str
    requests: Sequence[Any]


def load_tasks(settings: Mapping[str, Any], scratch: Path) -> list[Loaded]:
    """The tasks that were asked for, groups as what they consist of, with the requests for `limit` documents of each.

    Files that a task names lie beside its YAML file. `scratch` is where tasks without one are loaded. `UsageError` for
    a name or a metric that is not known, for data that is not on this machine, and for tasks that cannot be run here.
    """
    include = Path(settings["include"]).resolve() if settings["include"] else None
    manager = _manager(settings["tasks"], include)
    _require_known(settings["tasks"], manager, include)
    _seed(settings["seed"])
    found: dict[str, tuple[str, Any]] = {}
    for said in settings["tasks"]:
        path = manager.task_index[said].yaml_path
        for name, task in _load(manager, said, path.parent if path else include or scratch).items():
            found.setdefault(name, (said, task))
    _require_used(settings["metrics"], found)
    return [_ready(name, said, task, settings) for name, (said, task) in found.items()]


def _manager(names: Sequence[str], include: Path | None) -> Any:
    """lm-eval's list of tasks: the user's alone if that is enough, since to read its own takes ten seconds."""
    from lm_eval.tasks import TaskManager

    if include:
        own = TaskManager(include_path=include, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=include)


def _require_known(names: Sequence[str], manager: Any, include: Path | None) -> None:
    for name in names:
        if name in manager.task_index:
            continue
        near = difflib.get_close_matches(name, manager.all_tasks, 3, 0.6)
        beside = f"; a file in {include} in which something is wrong is not known either" if include else ""
        raise UsageError(
            "lm-eval knows no task of this name",
            found=printable(name),
            expected=", ".join(near) or None,
            hint=f"lm_eval ls tasks lists all{beside}",
        )


def _seed(seed: int) -> None:
    """Before tasks are loaded, as lm-eval does it: some draw their documents."""
    import numpy as np
    from lm_eval.utils import set_torch_seed

    random.seed(seed)
    np.random.seed(seed)
    set_torch_seed(seed)


def _load(manager: Any, name: str, folder: Path) -> Mapping[str, Any]:
    try:
        with chdir(folder):
            tasks: Mapping[str, Any] = manager.load([name])["tasks"]
    except ModuleNotFoundError as error:
        hint = "install it beside packer; the task's description in lm-eval says what it needs"
        raise UsageError(
            "this task needs what is not here", subject=name, found=f"no {error.name}", hint=hint
        ) from error
    except _WRONG as error:
        raise _explained(name, error) from error
    for each in tasks.values():
        _require_runnable(name, each)
    return tasks


_WRONG = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
)
"""What lm-eval and datasets raise for a task that cannot be loaded."""


def _explained(name: str, error: Exception) -> UsageError:
    found = printable(" ".join(str(error).split()))[:300]
    if isinstance(error, ConnectionError) or "Couldn't find cache" in found:
        return UsageError(
            "the data of this task is not on this machine, and evaluations reach for no network",
            subject=name,
            found=found,
            hint=f"get it once: lm_eval run --model dummy --tasks {name} --limit 1 (HF_HOME says where it is kept)",
        )
    if isinstance(error, FileNotFoundError):
        hint = "files that a task names lie beside its YAML file"
        return UsageError("a file of this task is not there", subject=name, found=found, hint=hint)
    kind = type(error).__name__
    hint = "lm_eval validate --tasks NAME --include_path FOLDER tells more"
    return UsageError("lm-eval cannot load this task", subject=name, found=f"{kind}: {found}", hint=hint)


def _require_runnable(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        hint = "take another task, or run this one by lm-eval in a sandbox"
        raise UsageError("this task runs code that the model writes", subject=name, hint=hint)
    if getattr(task, "MULTIMODAL", False):
        raise UsageError("this task shows pictures or plays sounds", subject=name, hint="take one with text alone")


def _require_used(metrics: Mapping[str, str], found: Mapping[str, tuple[str, Any]]) -> None:
    names = sorted({*found, *(said for said, _ in found.values())})
    for name in metrics:
        if name not in names:
            expected = ", ".join(names)
            raise UsageError("a metric is named for a task that is none", expected=expected, found=printable(name))


def _ready(name: str, said: str, task: Any, settings: Mapping[str, Any]) -> Loaded:
    """The task with its requests, few-shot examples decided as lm-eval does."""
    if task.config.num_fewshot is None or (settings["fewshot"] is not None and task.config.num_fewshot != 0):
        task.set_config("num_fewshot", settings["fewshot"] or 0)
    task.set_fewshot_seed(settings["seed"])
    try:
        task.build_all_requests(limit=settings["limit"])
    except _WRONG as error:
        raise _explained(name, error) from error
    asked = defaultdict(list)
    for request in task.instances:
        asked[request.doc_id].append(request)
    metrics = settings["metrics"]
    wanted = metrics.get(name, metrics.get(said))
    first = next(iter(asked.values()))
    loaded = Loaded(name, task, choose(name, task, first, target_of(task, first[0].doc), wanted))
    loaded.documents.extend(_documents(loaded, asked))
    return loaded


def _documents(loaded: Loaded, asked: Mapping[int, Sequence[Any]]) -> Iterator[Document]:
    for at, requests in asked.items():
        ordered = sorted(requests, key=lambda request: int(request.idx))
        yield Document(loaded, at, ordered[0].doc, _hash(ordered[0].doc), ordered)


def _hash(doc: Any) -> str:
    """As in the samples that lm-eval logs."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


def target_of(task: Any, doc: Any) -> str:
    """The right answer to a document, as text: the first, if there are several."""
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = target[0] if target else ""
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(doc)
        return str(choices[target]) if 0 <= target < len(choices) else ""
    return str(target)
