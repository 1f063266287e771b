"""What is said of the whole of SmolLM2, quantized, damaged, and as it is: `make test-slow`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.parts.command import ROOT, packer
from tests.parts.damage import shuffled, with_doubled_scales
from tests.parts.servers import Server

CAPITALS = ROOT / "recipes/suites/capitals"
UNHURRIED = ("--budget", "2h")
"""What is found does not depend on what else the machine does."""

RECIPES = ("fp8-dynamic", "int8-w8a8-rtn")


class Place:
    """The model, what was made of it, and a cache: the baseline is measured once."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.env = {"PACKER_CACHE": str(folder / "cache")}

    def quantized(self, recipe: str) -> Path:
        made = self.folder / recipe
        if not made.exists():
            packer("quantize", self.model, made, "--recipe", recipe, env=self.env, timeout=1200)
        return made

    def evaluate(self, candidate: Path, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
        """The exit code and the scorecard."""
        command = ("evaluate", candidate, "--baseline", self.model, *UNHURRIED, *arguments, "--json")
        done = packer(*command, check=False, env=self.env, timeout=7200)
        assert done.returncode in (0, 4), done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told.pop("event") == "scorecard"
        return done.returncode, told


@pytest.fixture(scope="module")
def place(safetensors_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(safetensors_model, tmp_path_factory.mktemp("verdicts"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_build_ships_what_retains_enough_and_nothing_else(place: Place, registry: Server, recipe: str) -> None:
    """A gate of 0.90 lets it pass, one of 0.999 refuses, and then not a byte in the registry is another."""
    to = f"{registry.address}/verdicts/{recipe}:v1"

    def build(retain: str, report: Path) -> tuple[int, dict[str, Any]]:
        flags = ("--to", to, "--quantize", recipe, "--evaluate", "fidelity", "--retain", retain, "--report", report)
        done = packer("build", place.model, *flags, *UNHURRIED, check=False, env=place.env, timeout=7200)
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads((report / "scorecard.json").read_text())

    code, card = build("0.90", place.folder / f"{recipe}-report")
    assert (code, card["verdict"], card["accepted"]) == (0, "retained", True), card
    (perplexity,) = (one for one in card["metrics"] if one["name"] == "perplexity")
    retention = perplexity["retention"]
    assert 0.90 <= retention["low"] <= retention["estimate"] < retention["high"] < 1.001
    assert 0 < card["divergence"]["mean"]["estimate"] < 0.1
    assert 0.8 < card["divergence"]["agreement"]["estimate"] < 1
    assert card["candidate"]["bytes"] < 0.8 * card["baseline"]["bytes"]
    shown = json.loads(packer("inspect", to, "--json").stdout)
    assert shown["evaluation"]["verdict"] == "retained"
    assert json.loads(packer("scorecard", to, "--json").stdout) == card

    contents = registry.held()
    code, card = build("0.999", place.folder / f"{recipe}-strict")
    assert (code, card["accepted"]) == (4, False), card
    assert (place.folder / f"{recipe}-strict/report.html").stat().st_size > 10_000
    assert registry.held() == contents
    assert json.loads(packer("inspect", to, "--json").stdout) == shown


def test_a_layer_with_doubled_scales_is_lost(place: Place, tmp_path: Path) -> None:
    candidate = with_doubled_scales(place.quantized("fp8-dynamic"), tmp_path / "damaged")
    code, card = place.evaluate(candidate, "--retain", "0.9")
    assert (code, card["verdict"]) == (4, "lost")


def test_the_model_itself_retains_everything(place: Place) -> None:
    code, card = place.evaluate(place.model)
    assert (code, card["verdict"], card["gate"]["retain"]) == (0, "retained", 0.99)
    assert card["divergence"]["most"] == 0


def test_the_capitals(place: Place, tmp_path: Path) -> None:
    """Asked of three: the quantized one knows them, the shuffled one does not, the model itself is sure to."""
    tasks = ("--suite", "capitals", "--retain", "0.8")
    code, card = place.evaluate(place.model, *tasks)
    assert (code, card["verdict"]) == (0, "retained")
    code, card = place.evaluate(place.quantized("fp8-dynamic"), *tasks)
    assert (code, card["verdict"]) == (0, "retained"), card
    assert (card["metrics"][0]["name"], card["samples"]["unit"]) == ("capitals acc", "items")
    Draft202012Validator(json.loads((ROOT / "docs/scorecard.schema.json").read_text())).validate(card)
    code, card = place.evaluate(shuffled(place.model, tmp_path / "shuffled"), *tasks)
    assert (code, card["verdict"]) == (4, "lost")
    assert card["metrics"][0]["baseline"] > 0.6 > card["metrics"][0]["candidate"]


def test_where_less_is_better(place: Place, tmp_path: Path) -> None:
    """To know fewer capitals is an improvement if the task says so."""
    task = yaml.safe_load((CAPITALS / "capitals.yaml").read_text())
    for metric in task["metric_list"]:
        metric["higher_is_better"] = False
    (tmp_path / "mistakes.yaml").write_text(yaml.safe_dump({**task, "task": "mistakes"}))
    (tmp_path / "capitals.jsonl").symlink_to(CAPITALS / "capitals.jsonl")
    (tmp_path / "suite.yaml").write_text("name: mistakes\ntasks: [mistakes]\ninclude: .\n")
    candidate = shuffled(place.model, tmp_path / "shuffled")
    code, card = place.evaluate(candidate, "--suite", tmp_path / "suite.yaml", "--retain", "0.8")
    assert (code, card["verdict"]) == (0, "retained"), card
    assert card["metrics"][0]["candidate"] < card["metrics"][0]["baseline"]
