"""Tasks of lm-eval: what a model answers, item by item.

Both models are asked the same: the documents of all tasks in one random order that the seed decides, with the few-shot
examples that lm-eval chooses for this task, limit and seed. Some of them at a time are answered, scored by the task's
own filters and measures, and written to a file, so that an evaluation may stop after any and go on after a kill.

lm-eval's evaluator does this for whole tasks only, and chooses examples anew whenever it is called. So its tasks are
used one by one: requests are built once for all documents (`tasks_load.py`), and answered for some.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.evaluation.engines.tasks_data import caches_in
from recipes.evaluation.engines.tasks_load import Document, Loaded, load_tasks
from recipes.evaluation.engines.tasks_model import asking, model_of
from recipes.task import PARTIAL, Done, Step, Task, Tell, whole_file

_SHOWN = 400
"""Characters of a question or an answer that are kept."""

_GENERATED = "generate_until"


def run(task: Task, tell: Tell) -> Done:
    """The files from `first` to `last` (exclusive), of `batch` items each; what is whole stays.

    A file is a list of {task, doc, hash, metrics, question, target, empty}. `metrics` are those with a value for each
    document: a number, or of rolling likelihoods [log-likelihood in nats, weight]; null for what is no finite number.
    The first `core` documents of each task come before all others: who asks for more later goes on behind them.
    The facts: `units` is the number of files there can be; `first` is the digest of what the core is asked, `data` that
    of all that is asked; `items`, `metrics`, `higher_is_better` and `fewshot` are by task; `versions`. `UsageError` for
    a task or a metric that is not known, and for data that is not here.
    """
    settings = task.settings
    for library in ("lm_eval", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with caches_in(task.target / f"{PARTIAL}datasets") as scratch:
        loaded = load_tasks(settings, scratch)
        first, rest = _shuffled(loaded, settings["seed"], settings.get("core"))
        documents = [*first, *rest]
        files = [*_units(first, settings["batch"]), *_units(rest, settings["batch"])]
        wanted = range(settings["first"], min(settings["last"], len(files)))
        left = {at: files[at] for at in wanted if not results(task.target, at).exists()}
        if left and not settings["only_count"]:
            _answer_all(task, left, documents, sum(len(files[at]) for at in wanted), tell)
    return Done({}, (), facts={"units": len(files), "first": _digest(first), **_facts(loaded, documents)})


def results(folder: Path, at: int) -> Path:
    """The file of some items."""
    return folder / f"{at:06}.json"


def _shuffled(loaded: Iterable[Loaded], seed: int, core: int | None) -> tuple[list[Document], list[Document]]:
    """The first `core` documents of each task, all if None, and the others."""
    documents = [document for task in loaded for document in task.documents]
    first = [document for document in documents if core is None or document.at < core]
    rest = [document for document in documents if core is not None and document.at >= core]
    for part in (first, rest):
        random.Random(seed).shuffle(part)  # noqa: S311 - an order, no secret
    return first, rest


def _units(documents: Sequence[Document], size: int) -> list[Sequence[Document]]:
    return [documents[at : at + size] for at in range(0, len(documents), size)]


def _answer_all(
    task: Task, left: Mapping[int, Sequence[Document]], known: Sequence[Document], total: int, tell: Tell
) -> None:
    from lm_eval.utils import set_torch_seed

    now = [document for unit in left.values() for document in unit]
    model = model_of(task, _requests(now), _requests(known), tell)
    done = total - len(now)
    for at, unit in left.items():
        set_torch_seed(task.settings["seed"] + at)  # what is sampled depends on nothing that came before
        with asking(task.settings["endpoint"]):
            _answer(model, unit)
        _filter(unit)
        text = json.dumps([_row(document) for document in unit], ensure_ascii=False, allow_nan=False)
        with whole_file(results(task.target, at)) as scratch:
            scratch.write_text(text, encoding="utf-8")
        done += len(unit)
        tell(Step(done, total, "items", results(task.target, at).name))


def _requests(documents: Iterable[Document]) -> list[Any]:
    return [request for document in documents for request in document.requests]


def _answer(model: Any, unit: Sequence[Document]) -> None:
    """Have the model respond to all requests of some documents."""
    kinds: dict[str, list[Any]] = defaultdict(list)
    for request in _requests(unit):
        kinds[request.request_type] += [request] * request.repeats
    for kind, requests in kinds.items():
        for request, response in zip(requests, getattr(model, kind)(requests, disable_tqdm=True), strict=True):
            request.resps.append(response)


def _filter(unit: Sequence[Document]) -> None:
    """Have the filters of the tasks go over the responses: what a text is searched for the answer, for example."""
    for loaded in {id(document.loaded): document.loaded for document in unit}.values():
        # apply_filters takes all that were built, of which the others have no response yet
        loaded.task._instances = _requests(document for document in unit if document.loaded is loaded)
        loaded.task.apply_filters()


def _row(document: Document) -> dict[str, Any]:
    loaded = document.loaded
    return {
        "task": loaded.name,
        "doc": document.at,
        "hash": document.hash,
        "metrics": {loaded.measure.key: None, **_scores(document)},
        "question": _question(document)[:_SHOWN],
        "target": loaded.target(document.doc)[:_SHOWN],
        "empty": _is_empty(document),
    }


def _scores(document: Document) -> dict[str, Any]:
    """What each metric is of a document that was answered.

    None, which counts as wrong, where no number can be had: tasks would take the first choice of those that are NaN.
    """
    if any(map(_is_broken, document.requests)):
        return {}
    try:
        scores = document.loaded.scores(document)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        logging.getLogger(__name__).exception("%s, document %d", document.loaded.name, document.at)
        return {}
    return {key: _finite(value) for key, value in scores.items()}


def _is_broken(request: Any) -> bool:
    """Whether a model responded with a likelihood that is none."""
    if request.request_type == _GENERATED:
        return False
    likelihoods = (response[0] if isinstance(response, tuple) else response for response in request.resps)
    return any(math.isnan(one) or one == math.inf for one in map(float, likelihoods))


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(one) for one in value]
    return value if math.isfinite(value) else None


def _is_empty(document: Document) -> bool:
    """Whether a text was asked for, and nothing but spaces came."""
    made = [text for one in document.requests if one.request_type == _GENERATED for text in one.resps]
    return bool(made) and not any(text.strip() for text in made)


def _question(document: Document) -> str:
    """What was asked, without the examples before it, where the task tells them apart."""
    asked = document.loaded.task.doc_to_text(document.doc)
    return asked if asked and isinstance(asked, str) else str(document.requests[0].args[0])


def _digest(documents: Iterable[Document]) -> str:
    """Of all that is asked about some documents."""
    data = hashlib.sha256()
    for document in documents:
        asked = [request.args for request in document.requests]
        line = [document.loaded.name, document.at, document.hash, asked]
        data.update(json.dumps(line, ensure_ascii=False, default=str).encode(errors="surrogatepass") + b"\n")
    return f"sha256:{data.hexdigest()}"


def _facts(loaded: Sequence[Loaded], documents: Sequence[Document]) -> dict[str, Any]:
    import lm_eval

    return {
        "items": {task.name: len(task.documents) for task in loaded},
        "data": _digest(documents),
        "versions": {"lm_eval": lm_eval.__version__, **{task.name: str(task.task.VERSION) for task in loaded}},
        "metrics": {task.name: task.measure.key for task in loaded},
        "higher_is_better": {task.name: task.measure.higher_is_better for task in loaded},
        "fewshot": {task.name: task.task.config.num_fewshot or 0 for task in loaded},
    }
