"""By what two models are run to be compared: told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from formats.checkpoint import Checkpoint
from formats.examine import graphs_of
from formats.index import SHARD
from recipes.engines.onnx_samples import TOKENIZER
from recipes.evaluation.engines.embeddings import refusal
from recipes.evaluation.suite import Kind, Suite
from recipes.fit import generates, model_config
from recipes.recipe import Engine
from recipes.versions import installed
from registry.errors import UsageError


@dataclass(frozen=True)
class Backend:
    """`engine` is what the child is asked for, `reads` the engine whose weight files it reads."""

    engine: str
    reads: Engine
    packages: tuple[str, ...]
    extra: str

    def versions(self) -> dict[str, str]:
        """Its libraries' versions; `UsageError` if they are not installed."""
        return installed(self.packages, self.engine, f"pip install 'packer[{self.extra}]'")


_TORCH = ("torch", "transformers", "tokenizers", "compressed-tensors", "safetensors")
TRANSFORMERS = Backend("transformers", Engine.LLMCOMPRESSOR, _TORCH, "evaluate")
LLAMA = Backend("llama-cpp-python", Engine.LLAMA, ("llama_cpp_python", "torch", "safetensors"), "evaluate,llama")
EMBEDDINGS = Backend(
    "onnxruntime embeddings", Engine.ONNXRUNTIME, ("onnxruntime", "onnx", "tokenizers", "safetensors"), "evaluate,onnx"
)
LM_EVAL = Backend("lm-eval", Engine.LLMCOMPRESSOR, ("lm_eval", *_TORCH), "evaluate")

_OF_FORMAT = {"safetensors": TRANSFORMERS, "gguf": LLAMA, "onnx": EMBEDDINGS}


def backend_of(baseline: Checkpoint, candidate: Checkpoint, suite: Suite, endpoint: str) -> Backend:
    """What runs both; `UsageError` where nothing can."""
    parts = ("the baseline", baseline), ("the candidate", candidate)
    for part, model in parts:
        _require_whole(part, model)
    if endpoint and suite.kind is Kind.FIDELITY:
        raise UsageError(
            "an endpoint answers tasks; it does not tell the probabilities of all tokens",
            found=f"the suite {suite.name} with --endpoint",
            hint="--suite capitals, or a suite with tasks of your own",
        )
    if suite.kind is Kind.TASKS:
        for part, model in parts[:1] if endpoint else parts:
            hint = "tasks are run by transformers; a server's answers count with --endpoint URL"
            _require(part, model, "safetensors", hint)
            _require_generates(part, model)
        return LM_EVAL
    backend = _OF_FORMAT.get(candidate.card.format)
    if not backend:
        raise UsageError(
            "nothing here runs this model",
            subject="the candidate",
            expected=", ".join(_OF_FORMAT),
            found=candidate.card.format or "no weights",
        )
    _require("the baseline", baseline, candidate.card.format, "take the original in the format of the candidate")
    for part, model in parts:
        _REQUIRED[backend.engine](part, model)
    return backend


def _named(part: str, model: Checkpoint) -> str:
    """Which of the two models, and what it is called if it says it."""
    return f"{part}, {model.card.name}" if model.card.name else part


def _require(part: str, model: Checkpoint, form: str, hint: str) -> None:
    if model.card.format != form:
        raise UsageError(
            "these two models cannot be compared like this",
            subject=_named(part, model),
            expected=form,
            found=model.card.format or "no weights",
            hint=hint,
        )


def _require_whole(part: str, model: Checkpoint) -> None:
    if model.card.adapts:
        hint = "merge it into its base first"
        raise UsageError("an adapter says nothing by itself", subject=_named(part, model), hint=hint)


def _require_generates(part: str, model: Checkpoint) -> None:
    if not model_config(model):
        raise UsageError("there is no config.json, without which nothing loads it", subject=_named(part, model))
    if why := generates(model):
        raise _unfit(part, model, why)


def _require_predicts(part: str, model: Checkpoint) -> None:
    """Of GGUF: one model, which goes on with text."""
    files = [(file, weights) for file, weights in model.read.items() if file.suffix == ".gguf"]
    shards = {(found[1], found[3]) if (found := SHARD.fullmatch(file.name)) else file.name for file, _ in files}
    _require_one(part, model, len(shards), [file.name for file, _ in files])
    metadata = min(files, key=lambda each: each[0].name)[1].metadata
    if metadata.get(f"{model.card.architecture}.attention.causal") is False or model.card.architecture == "t5":
        raise _unfit(part, model, f"{model.card.architecture} does not go on with text")


def _require_embeds(part: str, model: Checkpoint) -> None:
    """Of ONNX: one model, which makes vectors of text."""
    graphs = graphs_of(model.read)
    _require_one(part, model, len(graphs), [*graphs])
    ((name, graph),) = graphs.items()
    if why := refusal(graph["inputs"], graph["outputs"]):
        raise _unfit(part, model, why)
    beside = str(PurePosixPath(name).parent / TOKENIZER)
    if not (model.snapshot.get(beside) or model.snapshot.get(TOKENIZER)):
        raise _unfit(part, model, f"there is no {TOKENIZER}")


def _require_one(part: str, model: Checkpoint, count: int, names: list[str]) -> None:
    if count != 1:
        raise UsageError(
            "which of these models is meant?",
            subject=_named(part, model),
            expected="one model",
            found=", ".join(names),
            hint="keep one alone in its folder; a build takes one with --include",
        )


def _unfit(part: str, model: Checkpoint, why: str) -> UsageError:
    hint = "evaluate it outside, and build without --evaluate"
    return UsageError("nothing here runs this model", subject=_named(part, model), found=why, hint=hint)


_REQUIRED = {
    TRANSFORMERS.engine: _require_generates,
    LLAMA.engine: _require_predicts,
    EMBEDDINGS.engine: _require_embeds,
}
