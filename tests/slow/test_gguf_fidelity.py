"""GGUF evaluated by llama.cpp: what eight bits keep of the real model, and what two lose: `make test-slow`.

llama-cpp-python takes minutes to build, so it is in an environment of its own, which these tests put behind packer's.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from formats.checkpoint import Checkpoint
from formats.reshard import shard
from packer.sources import parse_source
from recipes import child
from recipes.calibration import read_samples
from recipes.engines.gguf_tool import Order, quantize
from recipes.engines.loaded import tokenizer_of
from recipes.engines.samples import token_rows
from recipes.evaluation.engines import fidelity, llama
from recipes.evaluation.engines.fidelity import passage
from recipes.evaluation.evaluate import Evaluated, Evaluation, evaluate
from recipes.evaluation.intervals import LEAST
from recipes.evaluation.scorecard import Gate, Verdict
from recipes.evaluation.suite import find_suite
from recipes.quantize import Workplace
from recipes.task import Task
from registry.errors import ModelError, UsageError
from tests.parts.command import ROOT
from tests.parts.models import gguf

WINDOW, VOCABULARY = 96, 49152
TYPES = {"F16": 1, "Q8_0": 7, "Q2_K": 10}
"""llama.cpp's own numbers, `enum llama_ftype`."""

_WORKER = "import runpy, sys; sys.path.append({!r}); runpy.run_module('recipes.worker', run_name='__main__')"


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    """This process and the children find llama_cpp behind all else that they have; nothing else is changed."""
    (packages,) = (ROOT / ".cache/clients/llama-cpp/lib").glob("python3.*/site-packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(packages)])
        command = [sys.executable, "-P", "-c", _WORKER.format(str(packages)), str(os.getpid())]
        patch.setattr(child, "_command", lambda: command)
        yield


@pytest.fixture(scope="module")
def models(library: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SmolLM2 in 16 bits, as far as its four tell, and what llama.cpp makes of that."""
    folder = tmp_path_factory.mktemp("models")
    source = next(gguf().glob("*.gguf"))
    made = {}
    for kind, number in TYPES.items():
        made[kind] = folder / f"SmolLM2-{kind}.gguf"
        order = Order(source if kind == "F16" else made["F16"], made[kind], kind, number, requantize=kind == "F16")
        quantize(order, lambda _: None)
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(parse_source(str(path)).fetch())


def judged(baseline: Checkpoint, candidate: Checkpoint, cache: Path) -> Evaluated:
    suite = replace(find_suite("fidelity", Path()), window=WINDOW, passages=2 * LEAST)
    place = Workplace(cache, dict(os.environ), lambda file: file.blob.descriptor.digest)
    samples = read_samples(suite.data, suite.passages, 0)
    return evaluate(baseline, candidate, Evaluation(suite, Gate(retain=0.95), place, samples, device="cpu"))


def test_eight_bits_are_retained(models: dict[str, Path], cache: Path) -> None:
    scorecard = judged(checkpoint(models["F16"]), checkpoint(models["Q8_0"]), cache).scorecard
    assert scorecard.verdict is Verdict.RETAINED, scorecard
    assert scorecard.divergence and 0 < scorecard.divergence.mean.estimate < 0.02
    assert 0.9 < scorecard.divergence.agreement.estimate < 1
    assert scorecard.circumstances.backend == "llama-cpp-python"
    assert scorecard.samples.tokens == LEAST * (WINDOW - 1)


def test_two_bits_are_lost(models: dict[str, Path], cache: Path) -> None:
    scorecard = judged(checkpoint(models["F16"]), checkpoint(models["Q2_K"]), cache).scorecard
    assert scorecard.verdict is Verdict.LOST, scorecard
    assert scorecard.divergence and scorecard.divergence.mean.estimate > 0.2
    perplexity = next(metric for metric in scorecard.metrics if metric.name == "perplexity")
    assert 0.6 < perplexity.retention.estimate < 0.9
    assert not scorecard.failures


def test_the_model_itself_in_parts(models: dict[str, Path], cache: Path) -> None:
    """The first part leads to the others, and not one number is another."""
    whole = checkpoint(models["F16"])
    parts = shard(whole, 100 << 20)
    assert len(parts.read) > 1
    scorecard = judged(whole, parts, cache).scorecard
    assert scorecard.verdict is Verdict.RETAINED
    assert scorecard.divergence and (scorecard.divergence.most, scorecard.divergence.agreement.estimate) == (0.0, 1.0)
    assert all(metric.retention.estimate == 1 for metric in scorecard.metrics)


# ---- runs


TEXTS: list[dict[str, Any]] = [
    {"text": "It is a truth universally acknowledged, that a single man must be in want of a wife."},
    {"text": "“But it is,” returned she; “for Mrs. Long has just been here, and she told me all about it.”"},
    {"text": "<|im_start|> is no word of the novel, and 1,234 is a number of it, naïve as that may be."},
    {"messages": [{"role": "user", "content": "Who wrote it?"}, {"role": "assistant", "content": "Jane Austen."}]},
]


def task(model: Path, folder: Path, last: int = 4, against: Path | None = None, **more: Any) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    samples = folder / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    settings = {"first": 0, "last": last, **({"against": str(against)} if against else {})}
    asked = {"samples": samples, "max_length": 64, **more}
    return Task("llama-cpp-python", settings, model.parent, folder, (model.name,), **asked)


def run(asked: Task) -> list[dict[str, Any]]:
    done = fidelity.run(asked, lambda _: None)
    assert done.facts == {"units": len(TEXTS)}
    return [load_file(path) for path in sorted(asked.target.glob("0*.safetensors"))]


def test_the_probabilities_are_llama_cpps(models: dict[str, Path], tmp_path: Path) -> None:
    """As the package's own class computes them, whose way through the library is another; and it says nothing."""
    from llama_cpp import Llama

    before = run(task(models["F16"], tmp_path / "before"))
    after = run(task(models["Q8_0"], tmp_path / "after", against=tmp_path / "before"))
    for name, key in (("F16", "loss_baseline"), ("Q8_0", "loss_candidate")):
        model = Llama(str(models[name]), n_ctx=64, n_batch=64, logits_all=True, verbose=False)
        for trace, found in zip(before, after, strict=True):
            tokens = trace["tokens"].tolist()
            model.reset()
            model.eval(tokens)
            logits = model.scores[: len(tokens) - 1].astype(np.float64)
            shifted = logits - logits.max(axis=1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            expected = -logs[np.arange(len(tokens) - 1), tokens[1:]]
            assert found[key].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3)
        model.close()


def test_a_passage_does_not_depend_on_those_before(models: dict[str, Path], tmp_path: Path) -> None:
    """So that a run which goes on after a kill leaves what one without it does."""
    whole = run(task(models["F16"], tmp_path / "whole"))
    for at in (0, 2):
        passage(tmp_path / "whole", at).unlink()
    again = run(task(models["F16"], tmp_path / "whole"))
    assert all(one["logits"].equal(other["logits"]) for one, other in zip(whole, again, strict=True))
    assert whole[0]["logits"].shape == (len(whole[0]["tokens"]), VOCABULARY)


def test_tokens_are_those_of_transformers(
    models: dict[str, Path], safetensors_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of texts and of messages, by the chat template. What a text has of special words is text to llama.cpp alone."""
    asked = task(models["F16"], tmp_path)
    capfd.readouterr()
    backend = llama.Backend(asked, lambda _: None)
    expected = token_rows(asked, tokenizer_of(safetensors_model), lambda _: None)
    for at in (0, 1, 3):
        assert list(backend.rows[at]) == expected[at]
    assert backend.rows[2] != expected[2]
    for at in (0, 1, 2):
        assert "".join(backend.pieces(backend.rows[at])).replace("�", "") in TEXTS[at]["text"]
    assert "".join(backend.pieces(backend.rows[3])).startswith("<|im_start|>system\n")
    backend.load()
    backend.predict(backend.rows[0])
    assert capfd.readouterr() == ("", "")


def test_room_for_the_traces(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the baseline, and of what is not there yet."""
    sizes: list[int] = []
    monkeypatch.setattr(llama, "require_free", lambda _, size, hint: sizes.append(size))
    made = run(task(models["F16"], tmp_path / "before", last=2))
    run(task(models["F16"], tmp_path / "before", last=3))
    run(task(models["F16"], tmp_path / "after", last=2, against=tmp_path / "before"))
    third = load_file(passage(tmp_path / "before", 2))
    assert sizes == [
        4 * VOCABULARY * sum(len(trace["tokens"]) for trace in made),
        4 * VOCABULARY * len(third["tokens"]),
    ]


def test_what_cannot_be(models: dict[str, Path], tmp_path: Path) -> None:
    data = next(gguf().glob("*.gguf")).read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data.replace(b"llama", b"lxxma", 1))
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load this model") as caught:
        run(task(broken, tmp_path / "made"))
    assert "unknown model architecture: 'lxxma'" in str(caught.value.found)
    with pytest.raises(UsageError, match="on the CPU alone"):
        run(task(models["Q8_0"], tmp_path / "made", device="cuda"))
