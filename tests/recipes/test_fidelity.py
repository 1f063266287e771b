"""The numbers of fidelity, against an independent computation in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.calibration import read_samples
from recipes.evaluation.details import Size
from recipes.evaluation.engines import fidelity
from recipes.evaluation.engines.fidelity import HEAD, compare, passage
from recipes.evaluation.passages import Passages
from recipes.evaluation.room import room
from recipes.evaluation.suite import find_suite
from recipes.task import Step, Task
from registry.errors import ModelError, UsageError
from tests.parts.scorecards import checkpoint
from tests.parts.small import cut_short

PASSAGES, WINDOW = 4, 51
"""Whose tokens but the first are scored: 200."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A real model cut short, the same with noise on its weights, and passages of text."""
    folder = tmp_path_factory.mktemp("fidelity")
    base, noisy = cut_short(folder / "base"), cut_short(folder / "noisy")
    random = torch.Generator().manual_seed(0)
    for path in noisy.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.dim() == 2:
                noise = torch.randn(tensor.shape, generator=random) * tensor.float().std() * 0.1
                tensors[name] = (tensor.float() + noise).to(tensor.dtype)
        save_file(tensors, path, {"format": "pt"})
    text = find_suite("fidelity", Path()).data
    read_samples(text, PASSAGES, 0).write(folder / "samples.jsonl")
    return base, noisy, folder / "samples.jsonl"


def ran(
    model: Path, target: Path, samples: Path, last: int = PASSAGES, **settings: Any
) -> tuple[dict[str, Any], list[Step]]:
    """A run on one model, in this process: the facts, and the steps that were told."""
    files = tuple(sorted(path.name for path in model.glob("*.safetensors")))
    target.mkdir(exist_ok=True)
    task = Task("transformers", {"first": 0, "last": last, **settings}, model, target, files, "cpu", samples, WINDOW)
    told: list[Any] = []
    return dict(fidelity.run(task, told.append).facts), [one for one in told if isinstance(one, Step)]


def logits_of(model: Path, rows: list[list[int]]) -> list[Any]:
    """What transformers computes, a passage at a time."""
    from transformers import AutoModelForCausalLM

    from recipes.engines.devices import has_short_floats

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto" if has_short_floats() else "float32")
    with torch.inference_mode():
        return [loaded(torch.tensor([row])).logits[0].float().numpy().astype(np.float64) for row in rows]


def test_the_numbers_equal_an_independent_computation_in_float64(
    places: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, noisy, samples = places
    facts, steps = ran(base, tmp_path / "base", samples)
    assert facts["units"] == PASSAGES
    assert [step.done for step in steps] == [1, 2, 3, 4]
    ran(noisy, tmp_path / "noisy", samples, against=str(tmp_path / "base"))
    rows = [load_file(passage(tmp_path / "base", at))["tokens"].tolist() for at in range(PASSAGES)]
    assert [len(row) for row in rows] == [WINDOW] * PASSAGES

    divergence, loss, other_loss, same, hit, other_hit = [], [], [], [], [], []
    for row, before, after in zip(rows, logits_of(base, rows), logits_of(noisy, rows), strict=True):
        for at, token in enumerate(row[1:]):
            p, q = (each[at] - np.logaddexp.reduce(each[at]) for each in (before, after))
            divergence.append(math.fsum(np.exp(p) * (p - q)))
            loss.append(-p[token])
            other_loss.append(-q[token])
            same.append(p.argmax() == q.argmax())
            hit.append(p.argmax() == token)
            other_hit.append(q.argmax() == token)
    assert len(divergence) == 200

    reader = Passages(tmp_path / "base", tmp_path / "noisy", ("perplexity",))
    while reader.read():
        pass
    measures = {one.name: one for one in reader.series()}
    found = reader.divergence(0.95)
    assert found
    assert found.mean.estimate == pytest.approx(math.fsum(divergence) / 200, rel=1e-6)
    assert found.p99 == pytest.approx(float(np.quantile(divergence, 0.99)), rel=1e-6)
    assert found.most == pytest.approx(max(divergence), rel=1e-6)
    assert found.agreement.estimate == pytest.approx(sum(same) / 200, rel=1e-12)
    assert found.lost == sum(a and not b for a, b in zip(hit, other_hit, strict=True)) / 200
    assert found.won == sum(b and not a for a, b in zip(hit, other_hit, strict=True)) / 200
    assert measures["perplexity"].baseline == pytest.approx(math.exp(math.fsum(loss) / 200), rel=1e-6)
    assert measures["perplexity"].candidate == pytest.approx(math.exp(math.fsum(other_loss) / 200), rel=1e-6)
    ratio = math.exp((math.fsum(loss) - math.fsum(other_loss)) / 200)
    assert math.exp(measures["perplexity"].above.sum() / measures["perplexity"].below.sum()) == pytest.approx(
        ratio, rel=1e-6
    )
    assert found.mean.estimate > 0.001

    details = reader.details(Size((), 0), Size((), 0))
    assert details.divergence.tolist() == pytest.approx(divergence, rel=1e-4, abs=1e-9)
    assert len(details.agreement) == WINDOW - 1
    worst = details.passages[0]
    texts = [json.loads(line)["text"] for line in samples.read_text().splitlines()]
    assert any(text.startswith("".join(worst.pieces)) for text in texts)
    assert worst.mean == max(one.mean for one in details.passages)
    assert len(worst.pieces) == len(worst.divergence) == WINDOW


def test_a_model_against_itself(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, _, samples = places
    ran(base, tmp_path / "base", samples, last=2)
    ran(base, tmp_path / "self", samples, last=2, against=str(tmp_path / "base"))
    reader = Passages(tmp_path / "base", tmp_path / "self", ())
    while reader.read():
        pass
    found = reader.divergence(0.95)
    assert found
    assert (found.mean.estimate, found.most, found.agreement.estimate) == (0, 0, 1)
    assert reader.units == 2


def test_a_trace_holds_states_and_not_probabilities(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A hundredth of the space: the head of the model is kept once."""
    base, _, samples = places
    ran(base, tmp_path, samples, last=2)
    trace = load_file(passage(tmp_path, 0))
    assert set(trace) == {"tokens", "states"}
    assert trace["states"].shape == (WINDOW, 576)
    assert load_file(tmp_path / HEAD)["weight"].shape == (49152, 576)
    assert passage(tmp_path, 0).stat().st_size * 50 < WINDOW * 49152 * 4
    known = find_suite({"data": str(samples), "window": WINDOW}, Path())
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert 0.4 * room(checkpoint(base), known, 2) < size < room(checkpoint(base), known, 2)


@pytest.mark.parametrize("cap", [30, 300])
def test_a_head_that_does_more_than_multiply_is_noticed(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    """As Gemma caps its logits, or Granite divides them, by however little: then the logits themselves are kept."""
    from recipes.evaluation.engines.transformers import Backend

    base, _, samples = places
    plain = Backend.predict

    def capped(self: Backend, row: Any) -> Any:
        logits, states = plain(self, row)
        return cap * torch.tanh(logits / cap), states

    monkeypatch.setattr(Backend, "predict", capped)
    ran(base, tmp_path / "base", samples, last=1)
    assert set(load_file(passage(tmp_path / "base", 0))) == {"tokens", "logits"}
    ran(base, tmp_path / "self", samples, last=1, against=str(tmp_path / "base"))
    assert float(load_file(passage(tmp_path / "self", 0))["divergence"].max()) == 0


def test_what_is_whole_is_not_measured_again(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, _, samples = places
    ran(base, tmp_path, samples, last=2)
    before = [passage(tmp_path, at).stat().st_mtime_ns for at in (0, 1)]
    _, steps = ran(base, tmp_path, samples, last=3)
    assert [step.done for step in steps] == [3]
    assert [passage(tmp_path, at).stat().st_mtime_ns for at in (0, 1)] == before


def test_a_baseline_that_computes_nan_is_an_error(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base = broken(places[0], tmp_path / "nan")
    with pytest.raises(ModelError, match="numbers that are none"):
        ran(base, tmp_path / "base", places[2], last=1)
    assert not passage(tmp_path / "base", 0).exists()


def test_a_candidate_that_computes_nan_has_lost(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, _, samples = places
    ran(base, tmp_path / "base", samples, last=2)
    ran(broken(base, tmp_path / "nan"), tmp_path / "made", samples, last=2, against=str(tmp_path / "base"))
    reader = Passages(tmp_path / "base", tmp_path / "made", ())
    while reader.read():
        pass
    assert reader.failures == ("the candidate computes numbers that are none (NaN or Inf): 2 of 2 passages",)
    assert reader.series() == []


def broken(model: Path, folder: Path) -> Path:
    """The model with NaN in one norm."""
    import shutil

    shutil.copytree(model, folder)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if "model.norm.weight" in tensors:
            tensors["model.norm.weight"][0] = math.nan
            save_file(tensors, path, {"format": "pt"})
    return folder


def test_other_tokens_are_lost(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A tokenizer that does not fit: here one that has lost its merges."""
    base, _, samples = places
    ran(base, tmp_path / "base", samples, last=1)
    import shutil

    other = shutil.copytree(base, tmp_path / "other")
    document = json.loads((other / "tokenizer.json").read_text())
    document["model"]["merges"] = document["model"]["merges"][:100]
    (other / "tokenizer.json").write_text(json.dumps(document))
    ran(other, tmp_path / "made", samples, last=1, against=str(tmp_path / "base"))
    reader = Passages(tmp_path / "base", tmp_path / "made", ())
    assert reader.read()
    assert reader.failures == ("the candidate splits a text into other tokens than the baseline: 1 of 1 passages",)


def test_probabilities_of_zero() -> None:
    """Masked tokens are no reason for NaN where both have them."""
    logits = torch.tensor([[0.0, 1.0, -math.inf]])
    found = compare(logits, logits, torch.tensor([1]))
    assert found["divergence"].tolist() == [0]
    other = torch.tensor([[0.0, -math.inf, 1.0]])
    assert compare(logits, other, torch.tensor([1]))["divergence"].tolist() == [math.inf]


def test_what_is_too_short_is_not_called_a_calibration(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    samples = tmp_path / "short.jsonl"
    samples.write_text('{"text": "Two words."}\n' * 20)
    with pytest.raises(UsageError, match="the passages of the text are too short, or too few"):
        ran(places[0], tmp_path / "target", samples)
