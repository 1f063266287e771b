"""Evaluation of ONNX embedding models: cosines of vectors, and which models have none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from formats.checkpoint import Checkpoint
from packer.sources import parse_source
from recipes.calibration import Samples, read_samples
from recipes.engines.onnx import run as quantize
from recipes.evaluation.engines.embeddings import POOLING, cosine, pooled, pooling_of, run
from recipes.evaluation.engines.fidelity import passage
from recipes.evaluation.evaluate import Evaluated, Evaluation, evaluate
from recipes.evaluation.intervals import LEAST
from recipes.evaluation.scorecard import Gate, Verdict
from recipes.evaluation.suite import find_suite
from recipes.quantize import Workplace
from recipes.recipe import find_recipe
from recipes.task import Task
from registry.errors import ModelError, UsageError
from tests.parts.models import CACHE, gguf

REAL = CACHE / "real" / "minilm"
WORDS, IN, OUT = "words", "intermediate", "output"
PASSAGES, WINDOW = LEAST + 8, 48

Weights = dict[str, Any]


# ---- models


@pytest.fixture(scope="module")
def weights() -> Weights:
    """The words of all-MiniLM-L6-v2 and what its first layer computes of each: the way that has no attention."""
    with safe_open(REAL / "model.safetensors", framework="numpy") as file:
        layer = "encoder.layer.0"
        return {
            WORDS: file.get_tensor("embeddings.word_embeddings.weight"),
            IN: file.get_tensor(f"{layer}.intermediate.dense.weight").T.copy(),
            OUT: file.get_tensor(f"{layer}.output.dense.weight").T.copy(),
        }


def write(folder: Path, weights: Weights, extra: tuple[Any, ...] = (), outputs: tuple[str, ...] = ("tokens",)) -> Path:
    """A folder with a model: `tokens` are the words, and what the layer adds to them. `extra` are more nodes."""
    nodes = [
        helper.make_node("Gather", [WORDS, "input_ids"], ["looked up"]),
        helper.make_node("MatMul", ["looked up", IN], ["wide"]),
        helper.make_node("Relu", ["wide"], ["bent"]),
        helper.make_node("MatMul", ["bent", OUT], ["added"]),
        helper.make_node("Add", ["looked up", "added"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        *extra,
    ]
    width = weights[OUT].shape[1]
    shapes: dict[str, list[str | int]] = {"mask": ["batch", "sequence"], "pooler": ["batch", width]}
    shapes |= {name: ["batch", "sequence", width] for name in ("tokens", "logits", "other")}
    shapes["sentence_embedding"] = ["batch", width]
    graph = helper.make_graph(
        nodes,
        "minilm",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "model.onnx"))
    shutil.copy(REAL / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def model(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "model", weights)


@pytest.fixture(scope="module")
def small(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with vectors of 32 numbers, for what needs no real ones."""
    return write(tmp_path_factory.mktemp("small") / "model", narrow(weights, 32))


def narrow(weights: Weights, width: int) -> Weights:
    return {WORDS: weights[WORDS][:, :width], IN: weights[IN][:width], OUT: weights[OUT][:, :width]}


def candidate(folder: Path, like: Path, **changed: Any) -> Path:
    """The same model but for some weights."""
    shutil.copytree(like, folder)
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    onnx.save(model, folder / "model.onnx")
    return folder


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(parse_source(str(folder)).fetch())


# ---- the stage


def how(folder: Path) -> Evaluation:
    suite = replace(find_suite("fidelity", Path()), window=WINDOW, passages=PASSAGES)
    place = Workplace(folder, dict(os.environ), lambda file: file.blob.descriptor.digest)
    return Evaluation(suite, Gate(retain=0.9), place, texts(PASSAGES), device="cpu")


def texts(count: int) -> Samples:
    return read_samples(find_suite("fidelity", Path()).data, count, 0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where results are kept: the baseline is measured once for all tests."""
    return tmp_path_factory.mktemp("cache")


def judged(baseline: Path, candidate: Path, cache: Path) -> Evaluated:
    return evaluate(checkpoint(baseline), checkpoint(candidate), how(cache))


def test_the_model_itself_is_retained(model: Path, cache: Path) -> None:
    scorecard = judged(model, model, cache).scorecard
    (metric,) = scorecard.metrics
    assert (scorecard.verdict, metric.name, metric.is_gated) == (Verdict.RETAINED, "cosine", True)
    assert (metric.candidate, metric.retention.low, metric.retention.high) == (1.0, 1.0, 1.0)
    assert scorecard.divergence is None
    assert (scorecard.samples.unit, scorecard.samples.used) == ("passages", LEAST)
    assert scorecard.circumstances.backend == "onnxruntime embeddings"


def test_eight_bits_are_retained(model: Path, cache: Path, tmp_path: Path) -> None:
    """What it says is what its vectors say, computed here without it."""
    made = tmp_path / "int8"
    settings = find_recipe("onnx-int8-dynamic").settings
    quantize(Task("onnxruntime", settings, model, made, ("model.onnx",)), lambda _: None)
    shutil.copy(model / "tokenizer.json", made)
    evaluated = judged(model, made, cache)
    (metric,) = evaluated.scorecard.metrics
    assert evaluated.scorecard.verdict is Verdict.RETAINED
    assert 0.95 < metric.candidate < 0.99999
    assert 0.9 < metric.retention.low < metric.retention.estimate == pytest.approx(metric.candidate)
    assert metric.candidate == pytest.approx(mean_cosine(model, made, evaluated.scorecard.samples.used), abs=1e-6)
    assert "cosine" in evaluated.report


def mean_cosine(one: Path, other: Path, count: int) -> float:
    """Of the means of the tokens of both models, by onnxruntime alone."""
    import onnxruntime

    tokenizer = Tokenizer.from_file(str(one / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(WINDOW)
    sessions = [
        onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        for folder in (one, other)
    ]
    found = []
    for row in texts(PASSAGES).rows[:count]:
        ids = np.array([tokenizer.encode(row["text"]).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        before, after = (session.run(["tokens"], feed)[0][0].mean(0).astype(np.float64) for session in sessions)
        found.append(before @ after / np.linalg.norm(before) / np.linalg.norm(after))
    return float(np.mean(found))


def test_damage_is_lost(model: Path, weights: Weights, cache: Path, tmp_path: Path) -> None:
    """The columns of a weight in another order; and numbers that are none, which are counted, not skipped."""
    order = np.random.default_rng(0).permutation(weights[OUT].shape[1])
    shuffled = candidate(tmp_path / "shuffled", model, output=weights[OUT][:, order])
    scorecard = judged(model, shuffled, cache).scorecard
    assert scorecard.verdict is Verdict.LOST
    assert scorecard.metrics[0].retention.high < 0.9 and not scorecard.failures
    broken = candidate(tmp_path / "broken", model, output=np.full_like(weights[OUT], np.nan))
    scorecard = judged(model, broken, cache).scorecard
    assert scorecard.verdict is Verdict.LOST
    assert scorecard.failures == ("the candidate computes numbers that are none (NaN or Inf): 1 of 1 passages",)


def test_the_baseline_is_measured_once(model: Path, cache: Path) -> None:
    """It is known how many files all tests before have left of it: no more than one evaluation needs."""
    judged(model, model, cache)
    baselines = [folder for folder in cache.iterdir() if "vector" in load_file(passage(folder, 0))]
    assert len(baselines) == 1
    assert len([*baselines[0].glob("0*.safetensors")]) == LEAST


# ---- runs


def samples(folder: Path, *rows: Mapping[str, Any]) -> Path:
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "samples.jsonl"


TEXTS = ({"text": "A man is eating food."}, {"text": "The girl is carrying a baby, and laughs."})


def measured(model: Path, target: Path, against: Path | None = None, rows: Any = TEXTS, **more: Any) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    settings = {"first": 0, "last": 99, **({"against": str(against)} if against else {})}
    files = tuple(path.name for path in model.glob("model.onnx*"))
    asked = {"samples": samples(target, *rows), "max_length": 32, **more}
    done = run(Task("onnxruntime embeddings", settings, model, target, files, **asked), lambda _: None)
    assert done.facts == {"units": len(rows)}
    return target


def vector(folder: Path, at: int = 0) -> Any:
    return load_file(passage(folder, at))["vector"]


def failure(folder: Path, at: int = 0) -> str:
    with safe_open(passage(folder, at), framework="numpy") as file:
        return str((file.metadata() or {})["failure"])


def test_what_a_run_leaves(small: Path, weights: Weights, tmp_path: Path) -> None:
    """The mean of the tokens, in the direction that numpy finds too; and what is whole is not made again."""
    made = measured(small, tmp_path / "made")
    tokens = load_file(passage(made, 0))["tokens"]
    assert tokens.tolist() == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    narrowed = {name: value.astype(np.float64) for name, value in narrow(weights, 32).items()}
    words = narrowed[WORDS][tokens]
    expected = (words + np.maximum(words @ narrowed[IN], 0) @ narrowed[OUT]).mean(0)
    assert vector(made).dtype == np.float64
    assert vector(made) == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert not np.allclose(vector(made, 1), vector(made), atol=0.1)
    before = passage(made, 1).stat().st_mtime_ns
    passage(made, 0).unlink()
    measured(small, made)
    assert passage(made, 0).exists() and passage(made, 1).stat().st_mtime_ns == before
    again = measured(small, tmp_path / "again", against=made)
    assert [load_file(passage(again, at))["cosine"].tolist() for at in (0, 1)] == [[1.0], [1.0]]


def test_pooling_as_the_model_says(small: Path, tmp_path: Path) -> None:
    mean = vector(measured(small, tmp_path / "mean"))
    model = tmp_path / "model"
    shutil.copytree(small, model)
    (model / POOLING).parent.mkdir()
    (model / POOLING).write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    first = vector(measured(model, tmp_path / "first"))
    other = vector(measured(model, tmp_path / "other"), 1)
    assert first == pytest.approx(vector(tmp_path / "other")) and first == pytest.approx(
        other
    )  # [CLS] is no text's own
    assert abs(cosine(mean, first)[0]) < 0.9
    (model / POOLING).write_text(json.dumps({"pooling_mode": "weightedmean"}))
    with pytest.raises(UsageError, match="put together in another way"):
        measured(model, tmp_path / "none")


@pytest.mark.parametrize(
    ("said", "modes"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, ("cls", "mean")),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "cls", "embedding_dimension": 384}, ("cls",)),
        ({}, ("mean",)),
    ],
)
def test_words_of_pooling(said: dict[str, Any], modes: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / POOLING).parent.mkdir()
    (tmp_path / POOLING).write_text(json.dumps(said))
    assert pooling_of(tmp_path) == modes


def test_only_tokens_that_the_mask_keeps() -> None:
    tokens, mask = np.array([[1.0, 2], [3, 4], [100, 100]]), np.array([1, 1, 0])
    assert pooled(tokens, mask, ("mean",)).tolist() == [2, 3]
    assert pooled(tokens, mask, ("cls", "mean")).tolist() == [1, 2, 2, 3]


def test_which_output(weights: Weights, tmp_path: Path) -> None:
    """The one that a model calls the embedding, else a vector for each token, else one vector."""
    few = narrow(weights, 32)
    twice = helper.make_node("Mul", ["tokens", "tokens"], ["other"])
    least = helper.make_node("ReduceMin", ["tokens"], ["pooler"], axes=[1], keepdims=0)
    most = helper.make_node("ReduceMax", ["tokens"], ["sentence_embedding"], axes=[1], keepdims=0)
    nodes = (twice, least, most)
    among_others = ("pooler", "mask", "tokens", "other")
    made = {
        name: vector(measured(write(tmp_path / name, few, nodes, outputs), tmp_path / f"{name} made"))
        for name, outputs in {
            "plain": ("tokens",),
            "first": among_others,
            "named": ("tokens", "sentence_embedding"),
            "only": ("pooler",),
        }.items()
    }
    tokens = tokens_of(tmp_path / "plain")
    assert made["plain"] == pytest.approx(unit(tokens.mean(0)), abs=1e-6)
    assert made["first"] == pytest.approx(made["plain"], abs=1e-6)
    assert made["named"] == pytest.approx(unit(tokens.max(0)), abs=1e-6)
    assert made["only"] == pytest.approx(unit(tokens.min(0)), abs=1e-6)


def tokens_of(model: Path) -> Any:
    """What onnxruntime itself makes of the first text."""
    import onnxruntime

    ids = np.array([Tokenizer.from_file(str(model / "tokenizer.json")).encode(TEXTS[0]["text"]).ids])
    feed = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    made = session.run(["tokens"], feed)[0][0]
    return made[ids[0] > 0].astype(np.float64)


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def test_what_cannot_be_compared(small: Path, weights: Weights, tmp_path: Path) -> None:
    before = measured(small, tmp_path / "before")
    narrower = write(tmp_path / "narrower", narrow(weights, 16))
    made = measured(narrower, tmp_path / "1", against=before)
    assert failure(made) == "the candidate's vectors have 16 numbers, not 32"
    other = tmp_path / "other"
    shutil.copytree(small, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    made = measured(other, tmp_path / "2", against=before)
    assert failure(made) == "the candidate splits a text into other tokens than the baseline"


def test_a_baseline_of_no_numbers(small: Path, weights: Weights, tmp_path: Path) -> None:
    broken = candidate(tmp_path / "broken", small, output=np.full_like(narrow(weights, 32)[OUT], np.nan))
    with pytest.raises(ModelError, match="the baseline computes numbers that are none"):
        measured(broken, tmp_path / "made")
    made = measured(broken, tmp_path / "after", against=measured(small, tmp_path / "before"))
    assert np.isnan(load_file(passage(made, 0))["cosine"]).all()


def test_external_data_behind_links(small: Path, tmp_path: Path) -> None:
    """As a model of parts from different places is laid out; onnxruntime by itself refuses it."""
    import onnxruntime

    folder = tmp_path / "model"
    for name in ("graph", "data", "model"):
        (tmp_path / name).mkdir()
    onnx.save_model(
        onnx.load(small / "model.onnx"),
        str(tmp_path / "graph/model.onnx"),
        save_as_external_data=True,
        location="model.onnx_data",
    )
    (tmp_path / "graph/model.onnx_data").rename(tmp_path / "data/it")
    (folder / "model.onnx").symlink_to(tmp_path / "graph/model.onnx")
    (folder / "model.onnx_data").symlink_to(tmp_path / "data/it")
    shutil.copy(small / "tokenizer.json", folder)
    with pytest.raises(Exception, match="External data path"):
        onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    made = measured(folder, tmp_path / "made")
    assert vector(made) == pytest.approx(vector(measured(small, tmp_path / "whole")))
    assert sorted(path.name for path in made.iterdir()) == ["000000.safetensors", "000001.safetensors", "samples.jsonl"]


def test_a_gpu_that_this_onnxruntime_does_not_know(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on the CPU alone"):
        measured(small, tmp_path / "made", device="cuda")


# ---- what is refused before anything runs


def refused(model: Path, baseline: Path, folder: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        evaluate(checkpoint(baseline), checkpoint(model), how(folder))
    assert not folder.exists()
    return caught.value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("silero-vad/silero_vad.onnx", "it takes other things than text (input: FLOAT["),
        ("rapidocr/PP-OCRv6_rec_small.onnx", "it takes other things than text (x: FLOAT["),
        ("magika/model.onnx", "it takes other things than text (bytes: INT32["),
    ],
)
def test_models_that_take_no_text(name: str, said: str, small: Path, tmp_path: Path) -> None:
    for pair in ((small, CACHE / "real" / name), (CACHE / "real" / name, small)):
        error = refused(*pair, tmp_path / "cache")
        assert error.what == "nothing here runs this model" and str(error.found).startswith(said)


def test_models_that_make_no_vectors(small: Path, weights: Weights, tmp_path: Path) -> None:
    few = narrow(weights, 32)
    logits = write(tmp_path / "logits", few, (helper.make_node("Identity", ["tokens"], ["logits"]),), ("logits",))
    assert refused(logits, small, tmp_path / "cache").found == "it answers with logits, and not with a vector"
    silent = tmp_path / "silent"
    shutil.copytree(small, silent)
    (silent / "tokenizer.json").unlink()
    assert refused(silent, small, tmp_path / "cache").found == "there is no tokenizer.json"
    several = tmp_path / "several"
    shutil.copytree(small, several)
    shutil.copy(small / "model.onnx", several / "quantized.onnx")
    error = refused(several, small, tmp_path / "cache")
    assert (error.what, error.found) == ("which of these models is meant?", "model.onnx, quantized.onnx")


def test_gguf_without_llama(small: Path, tmp_path: Path) -> None:
    """llama-cpp-python is no part of what the tests install: it takes minutes to build."""
    error = refused(gguf(), gguf(), tmp_path / "cache")
    assert (error.what, error.found) == ("llama-cpp-python is not here", "no package llama_cpp_python")
    assert error.hint == "pip install 'packer[evaluate,llama]'"
    assert refused(gguf(), small, tmp_path / "cache").what == "these two models cannot be compared like this"
