"""Tasks answered by a running vLLM, and what the shipped capitals tell of a model: `make test-slow`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from recipes.evaluation.engines.tasks import run
from recipes.task import Task
from tests.parts.command import ROOT
from tests.parts.damage import shuffled
from tests.slow.vllm import serving

pytestmark = pytest.mark.filterwarnings("ignore")

CAPITALS = ROOT / "recipes/suites/capitals"
ITEMS, CHANCE = 213, 0.25


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a child process is."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")


def answer(model: Path, target: Path, limit: int | None, url: str | None = None) -> dict[int, dict[str, Any]]:
    settings = {
        "tasks": ["capitals"],
        "include": str(CAPITALS),
        "limit": limit,
        "fewshot": None,
        "metrics": {},
        "seed": 0,
        "batch": 20,
        "first": 0,
        "last": 99,
        "endpoint": {"url": url, "model": None} if url else None,
        "only_count": False,
    }
    run(Task("tasks", settings, model, target, ("model.safetensors",)), lambda _: None)
    rows = [row for path in sorted(target.glob("*.json")) for row in json.loads(path.read_text())]
    return {row["doc"]: row for row in rows}


def test_vllm_answers_as_transformers_does(safetensors_model: Path, tmp_path: Path) -> None:
    """It computes in bfloat16, so that an answer may differ where two are nearly as likely."""
    here = answer(safetensors_model, tmp_path / "here", 20)
    with serving(safetensors_model, tmp_path / "log") as address:
        there = answer(safetensors_model, tmp_path / "there", 20, f"http://{address}")
    assert {at: row["hash"] for at, row in there.items()} == {at: row["hash"] for at, row in here.items()}
    same = sum(there[at]["metrics"] == row["metrics"] for at, row in here.items())
    assert same >= 18
    assert 0 < sum(row["metrics"]["acc"] for row in there.values()) < 20


def test_shuffled_weights_know_no_capital(safetensors_model: Path, tmp_path: Path) -> None:
    """The real model is far above chance, the same weights in any other order are where chance would put them."""
    models = safetensors_model, shuffled(safetensors_model, tmp_path / "shuffled")
    real, wrong = (answer(model, tmp_path / f"answers of {model.name}", None) for model in models)
    assert len(real) == len(wrong) == ITEMS
    knows, guesses = (sum(row["metrics"]["acc"] for row in rows.values()) for rows in (real, wrong))
    assert math.isclose(knows / ITEMS, 0.82, abs_tol=0.03)
    assert at_least(int(guesses), CHANCE) > 0.001
    assert at_least(ITEMS - int(guesses), 1 - CHANCE) > 0.001
    assert at_least(int(knows), CHANCE) < 1e-30


def at_least(right: int, chance: float) -> float:
    """The probability of at least so many right answers to all items, each right by chance."""
    parts = (math.comb(ITEMS, k) * chance**k * (1 - chance) ** (ITEMS - k) for k in range(right, ITEMS + 1))
    return math.fsum(parts)
