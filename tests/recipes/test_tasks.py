"""Tasks of lm-eval, item by item, on the real model: the same as lm-eval itself makes of them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.parts.command import ROOT
from tests.parts.servers import reserved_port
from tests.parts.small import cut_short

CAPITALS = ROOT / "recipes/suites/capitals"
LIMIT, BATCH, SEED = 20, 4, 7

# One process for all that is asked, since to load libraries and models takes longer than an answer. For the same
# reason models and the list of lm-eval's tasks are loaded once: they are the real ones.
_CHILD = """
import functools, json, sys
from pathlib import Path
import lm_eval.tasks, lm_eval.models.huggingface
from recipes.evaluation.engines import tasks
from recipes.task import Task
from registry.errors import PackerError
lm_eval.tasks.TaskManager = functools.cache(lm_eval.tasks.TaskManager)
lm_eval.models.huggingface.HFLM = functools.cache(lm_eval.models.huggingface.HFLM)

def run(source, target, settings):
    try:
        told = []
        done = tasks.run(Task("tasks", settings, Path(source), Path(target), ()), told.append)
        steps = [[one.done, one.total, one.unit, one.name] for one in told if not isinstance(one, str)]
        return {"facts": done.to_json()["facts"], "steps": steps}
    except PackerError as error:
        return {"error": error.to_json()}

def theirs(source, include, names, limit, fewshot, seed, cache):
    import datasets, os
    datasets.config.HF_DATASETS_CACHE = datasets.config.DOWNLOADED_DATASETS_PATH = Path(cache)
    model = lm_eval.models.huggingface.HFLM(source, dtype="float32", device="cpu", batch_size=8)
    os.chdir(include)
    seeds = {key: seed for key in ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")}
    made = lm_eval.simple_evaluate(
        model=model, tasks=names, limit=limit, num_fewshot=fewshot, bootstrap_iters=0,
        task_manager=lm_eval.tasks.TaskManager(include_path=include, include_defaults=False), **seeds)
    keep = ("doc_id", "doc_hash", "filter", "acc", "exact_match", "arguments", "resps")
    samples = {name: [{key: one.get(key) for key in keep} for one in made["samples"][name]] for name in names}
    return {"results": made["results"], "samples": samples}

for line in open(sys.argv[1]):
    kind, *given = json.loads(line)
    print(json.dumps({"run": run, "theirs": theirs}[kind](*given)), flush=True)
"""

_GENERATE = """
task: toy_generate
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: [" "], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - name: strict
    filter: [{function: take_first}]
  - name: digits
    filter: [{function: regex, regex_pattern: "([0-9])"}, {function: take_first}]
"""
_WORDS = (
    {"text": "The capital of France is", "target": "Paris"},
    {"text": "1,2,3,4,5,6,7,", "target": "8"},
    {"text": "a1 b2 c3 d4 e5 f", "target": "6"},
)
_ROLLING = """
task: toy_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: pages.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
_PAGES = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune must want a wife.",
    "My dear Mr. Bennet, said his lady to him one day, have you heard that Netherfield Park is let at last?",
)
_MISSING = """
task: toy_missing
dataset_path: json
dataset_kwargs: {data_files: {test: nowhere.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
"""


_UNKNOWN = """
task: toy_unknown
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{target}}"
process_results: !function score.quality
metric_list: [{metric: quality, aggregation: mean}]
"""
_SCORE = """
def quality(doc, results):
    return {"quality": float(results[0].strip() == doc["target"])}
"""


def settings(**changed: Any) -> dict[str, Any]:
    known = {"tasks": ["capitals"], "include": str(CAPITALS), "limit": LIMIT, "fewshot": None, "metrics": {}}
    rest = {"seed": SEED, "batch": BATCH, "first": 0, "last": 99, "endpoint": None, "only_count": False}
    return {**known, **rest, **changed}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]


@dataclass
class Answers:
    """What one process answered to all that was asked."""

    folder: Path
    said: dict[str, dict[str, Any]]
    kept: dict[str, int]
    """The files that were there when one was killed, and when each was written."""

    def facts(self, name: str) -> dict[str, Any]:
        assert "facts" in self.said[name], self.said[name]
        return dict(self.said[name]["facts"])

    def error(self, name: str) -> str:
        return str(self.said[name]["error"])


def start(jobs: Path, home: Path, log: Path) -> subprocess.Popen[str]:
    kept = {key: os.environ[key] for key in ("PATH", "OMP_NUM_THREADS") if key in os.environ}
    fixed = {"HOME": str(home), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", _CHILD, str(jobs)]
    with log.open("wb") as errors:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=kept | fixed,
            cwd=ROOT,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def silent_port() -> Iterator[int]:
    """One at which nobody answers."""
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def answers(safetensors_model: Path, silent_port: int, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("tasks")
    toys = toy_folder(folder / "toys")
    home = folder / "home"
    cached_dataset(home / ".cache/huggingface/datasets")
    model, toy = str(safetensors_model), ["toy_generate", "toy_rolling"]
    cache = str(folder / "cache of lm-eval")

    def ours(name: str, **changed: Any) -> list[Any]:
        return ["run", model, str(folder / name), settings(**changed)]

    both = {"tasks": toy, "include": str(toys), "limit": None}
    broken = settings(tasks=["capitals", "toy_rolling"], include=str(toys), limit=4)
    downloaded = {"include": None, "only_count": True}
    jobs = {
        "killed": ours("killed"),
        "whole": ours("whole"),
        "first part": ours("parts", last=2),
        "second part": ours("parts", first=2, last=5),
        "examples": ours("examples", fewshot=2, limit=8),
        "toys": ours("toys out", **both),
        "broken": ["run", str(broken_model(folder / "broken")), str(folder / "broken out"), broken],
        "counted": ours("counted", only_count=True),
        "other seed": ours("counted", only_count=True, seed=SEED + 1),
        "named": ours("counted", **{**both, "only_count": True}, metrics={"toy_generate": "exact_match,digits"}),
        "no such metric": ours("none", only_count=True, metrics={"capitals": "acc_nrm"}),
        "no such use": ours("none", only_count=True, metrics={"capital": "acc"}),
        "no file": ours("none", tasks=["toy_missing"], include=str(toys), only_count=True),
        "downloaded": ours("counted", **downloaded, tasks=["arc_easy"]),
        "not downloaded": ours("none", **downloaded, tasks=["arc_easy", "hellaswag"]),
        "unknown": ours("none", **downloaded, tasks=["hellaswagg"]),
        "nobody": ours("none", limit=1, endpoint={"url": f"http://127.0.0.1:{silent_port}", "model": None}),
        "no direction": ours("none", tasks=["toy_unknown"], include=str(toys), only_count=True),
        "code": ours("none", tasks=["toy_code"], include=str(toys), only_count=True),
        "their whole": ["theirs", model, str(CAPITALS), ["capitals"], LIMIT, None, SEED, cache],
        "their examples": ["theirs", model, str(CAPITALS), ["capitals"], 8, 2, SEED, cache],
        "their toys": ["theirs", model, str(toys), toy, None, None, SEED, cache],
    }
    kept = kill_one(jobs["killed"], folder, home)
    before = listed(home)
    (folder / "jobs").write_text("".join(json.dumps(job) + "\n" for job in jobs.values()))
    process = start(folder / "jobs", home, folder / "log")
    output = process.communicate(timeout=500)[0].splitlines()
    assert process.returncode == 0, (folder / "log").read_text()[-4000:]
    assert listed(home) == before
    return Answers(folder, dict(zip(jobs, map(json.loads, output), strict=True)), kept)


def kill_one(job: list[Any], folder: Path, home: Path) -> dict[str, int]:
    """Have one killed when its first file is there."""
    (folder / "job").write_text(json.dumps(job))
    process = start(folder / "job", home, folder / "log of one")
    target = Path(job[2])
    deadline = time.monotonic() + 300
    while not list(target.glob("*.json")):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log of one").read_text()[-4000:]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return {path.name: path.stat().st_mtime_ns for path in target.glob("*.json")}


def toy_folder(folder: Path) -> Path:
    folder.mkdir()
    shutil.copytree(CAPITALS, folder / "capitals")
    code = _GENERATE.replace("toy_generate", "toy_code") + "unsafe_code: true\n"
    texts = {"generate": _GENERATE, "rolling": _ROLLING, "missing": _MISSING, "code": code, "unknown": _UNKNOWN}
    for name, text in texts.items():
        below = folder / name  # each in a folder of its own: data lies beside the YAML file
        below.mkdir()
        (below / "task.yaml").write_text(text)
    (folder / "unknown/score.py").write_text(_SCORE)
    for name in ("generate", "code", "unknown"):
        (folder / name / "words.jsonl").write_text("".join(json.dumps(word) + "\n" for word in _WORDS))
    (folder / "rolling/pages.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in _PAGES))
    # lm-eval itself looks for them where it is started
    (folder / "words.jsonl").symlink_to("generate/words.jsonl")
    (folder / "pages.jsonl").symlink_to("rolling/pages.jsonl")
    return folder


def broken_model(folder: Path) -> Path:
    """A model that computes NaN and nothing else, as one does whose scales are."""
    path = cut_short(folder) / "model-00003-of-00003.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, path, {"format": "pt"})
    return folder


def cached_dataset(cache: Path) -> None:
    """What `datasets` leaves of allenai/ai2_arc when it has been downloaded, with documents of ours."""
    import pyarrow as pa

    folder = cache / "allenai___ai2_arc/ARC-Easy/0.0.0/210d026faf9955653af8916fad021475a3f00453"
    folder.mkdir(parents=True)
    choices = {"text": ["Rome", "Paris", "Oslo", "Bern"], "label": ["A", "B", "C", "D"]}
    table = pa.Table.from_pylist([{"id": "1", "question": "Which is in France?", "choices": choices, "answerKey": "B"}])
    splits = {}
    for name in ("train", "validation", "test"):
        with (
            pa.OSFile(str(folder / f"ai2_arc-{name}.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as to,
        ):
            to.write_table(table)
        splits[name] = {"name": name, "num_bytes": 100, "num_examples": 1, "dataset_name": "ai2_arc"}
    text = {"dtype": "string", "_type": "Value"}
    many = {"feature": text, "_type": "List"}
    features = {"id": text, "question": text, "choices": {"text": many, "label": many}, "answerKey": text}
    known = {"builder_name": "parquet", "dataset_name": "ai2_arc", "config_name": "ARC-Easy", "splits": splits}
    version = {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0}
    (folder / "dataset_info.json").write_text(json.dumps({**known, "features": features, "version": version}))


def listed(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_same_as_lm_eval(answers: Answers) -> None:
    theirs = answers.said["their whole"]
    made = rows(answers.folder / "whole")
    same_items(made, theirs["samples"]["capitals"], answers.facts("whole"))
    assert sum(row["metrics"]["acc"] for row in made) / len(made) == theirs["results"]["capitals"]["acc,none"]
    assert 0.5 < theirs["results"]["capitals"]["acc,none"] < 1  # both kinds of answers are among them


def test_the_same_as_lm_eval_with_examples(answers: Answers) -> None:
    theirs = answers.said["their examples"]["samples"]["capitals"]
    same_items(rows(answers.folder / "examples"), theirs, answers.facts("examples"))
    assert answers.facts("examples")["fewshot"] == {"capitals": 2}
    asked = theirs[0]["arguments"][0][0]
    assert asked.count("The capital of") == 3
    assert answers.facts("examples")["data"] != answers.facts("whole")["data"]


def same_items(made: list[dict[str, Any]], theirs: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """The same documents and answers, and asked in the same words, of which the digest is."""
    ours = {row["doc"]: (row["hash"], row["metrics"]["acc"]) for row in made}
    assert ours == {one["doc_id"]: (one["doc_hash"], one["acc"]) for one in theirs}
    assert len(ours) == len(made)
    asked = {one["doc_id"]: one["arguments"] for one in theirs}
    lines = [json.dumps(["capitals", row["doc"], row["hash"], asked[row["doc"]]], ensure_ascii=False) for row in made]
    digest = hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    assert facts["data"] == f"sha256:{digest}"


def test_what_is_known_of_an_item(answers: Answers) -> None:
    made = rows(answers.folder / "whole")
    row = next(row for row in made if "Algeria" in row["question"])
    expected = {"task": "capitals", "question": "The capital of Algeria is", "target": "Algiers", "empty": False}
    assert expected.items() <= row.items()
    assert [row["doc"] for row in made] != sorted(row["doc"] for row in made)


def test_in_parts_or_at_once(answers: Answers) -> None:
    names = [f"{at:06}.json" for at in range(5)]
    assert sorted(path.name for path in (answers.folder / "parts").iterdir()) == names
    assert rows(answers.folder / "parts") == rows(answers.folder / "whole")
    assert answers.said["first part"]["steps"][-1] == [8, 8, "items", "000001.json"]
    assert [step[0] for step in answers.said["second part"]["steps"]] == [4, 8, 12]


def test_it_goes_on_after_a_kill(answers: Answers) -> None:
    folder = answers.folder / "killed"
    assert 1 <= len(answers.kept) < 5
    assert {name: (folder / name).stat().st_mtime_ns for name in answers.kept} == answers.kept
    assert rows(folder) == rows(answers.folder / "whole")
    assert sorted(path.name for path in folder.iterdir()) == [f"{at:06}.json" for at in range(5)]


def test_generated_answers(answers: Answers) -> None:
    """An empty one is told, and each filter has its own score."""
    theirs = answers.said["their toys"]["samples"]["toy_generate"]
    made = {row["doc"]: row for row in rows(answers.folder / "toys out") if row["task"] == "toy_generate"}
    strict = {one["doc_id"]: one for one in theirs if one["filter"] == "strict"}
    digits = {one["doc_id"]: one for one in theirs if one["filter"] == "digits"}
    for at, row in made.items():
        assert row["metrics"] == {
            "exact_match": strict[at]["exact_match"],
            "exact_match,digits": digits[at]["exact_match"],
        }
        assert row["empty"] == (strict[at]["resps"][0][0].strip() == "")
    assert {row["empty"] for row in made.values()} == {True, False}
    assert {row["metrics"]["exact_match"] for row in made.values()} == {0, 1}
    assert answers.facts("toys")["metrics"]["toy_generate"] == "exact_match"
    assert answers.facts("named")["metrics"]["toy_generate"] == "exact_match,digits"


def test_rolling_perplexity(answers: Answers) -> None:
    made = [row["metrics"] for row in rows(answers.folder / "toys out") if row["task"] == "toy_rolling"]
    theirs = answers.said["their toys"]["results"]["toy_rolling"]
    likelihood, words = (sum(row["word_perplexity"][at] for row in made) for at in (0, 1))
    assert math.exp(-likelihood / words) == pytest.approx(theirs["word_perplexity,none"], rel=1e-5)
    likelihood, size = (sum(row["bits_per_byte"][at] for row in made) for at in (0, 1))
    assert -likelihood / size / math.log(2) == pytest.approx(theirs["bits_per_byte,none"], rel=1e-5)
    assert answers.facts("toys")["metrics"]["toy_rolling"] == "word_perplexity"
    assert answers.facts("toys")["higher_is_better"] == {"toy_generate": True, "toy_rolling": False}


def test_what_is_no_number_is_never_right(answers: Answers) -> None:
    """lm-eval finds the first choice the likeliest of those that are NaN, which one time in four is the right one."""
    made = rows(answers.folder / "broken out")
    assert [row["metrics"] for row in made if row["task"] == "capitals"] == [{"acc": None}] * 4
    rolling = [row["metrics"] for row in made if row["task"] == "toy_rolling"]
    assert rolling == [{"word_perplexity": None}] * 2


def test_what_is_counted(answers: Answers) -> None:
    """Without a model: the order is the seed's, all else stays."""
    counted, whole = answers.facts("counted"), answers.facts("whole")
    assert counted == whole
    assert (counted["units"], counted["items"]) == (5, {"capitals": LIMIT})
    assert counted["versions"]["capitals"] == "1.0"
    assert counted["first"] == counted["data"]
    other = answers.facts("other seed")
    assert all(other.pop(name) != counted.pop(name) for name in ("data", "first"))
    assert other == counted
    assert not (answers.folder / "counted").exists() or not list((answers.folder / "counted").iterdir())


def test_data_that_the_user_has_downloaded(answers: Answers) -> None:
    """Of lm-eval's own tasks; that nothing was written there is seen where all was asked."""
    assert answers.facts("downloaded")["items"] == {"arc_easy": 1}
    assert "hellaswag: the data of this task is not on this machine" in said(answers.error("not downloaded"))
    assert "lm_eval run --model dummy --tasks hellaswag --limit 1" in answers.error("not downloaded")


def said(error: str) -> str:
    known: dict[str, Any] = eval(error)
    return f"{known.get('subject', '')}: {known['what']}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown", ("UsageError", "no task of this name", "hellaswagg", "hellaswag,")),
        ("no such metric", ("UsageError", "no such metric", "acc_nrm", "did you mean 'acc'?")),
        ("no such use", ("UsageError", "a metric is named for a task that is none", "capital")),
        ("no file", ("UsageError", "a file of this task is not there", "toy_missing", "nowhere.jsonl")),
        ("nobody", ("UsageError", "the endpoint does not say what it serves", "http://127.0.0.1:", "/v1/models")),
        ("code", ("UsageError", "runs code that the model writes", "toy_code")),
    ],
)
def test_what_is_wrong_is_told(answers: Answers, name: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert word in answers.error(name)


def test_the_capitals() -> None:
    """Each country once, with the right one among four that differ."""
    items = [json.loads(line) for line in (CAPITALS / "capitals.jsonl").read_text().splitlines()]
    right = {item["country"]: item["choices"][item["answer"]] for item in items}
    assert len(right) == len(items) == 213
    assert all(len(set(item["choices"])) == 4 for item in items)
    assert {item["choices"][3] for item in items} <= set(right.values())
    assert {
        "Italy": "Rome",
        "Togo": "Lome",
        "Poland": "Warsaw",
        "United States": "Washington DC",
    }.items() <= right.items()
    places = [sum(item["answer"] == at for item in items) for at in range(4)]
    assert min(places) > 30  # to choose always the same place is no better than chance


def test_a_metric_of_which_nobody_knows_whether_more_is_better_is_refused(answers: Answers) -> None:
    said = answers.error("no direction")
    assert "does not say whether more of this metric is better" in said
    assert "quality" in said
