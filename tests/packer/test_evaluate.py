"""`packer evaluate`, and `evaluate:` of a build: from the verdict to what is published, or not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import tiny
from tests.parts.command import PACKER, events, packer, release
from tests.parts.measured import SUITE, Place, build
from tests.parts.servers import Server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield Place(tmp_path_factory.mktemp("evaluate"))


def test_the_whole_chain(place: Place, registry: Server, tmp_path: Path) -> None:
    """Fetch, validate, shard, quantize, evaluate, package, publish; the same again does nothing; a gate that asks for
    more leaves the registry as it is.
    """
    to = f"{registry.address}/evaluate/chain:v1"
    done = build(place, to, "--retain", "0.8", "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    stages = [one["stage"] for one in told if one["event"] == "finished"]
    assert stages == ["fetch", "validate", "shard", "quantize", "evaluate", "package", "publish"]
    card = json.loads((tmp_path / "report/scorecard.json").read_text())
    assert (card["verdict"], card["accepted"], card["candidate"]["recipe"]) == ("retained", True, "fp8-dynamic")
    page = (tmp_path / "report/report.html").read_text()
    assert "<html" in page
    assert "Where the weights hurt" in page
    release = told[-1]
    assert release["scorecard"]

    shown = json.loads(packer("inspect", to, "--json").stdout)
    assert shown["evaluation"]["verdict"] == "retained"
    assert json.loads(packer("scorecard", to, "--json").stdout) == card
    packer("pull", to, tmp_path / "pulled")
    readme = (tmp_path / "pulled/README.md").read_text()
    assert "## Evaluation\n\nMeasured by packer against" in readme
    assert card["baseline"]["digest"] in readme

    before = place.measured()
    again = build(place, to, "--retain", "0.8", "--report", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    last = json.loads(again.stdout.splitlines()[-1])
    assert (last["image"], last["scorecard"], last["changed"]) == (release["image"], release["scorecard"], False)
    assert json.loads((tmp_path / "again/scorecard.json").read_text()) == card
    assert (tmp_path / "again/report.html").read_text() == (tmp_path / "report/report.html").read_text()
    assert place.measured() == before

    contents = registry.held()
    refused = build(place, to, "--retain", "0.9999", "--report", tmp_path / "refused")
    assert refused.returncode == 4
    assert json.loads(refused.stdout.splitlines()[-1])["accepted"] is False
    assert "nothing was published" in refused.stderr
    assert json.loads((tmp_path / "refused/scorecard.json").read_text())["gate"]["retain"] == 0.9999
    assert contents
    assert registry.held() == contents
    assert json.loads(packer("inspect", to, "--json").stdout) == shown


def test_a_model_against_itself(place: Place) -> None:
    code, card, _ = place.evaluate(place.model)
    assert (code, card["verdict"]) == (0, "retained")
    assert card["divergence"] == {
        "mean": {"low": 0, "estimate": 0, "high": 0},
        "p99": 0,
        "most": 0,
        "agreement": {"low": 1, "estimate": 1, "high": 1},
        "lost": 0,
        "won": 0,
    }
    assert card["samples"]["used"] == 32
    assert card["baseline"]["digest"] == card["candidate"]["digest"]
    assert card["baseline"]["name"] == card["candidate"]["name"] == place.model.name


def test_a_candidate_that_does_not_load_is_lost(place: Place, tmp_path: Path) -> None:
    """Its config says another activation than there is: valid for all that files tell, and no model."""
    model = shutil.copytree(place.model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_act": "no such"}))
    code, card, _ = place.evaluate(model, "--report", tmp_path / "report")
    assert (code, card["verdict"], card["metrics"]) == (4, "lost", [])
    assert "no such" in card["failures"][0]
    assert "no such" in (tmp_path / "report/report.html").read_text()


def test_killed_it_goes_on_behind_the_last_whole_passage(place: Place) -> None:
    candidate = place.quantized("fp8-dynamic")
    command: list[str | Path] = [
        PACKER,
        "evaluate",
        candidate,
        "--baseline",
        place.model,
        "--suite",
        place.suite,
        "--seed",
        "9",
    ]
    before = place.measured()
    process = subprocess.Popen(
        command, env={**os.environ, **place.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while len(candidates(place, before)) < 3:
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(0.5)  # the child dies with it
    made = {path: when for path, when in place.measured().items() if path not in before}
    assert candidates(place, before)
    code, card, _ = place.evaluate(candidate, "--seed", "9", "--retain", "0.8")
    assert code == 0
    after = place.measured()
    assert {path: after[path] for path in made} == made
    assert card["samples"]["used"] == 32


def candidates(place: Place, before: dict[Path, int]) -> list[Path]:
    """What has been measured of a candidate since: its files hold no tokens."""
    from safetensors import safe_open

    found = []
    for path in place.measured().keys() - before.keys():
        if path.name[0].isdigit():
            with safe_open(path, "numpy") as file:
                found += [path] if "divergence" in file.keys() else []  # noqa: SIM118
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{model} --baseline {model} --suite fidelty", "did you mean 'fidelity'?"),
        ("{model} --baseline {model} --suite {short} --endpoint http://127.0.0.1:1/v1", "an endpoint answers tasks"),
        ("{model} --baseline {model} --suite capitals --data x.txt", "brings its own data"),
        ("{model} --baseline {model} --data nothing.txt", "there is no such data"),
        ("{model} --baseline {model} --data few.txt", "too small to tell whether 0.99 is retained"),
        ("{model} --baseline {model} --suite eight.yaml --undecided accept", "too small to tell whether 0.99 is"),
        ("{model} --baseline {model} --suite open.yaml", "gate"),
        ("{gguf} --baseline {model}", "the baseline: these two models cannot be compared like this"),
        ("{bert} --baseline {bert}", "the baseline: nothing here runs this model"),
        ("{model} --baseline {bert}", "the baseline: nothing here runs this model"),
        ("{bert} --baseline {model}", "the candidate: nothing here runs this model"),
        ("{model} --baseline none/at/all", "none/at/all: the baseline: there is no such"),
        ("./none --baseline {model}", "./none: the candidate: there is no such"),
        ("{model} --baseline {model} --budget soon", "--budget: this is no time"),
        ("{model} --baseline {model} --report few.txt/report", "no report can be written here"),
        ("{model} --baseline {model} --retain 95", "did you mean 0.95?"),
        ("{model} --baseline {model} --retain 95%", "did you mean 0.95?"),
        ("{model} --baseline {model} --retain 1.5", "at most 1, such as 0.95"),
        ("{model} --baseline {model} --retain 0", "--retain: this is nothing that can be retained"),
        ("{model} --baseline {model} --device tpu", "this is no device"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_loads(
    place: Place, tmp_path: Path, gguf_model: Path, arguments: str, said: str
) -> None:
    (tmp_path / "few.txt").write_text("Some words.\n")
    data = json.loads(place.suite.read_text())["data"]
    (tmp_path / "eight.yaml").write_text(json.dumps({"passages": 8, "window": 32, "data": data}))
    (tmp_path / "open.yaml").write_text(json.dumps({"gate": [], "data": data}))
    bert = tiny.write_folder(tmp_path / "bert", tiny.SHARDED)
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"], "model_type": "bert"}))
    names = {"model": place.model, "short": place.suite, "gguf": gguf_model, "bert": bert}
    done = place.packer("evaluate", *arguments.format(**names).split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_models_of_a_registry_are_fetched(place: Place, registry: Server, tmp_path: Path) -> None:
    """As in a build; what stops it then is that nothing runs them."""
    reference = f"{registry.address}/evaluate/far:v1"
    model = tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"], "model_type": "bert"}))
    digest = release(model, "--to", reference, "--base", "none")["image"].partition("@")[2]
    for name in (f"oci://{reference}", reference, f"{reference.removesuffix(':v1')}@{digest}"):
        done = place.packer("evaluate", name, "--baseline", f"oci://{reference}")
        assert done.returncode == 2, done.stderr
        assert "nothing here runs this model" in done.stderr


def test_another_name_or_gate_of_a_suite_measures_nothing_anew(place: Place, tmp_path: Path) -> None:
    """What decides nothing of a sample may change; each evaluation has a report of its own in the cache."""
    code, card, _ = place.evaluate(place.model)
    assert code == 0
    before, data = place.measured(), json.loads(place.suite.read_text())["data"]
    changed = {"name": "other", "description": "?", "gate": ["agreement"], "retain": 0.9, "passages": 40}
    (tmp_path / "other.yaml").write_text(json.dumps({**SUITE, **changed, "data": data}))
    code, other, _ = place.evaluate(place.model, "--suite", tmp_path / "other.yaml", "--confidence", "0.9")
    assert (code, other["samples"]["suite"], other["gate"]["retain"]) == (0, "other", 0.9)
    assert other["samples"]["suite_digest"] != card["samples"]["suite_digest"]
    assert place.measured() == before
    folders = {path.parent for path in (place.folder / "cache/reports").glob("*/scorecard.json")}
    suites = [json.loads((path / "scorecard.json").read_text())["samples"]["suite"] for path in folders]
    assert {"short", "other"} <= set(suites)


def test_tasks_that_cannot_decide_are_refused_at_the_start(place: Place) -> None:
    done = place.packer("evaluate", place.model, "--baseline", place.model, "--suite", "capitals", "--retain", "0.99")
    assert done.returncode == 2
    assert "too small to tell whether 0.99 is retained" in done.stderr
    assert "at least 453 items" in done.stderr
    assert "--retain 0.97 at most" in done.stderr


def test_a_suite_is_shown_without_the_signs_of_a_language() -> None:
    shown = packer("suites", "fidelity").stdout
    assert "gate         perplexity\n" in shown
    assert not set("()[]{}") & set(packer("suites", "capitals").stdout.partition("digest")[2])


def test_a_build_must_have_something_to_measure_against(place: Place) -> None:
    done = place.packer("build", place.model, "--to", f"oci:{place.folder}/out", "--evaluate", place.suite)
    assert done.returncode == 2
    assert "nothing to measure the model against" in done.stderr
    done = place.packer("build", place.model, "--to", f"oci:{place.folder}/out", "--retain", "0.9")
    assert done.returncode == 2
    assert "nothing says on what to evaluate" in done.stderr


def test_variants_end_with_a_line_each(place: Place, tmp_path: Path) -> None:
    """One ships and one does not: the last line says so, as do the result and the page about it."""
    document = {
        "source": str(place.model),
        "quantize": "fp8-dynamic",
        "evaluate": {"suite": str(place.suite)},
        "publish": {"to": "oci:out", "base": "none"},
        "variants": [
            {"name": "good", "evaluate": {"retain": 0.8}},
            {"name": "bad", "evaluate": {"retain": 0.9999}},
        ],
    }
    (tmp_path / "packer.yaml").write_text(json.dumps(document))
    done = place.packer("build", tmp_path / "packer.yaml", "--result-file", tmp_path / "r")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "refused: bad, lost; nothing was published"
    good, bad = (line.split() for line in done.stdout.splitlines()[-2:])
    assert (good[:2], good[-1]) == (["good", "retained"], f"oci:{tmp_path}/out:good")
    assert bad[:2] == ["bad", "lost"]
    assert "nothing was published: Lost: perplexity keeps" in done.stdout.splitlines()[-1]
    assert "  next        Choose a recipe that costs less" in done.stdout
    headline = next(line for line in done.stdout.splitlines() if line.startswith("Lost: "))
    assert f"evaluate  {headline}; 32 passages" in done.stderr  # each number in one way
    told = json.loads((tmp_path / "r").read_text())["variants"]
    assert [(one["variant"], one["event"], one["VERDICT"]) for one in told] == [
        ("good", "release", "retained"),
        ("bad", "scorecard", "lost"),
    ]
    assert (told[0]["RETENTION"], told[1]["IMAGE_URL"]) == (told[1]["RETENTION"], "")
    page = packer("ci", "summary", tmp_path / "r").stdout
    assert "## Refused: bad, lost" in page


def test_a_model_that_another_tool_quantized(place: Place, tmp_path: Path) -> None:
    """With a build file: the suite is written out in it, the baseline is named, paths are from its folder."""
    candidate = place.quantized("fp8-dynamic")
    document = {
        "source": str(candidate),
        "evaluate": {
            "suite": {**SUITE, "data": "text.txt", "gate": ["agreement"]},
            "baseline": "base",
            "retain": 0.5,
            "budget": "5m",
            "report": "report",
        },
        "publish": {"to": "oci:out:v1", "base": "none"},
    }
    (tmp_path / "base").symlink_to(place.model)
    data = json.loads(place.suite.read_text())["data"]
    shutil.copy(data, tmp_path / "text.txt")
    (tmp_path / "packer.yaml").write_text(json.dumps(document))
    told = events("build", tmp_path / "packer.yaml", env=place.env)
    assert told[-1]["event"] == "release"
    card = json.loads((tmp_path / "report/scorecard.json").read_text())
    assert (card["samples"]["suite"], card["samples"]["data"], card["candidate"]["recipe"]) == ("short", "text.txt", "")
    assert [one["name"] for one in card["metrics"] if one["is_gated"]] == ["agreement"]
