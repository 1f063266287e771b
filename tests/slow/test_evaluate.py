"""`packer evaluate` where it takes longest to its verdict: `make test-slow`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.parts.command import ROOT
from tests.parts.damage import with_doubled_scales
from tests.parts.measured import CAPITALS, PASSAGES, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield Place(tmp_path_factory.mktemp("evaluate"))


def test_what_another_run_found_is_not_said_of_this_one(place: Place, tmp_path: Path) -> None:
    """A model that was quantized by hand, and the same made by a recipe: only the second one's scorecard names it."""
    code, card, _ = place.evaluate(place.quantized("int8-w8a8-rtn"), "--retain", "0.7")
    assert (code, card["candidate"]["recipe"]) == (0, "")
    flags = ("--quantize", "int8-w8a8-rtn", "--evaluate", place.suite, "--retain", "0.7")
    place.packer("build", place.model, "--to", f"oci:{tmp_path}/out", *flags, "--report", tmp_path / "report")
    made = json.loads((tmp_path / "report/scorecard.json").read_text())
    assert made["candidate"]["digest"] == card["candidate"]["digest"]
    assert made["candidate"]["recipe"] == "int8-w8a8-rtn"
    assert made["metrics"] == card["metrics"]


def test_a_layer_with_doubled_scales_is_lost(place: Place, tmp_path: Path) -> None:
    code, card, told = place.evaluate(
        with_doubled_scales(place.quantized("fp8-dynamic"), tmp_path / "bad"), "--retain", "0.9"
    )
    assert (code, card["verdict"]) == (4, "lost")
    assert card["metrics"][0]["retention"]["high"] < 0.9
    assert "refused: lost; nothing was published" in told


def test_undecided(place: Place) -> None:
    """On the threshold nobody can tell: refused, and how many more would do is said; or accepted, if one wants that."""
    candidate = place.quantized("fp8-dynamic")
    code, card, _ = place.evaluate(candidate, "--retain", "0.8", "--confidence", "0.99")
    retain = f"{card['metrics'][0]['retention']['estimate'] - 0.002:.4f}"
    code, card, _ = place.evaluate(candidate, "--retain", retain)
    assert (code, card["verdict"], card["accepted"]) == (4, "undecided", False)
    assert card["samples"]["used"] == PASSAGES
    assert card["circumstances"]["stopped"] == f"all {PASSAGES} passages are used"
    assert card["samples"]["needed"] > PASSAGES or card["samples"]["needed"] == 0
    code, card, _ = place.evaluate(candidate, "--retain", retain, "--undecided", "accept")
    assert (code, card["verdict"], card["accepted"]) == (0, "undecided", True)


def test_a_budget_ends_it_and_what_was_measured_is_kept(place: Place, tmp_path: Path) -> None:
    """The second run has no time at all, and has what the first left."""
    candidate = place.quantized("fp8-dynamic")
    arguments = ("--retain", "0.8", "--seed", "5")
    code, card, _ = place.evaluate(candidate, *arguments, "--budget", "1", "--undecided", "accept")
    assert (code, card["verdict"], card["circumstances"]["stopped"]) == (4, "undecided", "time is up")
    assert (card["accepted"], card["metrics"], card["divergence"]) == (False, [], None)
    code, card, _ = place.evaluate(candidate, *arguments)
    assert (code, card["verdict"]) == (0, "retained")
    code, again, _ = place.evaluate(candidate, *arguments, "--budget", "1")
    assert (code, again["verdict"]) == (0, "retained")
    assert again["metrics"] == card["metrics"]


def test_tasks_to_the_verdict(place: Place, tmp_path: Path) -> None:
    """A model against itself answers all alike, and what is written follows the schema."""
    suite = {"name": "cities", "tasks": ["capitals"], "include": str(CAPITALS), "limit": 48}
    (tmp_path / "cities.yaml").write_text(json.dumps(suite))
    arguments = (place.model, "--baseline", place.model, "--suite", tmp_path / "cities.yaml", "--retain", "0.5")
    done = place.packer("evaluate", *arguments, "--report", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "scorecard.json").read_text())
    Draft202012Validator(json.loads((ROOT / "docs/scorecard.schema.json").read_text())).validate(card)
    assert (card["verdict"], card["samples"]["unit"], card["divergence"]) == ("retained", "items", None)
    assert card["metrics"][0]["name"] == "capitals acc"
    assert card["metrics"][0]["retention"]["estimate"] == 1
    assert "capitals" in (tmp_path / "report.html").read_text()
    kept = list((place.folder / "cache/evaluated").glob("*/000000.json"))  # to be found again by who asks for more
    assert kept
    for path in kept:
        path.write_text(json.dumps([{**row, "question": "marked"} for row in json.loads(path.read_text())]))
    done = place.packer("evaluate", *arguments, "--undecided", "extend", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["samples"]["available"] == 213
    assert len([*(place.folder / "cache/evaluated").glob("*/000000.json")]) == 2 * len(kept)
    firsts = [json.loads(path.read_text()) for path in (place.folder / "cache/evaluated").glob("*/000000.json")]
    assert {row["question"] for rows in firsts for row in rows} == {"marked"}
